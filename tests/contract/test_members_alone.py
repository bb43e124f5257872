"""Each member installs alone, with what it declares and nothing else, and imports.

The shared environment hides a forgotten dependency, because another member brings the package.
Here each member gets an environment of its own, kept below ``var/`` between runs and brought to
exactly what its wheel asks for, at the locked versions.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import workspace

MEMBERS = workspace.members()
ENVIRONMENTS = workspace.ROOT / "var" / "alone"

# Installing is disk and network, importing is one core: two at a time keep both busy.
WORKERS = 2

# Runs inside the member's own environment. Modules named __main__ start a program when imported,
# Alembic's scripts run inside of Alembic, and a module for an optional ecosystem may miss it.
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, re, sys
name, optional = sys.argv[1], set(sys.argv[2:])
package = importlib.import_module(name)
for module in pkgutil.walk_packages(package.__path__, name + "."):
    if module.name.endswith(".__main__") or ".migrations" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in optional:
            raise
for distribution in importlib.metadata.distributions():
    print(re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower())
"""


@dataclass(frozen=True)
class Wheels:
    """The wheels of all members, some of which may have failed to build."""

    folder: Path
    built: dict[str, Future[Path]]

    def address(self, name: str) -> str:
        """Returns the requirement that takes a member from its wheel, or raises its failure."""
        return f"{name} @ {self.built[name].result().as_uri()}\n"


def run(*command: str) -> str:
    """Runs a command, returns what it prints and fails with what it complains about."""
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ENVIRONMENTS
    )
    assert finished.returncode == 0, f"{command[0]}:\n{finished.stderr}"
    return finished.stdout


def uv(*arguments: str) -> str:
    """Runs uv without the workspace's settings, in which members are editable."""
    return run(sys.executable, "-m", "uv", "--no-config", *arguments)


def build(member: workspace.Member, folder: Path) -> Path:
    """Builds a member's wheel with the locked backend."""
    target = folder / member.name
    uv(
        *("build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable),
        *("--out-dir", str(target), str(member.folder)),
    )
    [wheel] = target.glob("*.whl")
    return wheel


def install_and_import(member: workspace.Member, wheels: Wheels) -> set[str]:
    """Installs a member alone, imports all of it and returns the distributions it came with."""
    needed = workspace.closure(member, MEMBERS)
    constraints = wheels.folder / f"{member.name}.constraints"
    own = "".join(wheels.address(one.name) for one in needed)
    constraints.write_text(workspace.LOCK.read_text(encoding="utf-8") + own, encoding="utf-8")
    wanted = wheels.folder / f"{member.name}.in"
    wanted.write_text(wheels.address(member.name), encoding="utf-8")
    exact = wheels.folder / f"{member.name}.txt"
    environment = ENVIRONMENTS / member.folder.name
    python = environment / "bin" / "python"
    if not python.exists():
        uv("venv", "--quiet", "--clear", "--python", sys.executable, str(environment))
    uv(
        *("pip", "compile", "--quiet", "--generate-hashes", "--python", str(python)),
        *("--constraints", str(constraints), "--output-file", str(exact), str(wanted)),
    )
    uv("pip", "sync", "--quiet", "--python", str(python), str(exact))
    optional = {
        workspace.requirement_name(entry).replace("-", "_")
        for one in needed
        for entry in one.optional_dependencies
    }
    return set(run(str(python), "-c", IMPORT_ALL, member.package, *sorted(optional)).split())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[set[str]]]]:
    """Starts every installation at once; each test waits for its own."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("wheels")
    with ThreadPoolExecutor(WORKERS) as builders, ThreadPoolExecutor(WORKERS) as installers:
        wheels = Wheels(folder, {one.name: builders.submit(build, one, folder) for one in MEMBERS})
        yield {one.name: installers.submit(install_and_import, one, wheels) for one in MEMBERS}
        installers.shutdown(cancel_futures=True)


# The first run on a machine downloads every package.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_member_installs_alone(
    member: workspace.Member, installed: dict[str, Future[set[str]]]
) -> None:
    """Proves that a member's declared dependencies suffice to import all of it."""
    own = {one.name for one in workspace.closure(member, MEMBERS)}
    found = {name for name in installed[member.name].result() if name.startswith("setpoint-")}
    assert found == own


@pytest.mark.timeout(600)
def test_router_installs_without_training(installed: dict[str, Future[set[str]]]) -> None:
    """Proves that the serving path carries no training library and no database of models."""
    heavy = {"scikit-learn", "scipy", "skl2onnx", "onnx", "onnxruntime", "pandas"}
    assert installed["setpoint-router"].result() & heavy == set()


@pytest.mark.timeout(600)
def test_protos_install_with_grpc_and_protobuf_alone(
    installed: dict[str, Future[set[str]]],
) -> None:
    """Proves that another team pays for the stubs with two packages and what grpcio itself needs."""
    found = installed["setpoint-protos"].result()
    assert found == {"setpoint-protos", "grpcio", "protobuf", "typing-extensions"}
