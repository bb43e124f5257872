"""Resolves ``requirements.txt`` from the members' own dependencies and the development group.

The lock holds names, versions and hashes. It names no index, no file and no machine, so it
installs from wherever the installing machine gets its packages.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.txt"
CODEGEN = "libs/protos/codegen.txt"
PYTHON_VERSION = "3.11"
ADDRESS = re.compile(r"://|^-|^\s*\.{0,2}/|--(extra-)?index-url|--find-links", re.MULTILINE)


def member_files() -> list[Path]:
    """Lists the ``pyproject.toml`` of every member, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in ROOT.glob("[ls]*/*/pyproject.toml"))


def name_of(path: Path) -> str:
    """Reads a distribution's name."""
    project = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
    return str(project["name"])


def compile_lock(output: str, *arguments: str) -> None:
    """Runs the resolver with what keeps addresses out."""
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
            *("--universal", "--generate-hashes", "--python-version", PYTHON_VERSION),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-index-annotation"),
            *("--custom-compile-command", "make lock", "--output-file", output),
            *arguments,
        ],
        check=True,
        cwd=ROOT,
    )
    found = ADDRESS.search((ROOT / output).read_text(encoding="utf-8"))
    if found is not None:
        raise SystemExit(f"{output} holds an address: {found.group()!r}")


def main() -> None:
    """Writes the workspace's lock and that of the code generation."""
    files = member_files()
    own = [argument for path in files for argument in ("--no-emit-package", name_of(path))]
    group = ("--group", "pyproject.toml:dev")
    # Optional dependencies of members (heavy ecosystems) stay out: their tests install them.
    compile_lock(LOCK, *map(str, files), *group, *own, *sys.argv[1:])
    compile_lock(CODEGEN, "libs/protos/codegen.in", *sys.argv[1:])


if __name__ == "__main__":
    main()
