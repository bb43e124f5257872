"""Runs the tests, the parts that share nothing beside each other: a test mostly waits.

The members' own tests need a database and little more; those of the whole house share a running stack. Each
part is one pytest, with servers and ports of its own. Arguments, if there are any, go to one pytest as
they are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = ("libs", "services")
"""Folders whose tests need no stack of services."""

INTERRUPTED = 130


@dataclass(frozen=True)
class Part:
    """Some of the tests."""

    name: str
    paths: tuple[str, ...]


def parts(root: Path) -> list[Part]:
    """Divides what pytest would run without arguments."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    named = settings["tool"]["pytest"]["ini_options"]["testpaths"]
    # As pytest itself does without arguments.
    paths = [each for each in named if (root / each).exists()]
    found = [
        Part("members", tuple(each for each in paths if each in MEMBERS)),
        Part("house", tuple(each for each in paths if each not in MEMBERS)),
    ]
    return [each for each in found if each.paths]


class Run:
    """A part that runs; the first one is seen while it does, the others when they have ended."""

    def __init__(self, part: Part, root: Path, scratch: Path, *, is_seen: bool) -> None:
        """Start it."""
        self.part = part
        self._report = scratch / f"{part.name}.xml"
        self._output = None if is_seen else scratch / f"{part.name}.txt"
        color = "yes" if sys.stdout.isatty() else "no"
        command = [sys.executable, "-m", "pytest", f"--color={color}", f"--junitxml={self._report}"]
        with Path(self._output or os.devnull).open("wb") as target:
            self._process = subprocess.Popen(
                [*command, *part.paths],
                cwd=root,
                stdout=None if is_seen else target,
                stderr=None if is_seen else subprocess.STDOUT,
            )

    def wait(self) -> int:
        """Wait for its end, show what has not been seen, and return its exit code."""
        code = self._process.wait()
        if self._output is not None:
            print(f"\n=== {self.part.name}: {' '.join(self.part.paths)}", flush=True)
            sys.stdout.buffer.write(self._output.read_bytes())
            sys.stdout.flush()
        return code

    def stop(self) -> None:
        """Let it end as if a person had asked for it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def counts(self) -> Counter[str]:
        """Return how many tests ended how."""
        found: Counter[str] = Counter()
        if self._report.exists():
            for suite in ET.parse(self._report).iter("testsuite"):  # noqa: S314  # our own.
                told = {name: int(suite.get(name, 0)) for name in _ENDS}
                failed = told["failures"] + told["errors"]
                found["failed"] += failed
                found["skipped"] += told["skipped"]
                found["passed"] += told["tests"] - failed - told["skipped"]
        return found


_ENDS = ("tests", "failures", "errors", "skipped")


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Runs the tests and returns the exit code: 0 when every part says so."""
    if arguments:
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(command, check=False, cwd=root).returncode
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="setpoint-test-") as scratch:
        runs = [
            Run(part, root, Path(scratch), is_seen=not at) for at, part in enumerate(parts(root))
        ]
        try:
            codes = [each.wait() for each in runs]
        except KeyboardInterrupt:
            # The terminal has told the parts as well.
            for each in runs:
                each.wait()
            return INTERRUPTED
        finally:
            for each in runs:
                each.stop()
        total = sum((each.counts() for each in runs), Counter[str]())
    print(f"\n=== all parts, in {time.monotonic() - started:.0f} s")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
