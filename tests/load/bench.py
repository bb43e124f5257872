"""Runs one benchmark: ``python tests/load/bench.py serving``.

It prints a table and writes ``var/bench/<name>.json``. Whether goals are reached changes nothing
about the exit code: 0 when the benchmark ran, 1 when it could not, 2 when there is none of the name.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What is shared below tests/ is imported by its place in the repository.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402  # The path comes first.
from tests.load.support import measures  # noqa: E402
from tests.load.support.benchmark import Benchmark, Options  # noqa: E402

RESULTS = ROOT / "var" / "bench"
PAPER_WIDTH = 120


def names() -> list[str]:
    """Lists the benchmarks: the modules beside this one that are neither it nor tests."""
    found = (path.stem for path in HERE.glob("*.py"))
    others = ("test_", "conftest", "bench", "_")
    return sorted(name for name in found if not name.startswith(others))


def load(name: str) -> Benchmark:
    """Returns a benchmark by its name."""
    return cast("Benchmark", importlib.import_module(f"tests.load.{name}"))


def parser() -> argparse.ArgumentParser:
    """Describes the command line; an unknown benchmark is refused with exit code 2."""
    made = argparse.ArgumentParser(prog="bench", description="Runs a benchmark.")
    made.add_argument("name", choices=names(), help="which one")
    made.add_argument("--quick", action="store_true", help="short and rough, to see that it works")
    made.add_argument(
        "--generator",
        choices=("h2load", "bundled"),
        help="what makes the load; by default h2load where it is installed",
    )
    made.add_argument(
        "--only", action="append", metavar="PART", help="one part of it; may be given several times"
    )
    made.add_argument("--output", type=Path, help="file to write instead of var/bench/<name>.json")
    return made


@contextlib.contextmanager
def working_folder(base: Path) -> Iterator[Path]:
    """Gives an empty folder for the length of a run."""
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    # Servers that run as another user must be able to enter.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark that the command line names."""
    read = parser()
    given = read.parse_args(arguments)
    # A file or a pipe has no width of its own, and nobody wants to read a folded table there.
    console = Console() if sys.stdout.isatty() else Console(width=PAPER_WIDTH)
    benchmark = load(given.name)
    parts: tuple[str, ...] = getattr(benchmark, "PARTS", ())
    only = tuple(given.only or ())
    if unknown := set(only) - set(parts):
        read.error(f"{given.name} has no part {min(unknown)}, but {', '.join(parts) or 'none'}")
    date, busy = dt.datetime.now(dt.UTC), os.getloadavg()[0]
    with working_folder(RESULTS) as folder:
        options = Options(folder, given.quick, given.generator, only)
        outcome = asyncio.run(benchmark.run(options, console))
    path: Path = given.output or RESULTS / f"{given.name}.json"
    written = measures.document(outcome, date, busy)
    measures.write(path, written)
    console.print(measures.as_table(benchmark.TITLE, outcome.measures))
    for fact in written["machine"].split("; "):
        console.print(f"  {fact}", style="dim", highlight=False)
    console.print(f"\nwritten to {path}", highlight=False)


if __name__ == "__main__":
    main()
