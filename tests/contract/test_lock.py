"""The lock covers every member, and names nothing but packages, versions and hashes."""

import re
from pathlib import Path

import pytest

import workspace

IMAGES = workspace.ROOT / "deploy" / "docker" / "requirements"
LOCKS = [
    *(workspace.LOCK, workspace.CODEGEN_LOCK),
    *(path for path in sorted(IMAGES.glob("*.txt")) if ".members" not in path.name),
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_names_no_address(lock: Path) -> None:
    """Proves that the lock installs from wherever the machine gets its packages."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    suspicious = re.compile(r"://|^-|^/|--(extra-)?index-url|--find-links| @ ")
    assert [line for line in lines if suspicious.search(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_pins_every_package_with_hashes(lock: Path) -> None:
    """Proves that nothing installs whose content was not seen when the lock was made."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert entries
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("member", workspace.members(), ids=lambda member: member.name)
def test_lock_covers_member(member: workspace.Member) -> None:
    """Proves that each dependency of a member is locked or is a member itself."""
    known = set(workspace.locked_versions()) | {one.name for one in workspace.members()}
    missing = {workspace.requirement_name(entry) for entry in member.dependencies} - known
    assert missing == set(), f"run make lock: {member.name} needs {sorted(missing)}"


def test_lock_holds_grpc_back() -> None:
    """Proves that grpcio stays below the release that no longer cancels dropped streams."""
    versions = workspace.locked_versions()
    family = [name for name in versions if name.startswith("grpcio")]
    releases = {name: tuple(map(int, versions[name].split(".")[:2])) for name in family}
    assert len(family) >= 4
    assert {name for name, release in releases.items() if release >= (1, 83)} == set()


def test_stubs_are_older_than_the_runtime() -> None:
    """Proves that the floors of setpoint-protos are what the stubs were generated with."""
    codegen = workspace.locked_versions(workspace.CODEGEN_LOCK)
    protos = next(one for one in workspace.members() if one.name == "setpoint-protos")
    sample = protos.folder / "src" / "setpoint" / "common" / "v1" / "column_pb2.py"
    written_by = re.search(r"Protobuf Python Version: (\S+)", sample.read_text(encoding="utf-8"))
    assert written_by is not None
    assert f"protobuf>={written_by.group(1)},<8" in protos.dependencies
    assert codegen["grpcio-tools"].startswith("1.74.")
    assert "grpcio>=1.74" in protos.dependencies
