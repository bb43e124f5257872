"""The build stage of the service image, step by step, in a folder instead of a container.

The Dockerfile's own COPY and RUN lines are executed with its absolute paths moved below a temporary
folder, so what they install, from which files, and with which options is tested although no
container engine is needed. What this leaves out: the base image, users and permissions.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "service.Dockerfile"
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))
# Absolute paths of the build stage; the longer ones first.
PLACES = ("/opt/setpoint", "/opt/build", "/wheels")

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(600)]


def build_steps() -> list[tuple[str, str]]:
    """Reads the instructions of the stage `build`, continuation lines joined."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    stage = re.search(r"^FROM \S+ AS build$(.*?)^FROM ", text, flags=re.MULTILINE | re.DOTALL)
    assert stage is not None
    lines = (line.strip() for line in stage.group(1).splitlines())
    steps = [line for line in lines if line and not line.startswith("#")]
    return [(step.split(" ", 1)[0], step.split(" ", 1)[1]) for step in steps]


def ignored(folder: str, names: list[str]) -> set[str]:
    """Leaves out what the ignore file beside the Dockerfile does, below its allowed folders."""
    patterns = (DOCKERFILE.parent / f"{DOCKERFILE.name}.dockerignore").read_text().splitlines()
    globs = [line.removeprefix("**/") for line in patterns if line.startswith("**/")]
    return shutil.ignore_patterns(*globs)(folder, names)


def copy(source: Path, target: Path) -> None:
    """Copies as COPY does: a folder's content, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
        return
    destination = target / source.name if target.suffix == "" else target
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def run(command: str, folder: Path, service: str) -> None:
    """Runs a shell command of the build with its places moved and nothing of this environment."""
    for place in PLACES:
        command = command.replace(place, f"{folder}{place}")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    path = f"{folder / 'bin'}{os.pathsep}{kept['PATH']}"
    finished = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder / "source",
        env={**kept, "PATH": path, "SERVICE": service},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"


def build(folder: Path, service: str) -> Path:
    """Executes the build stage and returns the environment that the image would get."""
    (folder / "source").mkdir()
    (folder / "bin").mkdir()
    # The image's `python`; the one of this environment, outside of it.
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    for instruction, arguments in build_steps():
        arguments = arguments.replace("${SERVICE}", service)
        if instruction == "COPY":
            source, target = arguments.split()
            copy(ROOT / source, folder / "source" / target)
        elif instruction == "RUN":
            run(arguments, folder, service)
        else:
            assert instruction in {"WORKDIR", "ARG"}, instruction
    return folder / "opt" / "setpoint"


@pytest.mark.parametrize("service", SERVICES)
def test_build_service(service: str, tmp_path: Path) -> None:
    """Each service's environment is built from the hashed files alone and can start its service."""
    environment = build(tmp_path, service)
    listed = subprocess.run(
        [str(environment / "bin" / "python"), "-m", f"setpoint_{service}"],
        env={f"SETPOINT_{service.upper()}_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # It gets as far as refusing to listen beyond loopback, which takes every import and its settings.
    assert listed.returncode != 0
    assert "ALLOW_INSECURE_REMOTE" in listed.stdout + listed.stderr
