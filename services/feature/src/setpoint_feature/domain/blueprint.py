"""What the windows of an aggregate view keep of each event, and what they answer from it.

Fields with the same hop share one table of numbers that merge (how many, sum, least, greatest); estimates of
distinct values and latest values have tables of their own. The offline and the online path add up the
same parts of events and finish them here, so they give the same bits.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType, dtypes
from setpoint_columns import column as column_parts
from setpoint_feature.domain import (
    aggregation,
    definitions,
    exact,
    keys,
    packing,
    sketch,
    visibility,
)

Array = npt.NDArray[Any]
Times = visibility.Times
Flags = visibility.Flags

EARLIEST: Final = int(np.iinfo(np.int64).min)
LATEST: Final = int(np.iinfo(np.int64).max)
_FAR: Final = 1 << 62
"""Event times beyond it (146,000 years) count as this one, so that nothing wraps around."""

_Function = aggregation.Function
_STATUS = definitions.Status
FLOATS: Final = frozenset({DataType.FLOAT32, DataType.FLOAT64})


class Kind(enum.Enum):
    """How a slot's numbers merge."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Test:
    """A condition on a field of the source."""

    field: int
    equals: bool | int | float | str


@dataclass(frozen=True, slots=True)
class Slot:
    """One number that each event adds to and tiles merge."""

    kind: Kind
    field: int | None
    where: Test | None
    is_float: bool = False

    @property
    def neutral(self) -> float | int:
        """What changes nothing when it is merged."""
        if self.kind is Kind.MIN:
            return np.inf if self.is_float else LATEST
        if self.kind is Kind.MAX:
            return -np.inf if self.is_float else EARLIEST
        return 0

    @property
    def merge(self) -> np.ufunc:
        """What merges two of its numbers (of sums, once they cannot be inexact)."""
        return {Kind.MIN: np.minimum, Kind.MAX: np.maximum}.get(self.kind, np.add)


