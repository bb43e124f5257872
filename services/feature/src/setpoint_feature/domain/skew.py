"""Is what was served what was known, and if not, why?

A served value is compared with the one known at the time that it was asked for, to the bit, together
with its status and event time. Where they differ, the rows of the entity tell the cause: which row was
served, whether it was known, and whether what should have won was there when the answer was given.
"""

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import definitions, visibility

DAY = 86_400_000_000
"""Microseconds."""

_AGED = (definitions.Status.FRESH, definitions.Status.STALE)
Arrays = Mapping[str, npt.NDArray[np.int64]]


class Cause(enum.IntEnum):
    """Why a served value is not the one that is known; the numbers equal those of the protocol's enum."""

    LATE_WRITE = 1
    COPY_BEHIND = 2
    PAST_QUESTION = 3
    STALENESS = 4
    DEFAULT = 5
    VALUE = 6
    FUTURE = 7
    TRANSFORMATION = 8
    NO_ANSWER = 9
    DEFINITION = 10
    AGGREGATE = 11


@dataclass(frozen=True, slots=True)
class ServedRows:
    """What predictions were served, as their records hold it, one row for each."""

    feature_set: str
    version: str
    day: int
    """Day since 1970 on which the records were stored."""
    prediction_ids: tuple[str, ...]
    times: visibility.Times
    """As of when the features were asked for."""
    reply_times: visibility.Times
    """When the predictions were answered, by the clock on the wall."""
    unanswered: visibility.Flags
    """The feature service gave no answer, and nulls stood in."""
    spine: Columns
    """Keys, and what the callers gave."""
    inputs: Columns
    """The exact inputs of the model, features among them."""
    statuses: Arrays
    event_times: Arrays

    def __len__(self) -> int:
        """Returns the number of predictions."""
        return len(self.prediction_ids)

    def take(self, places: npt.NDArray[np.intp]) -> "ServedRows":
        """Returns some of the rows, in the order asked for."""
        return ServedRows(
            self.feature_set,
            self.version,
            self.day,
            tuple(self.prediction_ids[place] for place in places.tolist()),
            self.times[places],
            self.reply_times[places],
            self.unanswered[places],
            self.spine.take(places),
            self.inputs.take(places),
            {name: each[places] for name, each in self.statuses.items()},
            {name: each[places] for name, each in self.event_times.items()},
        )

    @property
    def kind(self) -> tuple[object, ...]:
        """What rows must share to be one table."""
        schemas = (tuple(part.schema.items()) for part in (self.spine, self.inputs))
        return self.feature_set, self.version, self.day, *schemas


def merged(parts: Sequence[ServedRows]) -> ServedRows:
    """Returns rows of one kind as one table."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return ServedRows(
        first.feature_set,
        first.version,
        first.day,
        tuple(each for part in parts for each in part.prediction_ids),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.reply_times for part in parts]),
        np.concatenate([part.unanswered for part in parts]),
        Columns.concat([part.spine for part in parts]),
        Columns.concat([part.inputs for part in parts]),
        _joined([part.statuses for part in parts]),
        _joined([part.event_times for part in parts]),
    )


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def unequal(one: Column, other: Column) -> visibility.Flags:
    """Tells for each row whether two columns differ in any bit; what lies below a null does not count."""
    here, there = _valid(one), _valid(other)
    differs: visibility.Flags = here != there
    if one.dtype is not other.dtype:
        differs |= here
    elif one.dtype is DataType.STRING:
        differs |= here & there & (one.text() != other.text()).astype(np.bool_)
    else:
        bits = np.dtype(f"u{one.values.dtype.itemsize}")
        mine, theirs = (np.ascontiguousarray(each.values).view(bits) for each in (one, other))
        differs |= here & there & (mine != theirs)
    return differs


def _valid(column: Column) -> visibility.Flags:
    return np.ones(column.rows, np.bool_) if column.validity is None else column.validity


@dataclass(frozen=True, slots=True)
class Seen:
    """One side of a comparison."""

    status: int
    event_time: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A value that was served otherwise than it was known."""

    time: int
    """As of when it was asked for."""
    reply_time: int
    served: Seen
    known: Seen


