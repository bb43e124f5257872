"""Runs every static check, two at a time, and reports all failures rather than the first.

``python tools/lint.py ruff mypy`` runs some of them; without names, all run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import contracts

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"

# The slowest first, so that the short ones fill the time beside it.
WORKERS = 2


@dataclass(frozen=True)
class Outcome:
    """What one check said."""

    name: str
    passed: bool
    output: str
    seconds: float


def run(*command: str) -> tuple[bool, str]:
    """Runs a command of the environment and returns whether it passed, with its output."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    finished = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
    )
    return finished.returncode == 0, finished.stdout + finished.stderr


def check_types() -> tuple[bool, str]:
    """Checks the types of the members, their tests and the tools in one run."""
    return run("mypy", *type_checked())


def type_checked() -> list[str]:
    """Lists what mypy reads: the hand-written code of members, tests and tools."""
    generated = ROOT / "libs" / "protos" / "src"
    found = [
        *(ROOT / "tests", ROOT / "tools", ROOT / "libs" / "protos" / "generate.py"),
        *(path for path in ROOT.glob("libs/*/*") if path.is_dir() and path != generated),
        *(path for path in ROOT.glob("services/*/*") if path.is_dir()),
    ]
    return sorted(
        str(path.relative_to(ROOT)) for path in found if path.is_file() or any(path.rglob("*.py"))
    )


def check_breaking() -> tuple[bool, str]:
    """Compares the contracts with the last commit on main that holds different ones."""
    with tempfile.TemporaryDirectory(prefix="setpoint-breaking-") as scratch:
        previous = contracts.extract_previous(ROOT, Path(scratch))
        if previous is None:
            return True, "no commit with other contracts is known\n"
        commit, folder = previous
        passed, output = run("buf", "breaking", "--against", str(folder))
        return passed, f"against {commit}:\n{output}"


CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "mypy": check_types,
    "ruff": lambda: run("ruff", "check", "--quiet", "--output-format", "concise", "."),
    "format": lambda: run(
        "ruff", "format", "--quiet", "--check", "--output-format", "concise", "."
    ),
    "imports": lambda: run("lint-imports", "--no-cache", "--no-logo"),
    "buf-lint": lambda: run("buf", "lint"),
    "buf-format": lambda: run("buf", "format", "--diff", "--exit-code"),
    "buf-breaking": check_breaking,
    "generated": lambda: run(sys.executable, "libs/protos/generate.py", "--check"),
}


def perform(name: str) -> Outcome:
    """Runs one check and measures it."""
    started = time.monotonic()
    passed, output = CHECKS[name]()
    return Outcome(name, passed, output, time.monotonic() - started)


def main() -> None:
    """Runs the named checks and exits with 1 when one of them fails."""
    names = sys.argv[1:] or list(CHECKS)
    unknown = sorted(set(names) - set(CHECKS))
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are: {', '.join(CHECKS)}")
    with ThreadPoolExecutor(WORKERS) as executor:
        outcomes = list(executor.map(perform, names))
    for outcome in outcomes:
        if not outcome.passed:
            print(f"--- {outcome.name}\n{outcome.output}", file=sys.stderr)
    for outcome in outcomes:
        print(f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.name:14} {outcome.seconds:5.1f} s")
    raise SystemExit(0 if all(outcome.passed for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
