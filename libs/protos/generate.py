"""Writes the Python stubs of every contract below ``proto/``.

The proto path is the import path, so protoc's output is used as it comes. Everything is
generated in a scratch folder first and then mirrored, so that a failure leaves the old stubs
alone, nothing stale survives, and unchanged files keep their time stamps.
"""

from __future__ import annotations

import argparse
import fcntl
import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMBER = Path(__file__).resolve().parent
ROOT = MEMBER.parent.parent
PROTO = ROOT / "proto"
REQUIREMENTS = MEMBER / "codegen.txt"
ENVIRONMENT = ROOT / "var" / "codegen"
TREES = {"setpoint": MEMBER / "src", "setpoint_oip/protocol": ROOT / "libs" / "oip" / "src"}
"""Where the stubs of each folder of contracts go."""
PRIVATE = ("setpoint_oip/protocol",)
"""Folders whose packages are not ours alone: others' stubs define the same names, and one process
may need both, so these are kept out of the pool that all generated code shares."""


@contextmanager
def exclusive() -> Iterator[None]:
    """Keeps two runs from making the environment or mirroring the stubs at the same time."""
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def codegen_python() -> Path:
    """Returns the interpreter of the pinned environment, which is made when it is out of date."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    # The plugin's console script is written with an absolute path, so the environment is made
    # in place; the stamp, written last, tells a finished one from an interrupted one.
    uv = [sys.executable, "-m", "uv"]
    subprocess.run(
        [*uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT)], check=True
    )
    install = ["pip", "install", "--quiet", "--require-hashes", "--requirement", str(REQUIREMENTS)]
    subprocess.run([*uv, *install, "--python", str(python)], check=True)
    stamp.write_text(wanted)
    return python


def run_protoc(python: Path, output: Path) -> None:
    """Generates messages, gRPC classes and the typing stubs of both into ``output``."""
    protos = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    if not protos:
        raise SystemExit(f"no contract found below {PROTO}")
    command = [
        str(python),
        # grpcio-tools 1.74 imports pkg_resources, whose deprecation warning says nothing here.
        *("-W", "ignore", "-m", "grpc_tools.protoc"),
        f"--proto_path={PROTO}",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--mypy_grpc_out=quiet:{output}",
        *protos,
    ]
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def complete_packages(output: Path) -> None:
    """Makes every generated folder an ordinary, typed package."""
    for folder in sorted({path.parent for path in output.rglob("*_pb2.py")}):
        package = folder
        while package != output:
            (package / "__init__.py").touch()
            (package / "py.typed").touch()
            package = package.parent
    # For a file without a service the plugins write shells that hold nothing.
    for stub in sorted(output.rglob("*_pb2_grpc.pyi")):
        if "Servicer(" not in stub.read_text(encoding="utf-8"):
            stub.unlink()
            stub.with_suffix(".py").unlink(missing_ok=True)


def keep_private(output: Path) -> None:
    """Gives the messages of `PRIVATE` folders a pool of descriptors of their own."""
    for path in sorted(path for folder in PRIVATE for path in (output / folder).glob("*_pb2.py")):
        shared, own = "_descriptor_pool.Default().Add", "_descriptor_pool.DescriptorPool().Add"
        parts = path.read_text(encoding="utf-8").split(shared)
        if len(parts) != 2:
            raise SystemExit(f"{path.name} is not what protoc used to write")
        path.write_text(own.join(parts), encoding="utf-8")


def mirror(source: Path, target: Path) -> None:
    """Makes ``target`` equal to ``source``, touching only what differs."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for relative in sorted(wanted):
        destination = target / relative
        if destination.exists() and filecmp.cmp(source / relative, destination, shallow=False):
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        fresh = destination.with_name(f".{destination.name}.new")
        shutil.copyfile(source / relative, fresh)
        fresh.replace(destination)
    for path in stale(target, wanted):
        path.unlink()
    remove_empty_folders(target)


def stale(target: Path, wanted: set[Path]) -> list[Path]:
    """Lists the files below ``target`` that no contract generates."""
    files = (path for path in target.rglob("*") if path.is_file())
    return [
        path
        for path in files
        if path.relative_to(target) not in wanted and "__pycache__" not in path.parts
    ]


def remove_empty_folders(target: Path) -> None:
    """Removes folders below ``target`` that hold nothing but byte code."""
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if folder.name != "__pycache__" and names <= {"__pycache__"}:
            shutil.rmtree(folder, ignore_errors=True)


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names the files that ``make generate`` would write, change or remove."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    changed = [
        relative
        for relative in sorted(wanted)
        if not (committed / relative).exists()
        or not filecmp.cmp(fresh / relative, committed / relative, shallow=False)
    ]
    removed = [path.relative_to(committed) for path in stale(committed, wanted)]
    return [str(relative) for relative in (*changed, *removed)]


def main() -> None:
    """Generates the stubs into their members, or compares them with what is there."""
    parser = argparse.ArgumentParser(description="Generate the Python stubs of the contracts.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    arguments = parser.parse_args()
    with exclusive(), tempfile.TemporaryDirectory(prefix="setpoint-codegen-") as scratch:
        generated = Path(scratch)
        run_protoc(codegen_python(), generated)
        complete_packages(generated)
        keep_private(generated)
        outdated = []
        for tree, output in TREES.items():
            if not arguments.check:
                mirror(generated / tree, output / tree)
            else:
                outdated += differences(generated / tree, output / tree)
        if outdated:
            listing = "\n  ".join(outdated)
            raise SystemExit(f"not what the contracts generate, run make generate:\n  {listing}")


if __name__ == "__main__":
    main()