@dataclass(frozen=True, slots=True)
class Candidates:
    """All stored rows of the entity, in the order of their sequences."""

    event_times: visibility.Times
    created_times: visibility.Times
    sequences: npt.NDArray[np.int64]
    written_times: visibility.Times
    """When each was stored, by the clock on the wall."""

    def ranks(self) -> npt.NDArray[np.int64]:
        """Returns the place of each row in the order in which rows win."""
        order = np.lexsort((self.sequences, self.created_times, self.event_times))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def cause_of(
    rule: visibility.Rule, rows: Candidates, same_value: visibility.Flags, cell: Cell
) -> Cause:
    """Returns why a value was served otherwise than it was known.

    Args:
        rule: The view's rule.
        rows: The stored rows of the entity.
        same_value: For each of them whether it holds the value that was served.
        cell: What was served and what was known.
    """
    served, known_now = cell.served, cell.known
    if served.event_time == known_now.event_time:
        if served.status != known_now.status:
            both_aged = served.status in _AGED and known_now.status in _AGED
            return Cause.STALENESS if both_aged else Cause.DEFAULT
        if served.status != definitions.Status.FRESH:
            return Cause.DEFAULT
    at = np.full(len(rows.sequences), cell.time, np.int64)
    known = rule.known(rows.event_times, rows.created_times, at)
    was_there = rows.written_times <= cell.reply_time
    ranks = rows.ranks()
    if served.event_time == visibility.NO_TIME:
        if not (known & was_there).any():
            return Cause.LATE_WRITE
        greatest = int(np.argmax(np.where(was_there, ranks, -1)))
        return Cause.COPY_BEHIND if known[greatest] else Cause.PAST_QUESTION
    alike = rows.event_times == served.event_time
    if served.status == definitions.Status.FRESH:
        alike &= same_value
    if not alike.any():
        return Cause.VALUE
    if not (alike & known).any():
        return Cause.FUTURE
    better = known & (ranks > ranks[alike & known].max())
    if not better.any():
        return Cause.VALUE
    return Cause.COPY_BEHIND if (better & was_there).any() else Cause.LATE_WRITE


def cause_of_aggregate(rule: visibility.Rule, events: Candidates, cell: Cell) -> Cause:
    """Returns why an aggregate over events came out otherwise.

    Args:
        rule: The aggregate view's rule.
        events: The stored events of the entity.
        cell: What was served and what was known.
    """
    at = np.full(len(events.sequences), cell.time, np.int64)
    known = rule.known(events.event_times, events.created_times, at)
    was_there = events.written_times <= cell.reply_time
    return Cause.LATE_WRITE if (known & ~was_there).any() else Cause.AGGREGATE


@dataclass(frozen=True, slots=True)
class Example:
    """One difference, to look into."""

    prediction_id: str
    feature: str
    cause: Cause
    time: int
    served: str | None
    """The value as text; None where the view says that it is sensitive."""
    known: str | None
    served_at: Seen
    known_at: Seen
    note: str = ""


@dataclass(slots=True)
class Tally:
    """What a replay of some rows of one feature set found."""

    feature_set: str
    version: str
    day: int
    predictions: int = 0
    differing_predictions: int = 0
    values: int = 0
    differences: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    removed_predictions: int = 0
    """Not replayed, and in no other count: retention has removed rows that were known at their times."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What replays of one feature set have found."""

    feature_set: str
    version: str
    predictions: int
    differing_predictions: int
    values: int
    differences: Mapping[tuple[str, Cause], int]
    examples: Sequence[Example]
    """The newest first."""
    removed_predictions: int = 0


def totals_of(tallies: Sequence[Tally]) -> list[Totals]:
    """Adds up what was found of each feature set."""
    by_set: dict[tuple[str, str], list[Tally]] = {}
    for tally in tallies:
        by_set.setdefault((tally.feature_set, tally.version), []).append(tally)
    return [
        Totals(
            name,
            version,
            sum(each.predictions for each in parts),
            sum(each.differing_predictions for each in parts),
            sum(each.values for each in parts),
            sum((each.differences for each in parts), Counter()),
            [example for each in parts for example in each.examples],
            sum(each.removed_predictions for each in parts),
        )
        for (name, version), parts in sorted(by_set.items())
    ]
