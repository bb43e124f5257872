"""Does a column of a training table hold values that nobody knew at the time of its rows?

A value leaks when it differs from the one known at its row's time and equals one that is stored for the
same entity and became known only later.
"""

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_feature.domain import history, point_in_time, visibility, wording

SHOWN_ROWS: Final = 10
_LATEST: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one column."""

    values: int
    """Values that are not null."""
    leaked: int
    rows: tuple[int, ...]
    """The first few leaking rows."""
    message: str


class Cause(enum.IntEnum):
    """How a value got into a row before it was known; the numbers equal those of the protocol's enum."""

    FUTURE = 1
    LATE_ARRIVAL = 2
    BOUNDARY = 3


class Join(enum.IntEnum):
    """A careless join that gives the leaked values; the numbers equal those of the protocol's enum."""

    AS_OF_EVENT_TIME = 1
    LATEST = 2
    NEXT = 3


@dataclass(slots=True)
class Leaks:
    """How values of one kind came in before their time."""

    values: int = 0
    shortest: int = _LATEST
    """Least time by which a value was known too late."""
    longest: int = 0

    def add(self, delays: visibility.Times) -> None:
        """Counts some values."""
        if len(delays):
            self.values += len(delays)
            self.shortest = min(self.shortest, int(delays.min()))
            self.longest = max(self.longest, int(delays.max()))


@dataclass(slots=True)
class Measured:
    """What was found about one column, piece after piece of its table."""

    rows: int = 0
    values: int = 0
    """Values that are not null."""
    leaked: int = 0
    first: list[int] = field(default_factory=list)
    """The first few leaking rows."""
    causes: dict[Cause, Leaks] = field(default_factory=dict)
    joins: Counter[Join] = field(default_factory=Counter)
    """How many of the leaked values each join would give."""
    at_boundary: int = 0
    """Values whose row became true at the very time of the table's row: known by the rule, seldom in the world."""


def judge(
    past: history.Past,
    field: int,
    keys: npt.NDArray[np.int64],
    times: visibility.Times,
    column: Column,
) -> Finding:
    """Judges one column of a table against all stored rows of its entities.

    Args:
        past: The stored rows, those that became known after the table's times included.
        field: Position of the field that the column claims to hold.
        keys: Numbers of the entities of the table's rows.
        times: The times of the table's rows.
        column: The values, of the field's type.
    """
    found = Measured()
    measure(found, past, field, keys, times, column)
    name = f"{past.view.view.name}.{past.view.layout.slots[field].name}"
    return Finding(found.values, found.leaked, tuple(found.first), message(name, found))


def measure(
    found: Measured,
    past: history.Past,
    field: int,
    keys: npt.NDArray[np.int64],
    times: visibility.Times,
    column: Column,
) -> None:
    """Adds what is to be said of a piece of a table; the arguments are those of `judge`."""
    codes = _Codes.of(past, field, column)
    present = codes.given > 0
    winners = past.search(keys, times)
    later = _first_later(past, keys, codes, times)
    leaked = (later >= 0) & present & (codes.given != codes.stored[winners])
    rows = np.flatnonzero(leaked)
    found.first += (found.rows + rows[: SHOWN_ROWS - len(found.first)]).tolist()
    found.rows += len(keys)
    found.values += int(np.count_nonzero(present))
    found.leaked += len(rows)
    if len(past.rows):
        at_time = past.rows.event_times[winners] == times
        same = codes.given == codes.stored[winners]
        found.at_boundary += int(np.count_nonzero((winners >= 0) & at_time & same & present))
    if len(rows):
        _explain(found, past, later[rows], times[rows])
        for join, positions in _careless(past, keys[rows], times[rows]):
            gives = codes.stored[positions] == codes.given[rows]
            found.joins[join] += int(np.count_nonzero(gives))


def held_share(
    past: history.Past, field: int, keys: npt.NDArray[np.int64], column: Column
) -> float:
    """Returns in which share of its rows a column holds a stored value of the row's entity, ever."""
    codes = _Codes.of(past, field, column)
    asked = codes.given > 0
    if not asked.any() or not len(past.rows):
        return 0.0
    kinds = 1 + max(int(codes.stored.max()), int(codes.given.max()))
    stored = np.unique(past.keys * kinds + codes.stored[:-1])
    held = np.isin(keys * kinds + codes.given, stored) & (keys >= 0)
    return float(np.count_nonzero(held & asked) / np.count_nonzero(asked))


@dataclass(frozen=True, slots=True)
class _Codes:
    """Small numbers for values, equal where they are equal, 0 for null."""

    stored: npt.NDArray[np.int64]
    """Of the stored rows, and of the row of defaults at the end."""
    given: npt.NDArray[np.int64]
    """Of the table's rows."""

    @classmethod
    def of(cls, past: history.Past, field: int, column: Column) -> "_Codes":
        # The last position, that of the row of defaults, stands for "nothing is known".
        starts = np.append(past.rows.starts, past.defaults)
        (stored,) = past.view.layout.unpack(past.rows.data, starts, (field,))
        return cls(*_codes(stored, column))


