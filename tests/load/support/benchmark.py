"""What a benchmark is: a module of this folder's parent with a title and a way to run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from tests.load.support.measures import Outcome


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a benchmark."""

    folder: Path
    """For whatever it keeps on disk; it is empty, and removed afterwards."""
    is_quick: bool = False
    """Short and rough: shows that it works, not how fast something is."""
    generator: str | None = None
    """Which generator of load to use; None lets the benchmark choose."""
    only: tuple[str, ...] = ()
    """Parts to run, of those that the module names in `PARTS`; all where it is empty."""


class Benchmark(Protocol):
    """A module that measures something."""

    TITLE: str

    async def run(self, options: Options, console: Console) -> Outcome:
        """Measures; what it says on the way goes to the console."""
        ...
