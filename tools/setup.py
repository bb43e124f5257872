"""Makes ``.venv`` from the hashed lock and installs every member into it, editable.

Runs on the system's Python with nothing installed, so it needs the standard library alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import workspace

ENVIRONMENT = workspace.ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
MINIMUM = (3, 11)

# uv installs the rest; setuptools builds the one locked package that has no wheel, and being
# installed beforehand it comes from the lock instead of an unpinned build environment.
BOOTSTRAP = ("uv", "setuptools")


def usable(python: Path) -> bool:
    """Tells whether an interpreter runs and is new enough."""
    if not python.exists():
        return False
    probe = f"import sys; sys.exit(sys.version_info < {MINIMUM})"
    return subprocess.run([str(python), "-c", probe], check=False).returncode == 0


def locked(names: tuple[str, ...]) -> str:
    """Returns the entries of some packages from the lock, with their hashes."""
    text = workspace.LOCK.read_text(encoding="utf-8")
    entries = []
    for name in names:
        match = re.search(rf"^{name}==.*\n(?:[ ]+--hash=.*\n)+", text, flags=re.MULTILINE)
        if match is None:
            raise SystemExit(f"{workspace.LOCK.name} does not lock {name}")
        entries.append(match.group())
    return "".join(entries)


def run(*command: str) -> None:
    """Runs a command and ends the set-up with its code when it fails."""
    code = subprocess.run(command, check=False, cwd=workspace.ROOT).returncode
    if code != 0:
        raise SystemExit(code)


def main() -> None:
    """Makes the environment, or brings it up to date."""
    if sys.version_info < MINIMUM:
        raise SystemExit("Setpoint needs Python 3.11 or newer; name one with make PYTHON=…")
    if not usable(PYTHON):
        print("making .venv", flush=True)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
    print("installing the locked packages", flush=True)
    bootstrap = ENVIRONMENT / "bootstrap.txt"
    bootstrap.write_text(locked(BOOTSTRAP), encoding="utf-8")
    hashed = ("install", "--quiet", "--require-hashes", "--requirement")
    run(str(PYTHON), "-m", "pip", *hashed, str(bootstrap))
    uv = (str(PYTHON), "-m", "uv", "pip")
    # A stack is a dozen processes that start at once, and half of each start is compiling what it
    # imports where Python may not or cannot keep the bytecode.
    build = ("--no-build-isolation", "--compile-bytecode", "--python", str(PYTHON))
    run(*uv, *hashed, str(workspace.LOCK), *build)
    print("installing the members", flush=True)
    editable = [
        argument
        for member in workspace.members()
        for argument in ("--editable", str(member.folder))
    ]
    own = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--python", str(PYTHON))
    run(*uv, *own, *editable)
    (ENVIRONMENT / ".ready").touch()


if __name__ == "__main__":
    main()