@dataclass(frozen=True, slots=True)
class Content:
    """Which values of the source a table of its own holds."""

    function: aggregation.Function
    field: int
    where: Test | None


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the view, and where it comes from."""

    spec: aggregation.AggregateField
    column: definitions.Field
    place: int
    """For LAST: which of the latest values, from 0."""
    slots: tuple[Slot, ...]
    content: Content | None


@dataclass(frozen=True, slots=True)
class Source:
    """The view whose rows are the events."""

    number: int
    view: definitions.FeatureView
    layout: packing.Layout
    codec: keys.KeyCodec


class Blueprint:
    """An aggregate view made ready for reading and writing."""

    def __init__(self, view: definitions.FeatureView, source: Source) -> None:
        """Compiles a view that is bound to its source."""
        if view.aggregation is None:
            raise AssertionError("only aggregate views are compiled to blueprints")
        self.view = view
        self.source = source
        self.codec = keys.KeyCodec(view.keys)
        self.group_by = view.aggregation.group_by
        self.fields = tuple(self._fields(view.aggregation))
        hops = dict.fromkeys(each.spec.hop for each in self.fields)
        self.hops = tuple(hops)
        self.slots = {hop: self._slots_of(hop) for hop in hops}
        self.contents = tuple(
            dict.fromkeys(
                (each.spec.hop, each.content) for each in self.fields if each.content is not None
            )
        )
        self.span = max(each.spec.window + each.spec.hop for each in self.fields)
        """How far before T the oldest event may lie."""
        used = {self._position(name) for name in self._group_fields()}
        for each in self.fields:
            used |= _used(each)
        self.source_fields = tuple(sorted(used))
        """Positions of the source's fields that are read."""
        self.needs_keys = any(
            self.group_by.get(key.name, key.name) in {own.name for own in source.view.keys}
            for key in view.keys
        )

    def longest(self, hop: int, content: Content | None) -> int:
        """Returns the longest window over a table."""
        return max(
            each.spec.window
            for each in self.fields
            if each.spec.hop == hop and content in (None, each.content)
        )

    def most(self, hop: int, content: Content) -> int:
        """Returns how many of the latest values a table of them keeps."""
        return max(
            each.spec.n for each in self.fields if each.spec.hop == hop and each.content == content
        )

    def _group_fields(self) -> list[str]:
        own = {key.name for key in self.source.view.keys}
        names = [self.group_by.get(key.name, key.name) for key in self.view.keys]
        return [name for name in names if name not in own]

    def _position(self, name: str) -> int:
        position = self.source.view.field_index(name)
        if position is None:
            raise AssertionError("registration binds aggregations to existing fields only")
        return position

    def _test(self, where: aggregation.Condition | None) -> Test | None:
        return None if where is None else Test(self._position(where.field), where.equals)

    def _fields(self, wanted: aggregation.Aggregation) -> list[Field]:
        found = []
        columns = iter(self.view.fields)
        for spec in wanted.fields:
            slots, content = self._parts(spec)
            found += [
                Field(spec, next(columns), place, slots, content)
                for place in range(len(spec.columns))
            ]
        return found

    def _parts(self, spec: aggregation.AggregateField) -> tuple[tuple[Slot, ...], Content | None]:
        where = self._test(spec.where)
        position = self._position(spec.field) if spec.field else None
        if spec.function in (_Function.LAST, _Function.DISTINCT):
            return (), Content(spec.function, position or 0, where)
        if spec.function is _Function.SHARE:
            judged = Slot(Kind.COUNT, where.field if where else None, None)
            return (judged, Slot(Kind.COUNT, None, where)), None
        count = Slot(Kind.COUNT, position, where)
        if spec.function is _Function.COUNT:
            return (count,), None
        if spec.function in (_Function.SUM, _Function.MEAN):
            return (count, Slot(Kind.SUM, position, where, is_float=True)), None
        kind = Kind.MIN if spec.function is _Function.MIN else Kind.MAX
        is_float = self.source.view.fields[position or 0].dtype in FLOATS
        return (count, Slot(kind, position, where, is_float)), None

    def _slots_of(self, hop: int) -> tuple[Slot, ...]:
        return tuple(
            dict.fromkeys(
                slot for each in self.fields if each.spec.hop == hop for slot in each.slots
            )
        )


def _used(field: Field) -> set[int]:
    parts: list[Slot | Content] = list(field.slots)
    if field.content is not None:
        parts.append(field.content)
    used = {part.field for part in parts if part.field is not None}
    return used | {part.where.field for part in parts if part.where is not None}


def buckets(event_times: Times, hop: int) -> Times:
    """Returns the hop that each event lies in, by its first moment."""
    return np.clip(event_times, -_FAR, _FAR) // hop * hop


def expiries(bucket: Times, hop: int, window: int) -> Times:
    """Returns the first time at which events of a hop are in the window no more."""
    return bucket + (hop + window)


def takes(columns: Mapping[int, Column], content: Content, rows: int) -> Flags:
    """Tells which events a table of its own takes in; the latest values may be nulls."""
    if content.function is _Function.LAST:
        return present(columns, Slot(Kind.COUNT, None, content.where), rows)
    return present(columns, content, rows)


def latest_values(column: Column) -> tuple[Array, Flags]:
    """Returns a column's values as 64-bit numbers, and which of them are values."""
    flags = has_value(column)
    dtype = np.float64 if column.dtype in FLOATS else np.int64
    return np.where(flags, column.values.astype(dtype), dtype(0)), flags


def present(columns: Mapping[int, Column], part: Slot | Content, rows: int) -> Flags:
    """Tells which events have a value that a slot or table takes in."""
    flags = np.ones(rows, np.bool_)
    if part.where is not None:
        flags &= _meets(columns[part.where.field], part.where.equals)
    if part.field is not None:
        flags &= has_value(columns[part.field])
    return flags


