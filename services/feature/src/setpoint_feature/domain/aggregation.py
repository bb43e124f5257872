"""What an aggregate view computes: functions over windows of another view's rows."""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from setpoint_columns import DataType

_SECOND: Final = 1_000_000
_HOUR: Final = 3600 * _SECOND
_DAY: Final = 24 * _HOUR

MIN_HOP: Final = _SECOND
MAX_TILES: Final = 1000
"""Most hops of one window: what a read puts together for one value."""
MAX_WINDOW: Final = 10 * 366 * _DAY
MAX_AGGREGATES: Final = 256
MAX_LAST: Final = 16


class Function(enum.Enum):
    """What is computed of the events in a window."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SHARE = "share"
    LAST = "last"
    DISTINCT = "distinct"


@dataclass(frozen=True, slots=True)
class Condition:
    """Met by events whose field equals a value."""

    field: str
    equals: bool | int | float | str
    """Never a float in the end, which registration refuses."""


@dataclass(frozen=True, slots=True)
class AggregateField:
    """One value over one window."""

    name: str
    function: Function
    field: str = ""
    """Field of the source; empty where events themselves are counted."""
    window: int = 0
    hop: int = 0
    where: Condition | None = None
    n: int = 0
    default: bool | int | float | str | None = None
    sensitive: bool = False
    description: str = ""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the view's fields that it gives."""
        if self.function is not Function.LAST or self.n == 1:
            return (self.name,)
        return tuple(f"{self.name}_{number}" for number in range(1, self.n + 1))


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Windows over the rows of a source view, each an event, grouped by an entity's keys."""

    source: str
    fields: tuple[AggregateField, ...]
    group_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Key of the view's entity to the field or key of the source, where they differ."""
    source_version: str = ""


def default_hop(window: int) -> int:
    """Returns the hop of a window that names none: about a hundredth of it, as Chronon has it."""
    if window < 12 * _HOUR:
        return 300 * _SECOND
    return _HOUR if window < 12 * _DAY else _DAY


def result_type(function: Function, source: DataType | None) -> DataType:
    """Returns the type of a function's result, given its field's."""
    if function in (Function.COUNT, Function.DISTINCT):
        return DataType.INT64
    if source is None or function in (Function.SUM, Function.MEAN, Function.SHARE):
        return DataType.FLOAT64
    return source
