"""The image of a service, as far as it can be checked without building it."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from deploy.docker import compile_requirements
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.deploy import services

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = DOCKER / "service.Dockerfile"
REQUIREMENTS = DOCKER / "requirements"
HADOLINT = Path(sys.executable).with_name("hadolint")

Entry = tuple[Requirement, frozenset[str]]


def read_requirements(path: Path) -> dict[str, list[Entry]]:
    """Reads a hashed requirements file: per package its lines (one per marker) with their hashes."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    entries: dict[str, list[Entry]] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pinned, *hashes = line.split("--hash=")
        requirement = Requirement(pinned.strip())
        found = frozenset(each.strip() for each in hashes)
        entries.setdefault(canonicalize_name(requirement.name), []).append((requirement, found))
    return entries


def environment(extra: str) -> dict[str, str]:
    return {**{key: str(value) for key, value in default_environment().items()}, "extra": extra}


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Says whether a requirement holds on this machine, for any of the extras or without."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate(environment(extra)) for extra in extras | {""})


def needed_here(service: str) -> set[str]:
    """Walks the installed packages from what a service's members name, on this machine."""
    members = compile_requirements.workspace()
    pending: list[tuple[str, frozenset[str]]] = [(f"setpoint-{service}", frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name in members:
            found = compile_requirements.dependencies(members[name], extras)
        else:
            found = [Requirement(line) for line in metadata.requires(name) or []]
        pending += [
            (canonicalize_name(each.name), frozenset(each.extras))
            for each in found
            if applies(each, extras)
        ]
    return {name for name, _ in seen if name not in members}


def test_lint_dockerfile() -> None:
    """Hadolint has nothing to say."""
    finished = subprocess.run(
        [str(HADOLINT), "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_notice_bad_dockerfile(tmp_path: Path) -> None:
    """The linter would say something: of an image without a tag, for one."""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\n", encoding="utf-8")
    finished = subprocess.run(
        [str(HADOLINT), str(bad)], capture_output=True, text=True, check=False
    )
    assert finished.returncode != 0
    assert "DL3006" in finished.stdout


def test_end_without_root() -> None:
    """Each stage that runs a service ends as a numbered user, and the default stage is one of them."""
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    users = {}
    for stage in stages:
        name = re.match(r"\S+ AS (\S+)", stage)
        assert name is not None
        users[name.group(1)] = re.findall(r"^USER (\S+)", stage, flags=re.MULTILINE)
    assert users["service"][-1] == "10001:10001"
    assert users["dev"][-1] == "10001:10001"
    assert list(users)[-1] == "runtime"
    assert stages[-1].startswith("service AS runtime")


def test_install_hashed_alone() -> None:
    """Every pip installation is of hashed packages, or of the wheels just built from the members."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip[^&\n]* install [^&\n]*", text)
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-index" in re.sub(
            r"\s+", " ", command
        )
    assert "--no-deps --no-build-isolation" in text


def test_copy_existing_files() -> None:
    """What the build copies from the repository exists, for each service, and is not ignored."""
    ignore = (DOCKERFILE.parent / f"{DOCKERFILE.name}.dockerignore").read_text(encoding="utf-8")
    allowed = tuple(line[1:] for line in ignore.splitlines() if line.startswith("!"))
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) ", DOCKERFILE.read_text(), re.MULTILINE)
    assert copies
    for service in services.names():
        for source in copies:
            path = source.replace("${SERVICE}", service)
            assert (ROOT / path).exists(), path
            assert path.startswith(allowed)


def test_name_no_address() -> None:
    """Neither the Dockerfile nor what it installs from names an index or a host of packages."""
    for path in [DOCKERFILE, *sorted(REQUIREMENTS.glob("*.txt"))]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|file:", text), path


def test_require_python_of_workspace() -> None:
    """The image's Python is one that every member accepts."""
    version = re.search(
        r"^ARG PYTHON_IMAGE=python:(\d+)\.(\d+)-slim$", DOCKERFILE.read_text(), re.M
    )
    assert version is not None
    assert (int(version.group(1)), int(version.group(2))) >= (3, 11)


def test_write_file_for_every_service() -> None:
    """Each service has its two files; there is no other beside those of the build."""
    expected = {f"{name}{end}" for name in services.names() for end in (".txt", ".members.txt")}
    assert {path.name for path in REQUIREMENTS.glob("*.txt")} == expected | {"build.txt"}


@pytest.mark.parametrize("name", [*services.names(), "build"])
def test_take_entries_from_lock(name: str) -> None:
    """Each package is in the lock, at the same version and with the same hashes."""
    locked = read_requirements(ROOT / "requirements.txt")
    for package, entries in read_requirements(REQUIREMENTS / f"{name}.txt").items():
        for requirement, hashes in entries:
            assert hashes, f"{package} has no hash"
            same = [
                each
                for each, _ in locked.get(package, [])
                if each.specifier == requirement.specifier
            ]
            assert same, f"{requirement} is not in the lock"
            assert (hashes,) == tuple({found for each, found in locked[package] if each in same})


@pytest.mark.parametrize("service", services.names())
def test_list_what_members_need(service: str) -> None:
    """The file holds what the service's members need, directly or not, and on this system no more."""
    listed = read_requirements(REQUIREMENTS / f"{service}.txt")
    here = {
        name
        for name, entries in listed.items()
        if any(applies(requirement, frozenset()) for requirement, _ in entries)
    }
    assert here == needed_here(service)


@pytest.mark.parametrize("service", services.names())
def test_list_members_in_order(service: str) -> None:
    """The committed list is the present one: each member after those it needs, the service last."""
    lines = (REQUIREMENTS / f"{service}.members.txt").read_text(encoding="utf-8").splitlines()
    committed = [line for line in lines if not line.startswith("#")]
    present = [f"./{each.relative_to(ROOT)}" for each in compile_requirements.members_of(service)]
    assert committed == present
    assert committed[-1] == f"./services/{service}"
    assert not any(line.startswith("./services/") for line in committed[:-1])


def test_order_members_by_dependencies() -> None:
    """A member never comes before one that it needs."""
    known = compile_requirements.workspace()
    for service in services.names():
        members = compile_requirements.members_of(service)
        for position, folder in enumerate(members):
            needed = {known.get(each.name) for each in compile_requirements.dependencies(folder)}
            assert (needed - {None}) <= set(members[:position])


def test_keep_training_out_of_router() -> None:
    """The router's image has no scikit-learn, and neither have the services that do not train."""
    for service in services.names():
        listed = read_requirements(REQUIREMENTS / f"{service}.txt")
        if service != "retraining":
            assert not {"scikit-learn", "skl2onnx"} & set(listed), service


def test_lock_build_backend() -> None:
    """The backend in the build's file is the one that the members' pyproject files name."""
    assert set(read_requirements(REQUIREMENTS / "build.txt")) >= {
        compile_requirements.BUILD_BACKEND
    }
    for folder in compile_requirements.workspace().values():
        parsed = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        assert parsed["build-system"]["requires"] == [compile_requirements.BUILD_BACKEND]


def wait_for(path: Path, previous: str = "") -> str:
    """Waits until a file holds something other than before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        content = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if content and content != previous:
            return content
        time.sleep(0.02)
    raise AssertionError(f"{path} did not change")


# Says that it runs, then waits for SIGTERM as a service does, or ends when told to.
SERVICE = """
import os, pathlib, signal, sys, time
state = pathlib.Path(os.environ["RELOAD_STATE"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(state / "running").write_text(f"{os.getpid()} {(state / 'code').read_text()}")
while not (state / "crash").exists():
    time.sleep(0.02)
sys.exit(3)
"""


@pytest.fixture
def reloaded(tmp_path: Path) -> Path:
    package = tmp_path / "setpoint_example"
    package.mkdir()
    (package / "__main__.py").write_text(SERVICE, encoding="utf-8")
    (tmp_path / "code").write_text("first", encoding="utf-8")
    return tmp_path


def reload_environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"SERVICE": "example", "RELOAD_STATE": str(folder), "PYTHONPATH": str(folder)}
    return {**os.environ, **given, "PATH": path}


def start_reload(folder: Path) -> subprocess.Popen[bytes]:
    command = [str(DOCKER / "reload.sh"), "run"]
    return subprocess.Popen(command, env=reload_environment(folder))


def restart(folder: Path) -> None:
    command = [str(DOCKER / "reload.sh"), "restart"]
    subprocess.run(command, env=reload_environment(folder), check=True)


def test_reload_runs_changed_code(reloaded: Path) -> None:
    """After a live update the service starts again in place; a stop of the container ends both."""
    process = start_reload(reloaded)
    try:
        first = wait_for(reloaded / "running")
        assert first.endswith(" first")
        (reloaded / "code").write_text("second", encoding="utf-8")
        restart(reloaded)
        assert wait_for(reloaded / "running", first).endswith(" second")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_reload_passes_crash_on(reloaded: Path) -> None:
    """A service that ends by itself ends the container with its own code, for Kubernetes to count."""
    process = start_reload(reloaded)
    try:
        wait_for(reloaded / "running")
        (reloaded / "crash").touch()
        assert process.wait(10) == 3
    finally:
        process.kill()
        process.wait()