def has_value(column: Column) -> Flags:
    """Tells which values are neither null nor numbers that cannot be added."""
    if column.dtype in FLOATS:
        flags = exact.is_usable(column.values.astype(np.float64))
    else:
        flags = np.ones(column.rows, np.bool_)
    return flags if column.validity is None else flags & column.validity


def _meets(column: Column, equals: bool | int | float | str) -> Flags:
    if column.dtype is not DataType.STRING:
        flags: Flags = column.values == equals
    else:
        flags = np.array([text == equals for text in column.text().tolist()], np.bool_)
    return flags if column.validity is None else flags & column.validity


def numbers(columns: Mapping[int, Column], slot: Slot, rows: int) -> Array:
    """Returns what each event adds to a slot."""
    flags = present(columns, slot, rows)
    if slot.kind is Kind.COUNT:
        return flags.astype(np.int64)
    dtype = np.float64 if slot.is_float else np.int64
    values: Array = columns[slot.field or 0].values.astype(dtype)
    if slot.is_float:
        # Zero has one sign here: which of two equal ones is the least is nobody's business.
        values = values + 0.0
    return np.where(flags, values, dtype(slot.neutral))


@dataclass(frozen=True, slots=True)
class Result:
    """The values of one field, one for each question."""

    values: Array
    present: Flags | None
    """Where there is a value; None where there always is."""
    is_null: Flags | None = None
    """Where the value is a null."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The answer for some fields of an aggregate view, field by field."""

    columns: tuple[Column, ...]
    statuses: tuple[bytes, ...]
    event_times: tuple[bytes, ...]


def finish(field: Field, merged: Sequence[Array]) -> Result:
    """Returns the values of a field from its merged slots, in the order of its slots."""
    count = merged[0]
    function = field.spec.function
    if function is _Function.COUNT:
        return Result(count, None)
    some = count > 0
    if function in (_Function.MEAN, _Function.SHARE):
        return Result(merged[1] / np.maximum(count, 1), some)
    return Result(np.where(some, merged[1], 0), some)


def computed(
    blueprint: Blueprint,
    fields: Sequence[int],
    results: Sequence[Result],
    newest: Sequence[Times],
    is_known: Flags,
) -> Computed:
    """Returns an answer from the results of some fields.

    Args:
        blueprint: The view.
        fields: Positions of the fields.
        results: The result of each.
        newest: For each the event time of its latest event, NO_TIME where there is none.
        is_known: False for rows whose key has a null part, which matches nothing.
    """
    columns, statuses, times = [], [], []
    for position, result, latest in zip(fields, results, newest, strict=True):
        column, status = _column(blueprint.fields[position].column, result, is_known)
        columns.append(column)
        statuses.append(status)
        found = np.where(is_known, latest, visibility.NO_TIME)
        times.append(found.astype("<i8", copy=False).tobytes())
    return Computed(tuple(columns), tuple(statuses), tuple(times))


def _column(spec: definitions.Field, result: Result, is_known: Flags) -> tuple[Column, bytes]:
    has = is_known if result.present is None else result.present & is_known
    absent = _STATUS.MISSING if spec.default is None else _STATUS.DEFAULT
    statuses = np.where(has, np.uint8(_STATUS.FRESH), np.uint8(absent)).tobytes()
    valid = has.copy() if spec.default is None else np.ones(len(has), np.bool_)
    if result.is_null is not None:
        valid &= ~(has & result.is_null)
    filler = 0 if spec.default is None else spec.default
    dtype = dtypes.NUMPY_TYPES[spec.dtype]
    values = np.where(has, result.values, np.asarray(filler, result.values.dtype))
    with np.errstate(over="ignore"):
        typed = values.astype(dtype)
    typed[~valid] = dtype.type(0)
    return column_parts.owned(spec.name, spec.dtype, typed, None, valid, len(typed)), statuses


def estimates(at_least: npt.NDArray[np.int64]) -> Result:
    """Returns estimates of distinct values."""
    return Result(sketch.estimate(at_least), None)
