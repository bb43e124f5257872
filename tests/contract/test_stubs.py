"""The committed stubs are what the contracts generate, and form complete packages."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import workspace

SOURCES = {
    "setpoint": workspace.ROOT / "libs" / "protos" / "src",
    "setpoint_oip": workspace.ROOT / "libs" / "oip" / "src",
}
PROTO = workspace.ROOT / "proto"


def contracts() -> list[str]:
    """Lists the import path of every contract."""
    return sorted(
        ".".join(path.relative_to(PROTO).with_suffix("").parts) for path in PROTO.rglob("*.proto")
    )


def test_stubs_are_current() -> None:
    """Proves that regenerating would change nothing."""
    command = [sys.executable, "libs/protos/generate.py", "--check"]
    finished = subprocess.run(
        command, cwd=workspace.ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("contract", contracts())
def test_stub_imports_under_its_contract_name(contract: str) -> None:
    """Proves that a contract's path is its import path and that its types are declared."""
    module = importlib.import_module(f"{contract}_pb2")
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(SOURCES[contract.split(".")[0]])
    assert Path(module.__file__).with_suffix(".pyi").is_file()


@pytest.mark.parametrize("package", SOURCES)
def test_stub_folders_are_typed_packages(package: str) -> None:
    """Proves that no folder of the stubs is half a namespace package."""
    source = SOURCES[package]
    folders = {path.parent for path in source.rglob("*_pb2.py")}
    packages = {
        folder
        for leaf in folders
        for folder in (leaf, *leaf.parents)
        if folder != source and folder.is_relative_to(source)
    }
    incomplete = {
        str(folder.relative_to(source))
        for folder in packages
        if not ((folder / "__init__.py").is_file() and (folder / "py.typed").is_file())
    }
    assert packages
    assert incomplete == set()