def _explain(
    found: Measured, past: history.Past, later: npt.NDArray[np.int64], times: visibility.Times
) -> None:
    """Counts by which bound the rows were not known yet that leaked values equal."""
    events = past.rows.event_times[later]
    delays = past.rule.visible_from(events, past.rows.created_times[later]) - times
    at = np.full(len(later), Cause.LATE_ARRIVAL, np.uint8)
    at[events > times] = Cause.FUTURE
    if past.rule.exclusive:
        at[events == times] = Cause.BOUNDARY
    for number in np.unique(at).tolist():
        found.causes.setdefault(Cause(number), Leaks()).add(delays[at == number])


def _careless(
    past: history.Past, keys: npt.NDArray[np.int64], times: visibility.Times
) -> Iterator[tuple[Join, npt.NDArray[np.int64]]]:
    """Yields joins that do not ask what was known, with the positions of the rows that they find."""
    rows = past.rows
    values = point_in_time.Values(past.keys, rows.event_times, rows.created_times, rows.sequences)
    rule = visibility.Rule(0, past.rule.exclusive, arrival=False)
    timeline = point_in_time.Timeline(values, rule)
    yield Join.AS_OF_EVENT_TIME, timeline.search(keys, times)
    yield Join.LATEST, timeline.search(keys, np.full(len(keys), _LATEST, np.int64))
    yield Join.NEXT, _next(past, keys, times)


def _next(
    past: history.Past, keys: npt.NDArray[np.int64], times: visibility.Times
) -> npt.NDArray[np.int64]:
    """Returns the first row of each entity that becomes true after a time, or -1."""
    moments, moment_of = np.unique(past.rows.event_times, return_inverse=True)
    step = len(moments) + 1
    composite = past.keys * step + moment_of
    order = np.argsort(composite, kind="stable")
    asked = keys * step + np.searchsorted(moments, times, side="right")
    place = np.searchsorted(composite[order], asked)
    found = order[np.minimum(place, len(order) - 1)]
    exists = (place < len(order)) & (past.keys[found] == keys)
    return np.where(exists, found, point_in_time.NO_ROW)


def _first_later(
    past: history.Past,
    keys: npt.NDArray[np.int64],
    codes: _Codes,
    times: visibility.Times,
) -> npt.NDArray[np.int64]:
    """Returns the first row of the entity that holds the value and is known only after a time, or -1."""
    nothing = np.full(len(keys), point_in_time.NO_ROW, np.int64)
    stored = codes.stored[:-1]
    if not len(stored):
        return nothing
    kinds = 1 + max(int(stored.max()), int(codes.given.max(initial=0)))
    pairs, stored_pairs = np.unique(past.keys * kinds + stored, return_inverse=True)
    wanted = keys * kinds + codes.given
    pair = np.searchsorted(pairs, wanted)
    exists = (keys >= 0) & (codes.given > 0) & (pairs[np.minimum(pair, len(pairs) - 1)] == wanted)
    visible = past.rule.visible_from(past.rows.event_times, past.rows.created_times)
    moments, moment_of = np.unique(visible, return_inverse=True)
    step = len(moments) + 1
    timeline = stored_pairs * step + moment_of
    order = np.argsort(timeline, kind="stable")
    asked = pair * step + np.searchsorted(moments, times, side="right")
    place = np.searchsorted(timeline[order], asked)
    found = order[np.minimum(place, len(order) - 1)]
    exists &= (place < len(order)) & (timeline[found] // step == pair)
    return np.where(exists, found, nothing)


def _codes(stored: Column, column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns small numbers for the values of two columns, equal where they are equal, 0 for null."""
    arrays = [_comparable(stored), _comparable(column)]
    _, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    codes = codes + 1
    parts = codes[: stored.rows], codes[stored.rows :]
    for part, each in zip(parts, (stored, column), strict=True):
        if each.validity is not None:
            part[~each.validity] = 0
    return parts


def _comparable(column: Column) -> npt.NDArray[Any]:
    if column.dtype is DataType.STRING:
        texts = column.text()
        if column.validity is not None:
            texts[~column.validity] = ""
        return texts.astype(np.dtypes.StringDType())
    return column.values


def message(name: str, found: Measured) -> str:
    """Says in words what was found about a column that holds values of a field."""
    if not found.leaked:
        return f"no value equals one of {name} that became known only after its row's time"
    shortest = min(each.shortest for each in found.causes.values())
    longest = max(each.longest for each in found.causes.values())
    return (
        f"{found.leaked} of {found.values} values equal one of {name} that became known only after their row's time, "
        f"by {wording.duration(shortest)} to {wording.duration(longest)}"
    )
