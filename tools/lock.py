"""Resolves ``requirements.txt`` from the members' own dependencies and the development group.

The lock holds names, versions and hashes. It names no index, no file and no machine, so it
installs from wherever the installing machine gets its packages.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import workspace

PYTHON_VERSION = "3.11"
ADDRESS = re.compile(r"://|^-|^\s*\.{0,2}/|--(extra-)?index-url|--find-links", re.MULTILINE)


def compile_lock(output: Path, *arguments: str) -> None:
    """Runs the resolver with what keeps addresses out."""
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
            *("--universal", "--generate-hashes", "--python-version", PYTHON_VERSION),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-index-annotation"),
            *("--custom-compile-command", "make lock"),
            *("--output-file", str(output.relative_to(workspace.ROOT))),
            *arguments,
        ],
        check=True,
        cwd=workspace.ROOT,
    )
    found = ADDRESS.search(output.read_text(encoding="utf-8"))
    if found is not None:
        raise SystemExit(f"{output.name} holds an address: {found.group()!r}")


def main() -> None:
    """Writes the workspace's lock and that of the code generation."""
    members = workspace.members()
    files = [
        str(member.folder.relative_to(workspace.ROOT) / "pyproject.toml") for member in members
    ]
    own = [argument for member in members for argument in ("--no-emit-package", member.name)]
    # Optional dependencies of members (heavy ecosystems) stay out: their tests install them.
    group = ("--group", "pyproject.toml:dev")
    compile_lock(workspace.LOCK, *files, *group, *own, *sys.argv[1:])
    compile_lock(workspace.CODEGEN_LOCK, "libs/protos/codegen.in", *sys.argv[1:])
    # Images install excerpts of the lock.
    excerpts = [sys.executable, "deploy/docker/compile_requirements.py"]
    subprocess.run(excerpts, check=True, cwd=workspace.ROOT)


if __name__ == "__main__":
    main()
