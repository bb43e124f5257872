"""What every benchmark hands over, as a file for programs and as a table for people."""

import datetime as dt
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box, table

Direction = Literal[">=", "<="]

_LARGE = 1000
_SMALL = 10


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of a benchmark's table of goals."""

    name: str
    value: float
    unit: str
    """`1` for ratios."""
    goal: float | None
    """None where there is none."""
    direction: Direction
    """Which side of the goal is the good one."""
    baseline: str
    """What it was compared with, and under which conditions it was measured."""

    def __post_init__(self) -> None:
        if not (self.name and self.unit):
            raise ValueError("a measure has a name and a unit")
        if self.value != self.value or abs(self.value) == float("inf"):
            raise ValueError(f"{self.name} is no number: {self.value}")

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.direction == ">=" else self.value <= self.goal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark found."""

    measures: Sequence[Measure]
    notes: Sequence[str] = ()
    """Facts about the run that its figures depend on: versions, settings, tools."""


def machine(load: float, notes: Sequence[str] = ()) -> str:
    """Describes where a benchmark ran.

    Args:
        load: Load average when it began; a busy machine makes figures worthless.
        notes: Further facts.
    """
    cores = len(os.sched_getaffinity(0))
    facts = [
        f"{cores} cores, {_processor()}",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"load {load:.1f} at the start",
        *notes,
    ]
    return "; ".join(facts)


def _processor() -> str:
    """Returns the name of the processor where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


def document(outcome: Outcome, date: dt.datetime, load: float) -> dict[str, Any]:
    """Returns what the file of a benchmark holds, as JSON values."""
    return {
        "date": date.isoformat(timespec="seconds"),
        "machine": machine(load, outcome.notes),
        "measures": [asdict(measure) for measure in outcome.measures],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes the file of a benchmark; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def as_table(title: str, measures: Sequence[Measure]) -> table.Table:
    """Returns the table for people."""
    made = table.Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("measure", overflow="fold")
    made.add_column("value", justify="right", no_wrap=True)
    made.add_column("goal", justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("beside, under", style="dim", overflow="fold")
    for measure in measures:
        goal = "" if measure.goal is None else f"{measure.direction} {shown(measure.goal, '1')}"
        made.add_row(
            measure.name,
            shown(measure.value, measure.unit),
            goal,
            _VERDICTS[measure.is_met],
            measure.baseline,
        )
    return made


_VERDICTS = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}


def shown(value: float, unit: str) -> str:
    """Writes a value with its unit, no more exactly than it is known."""
    if abs(value) >= _LARGE:
        text = f"{value:,.0f}"
    elif abs(value) >= _SMALL:
        text = f"{value:.1f}"
    else:
        text = f"{value:.2f}"
    return text if unit == "1" else f"{text} {unit}"
