"""A batch of rows on its way in: checked whole, packed, and reduced to what serving needs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import (
    checks,
    definitions,
    keys,
    plan,
    point_in_time,
    refusal,
    visibility,
)
from setpoint_runtime import errors

MAX_ROWS: Final = 100_000
_FLOATS: Final = frozenset({DataType.FLOAT32, DataType.FLOAT64})
_NUMBERS: Final = frozenset({DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64})
_FIELD: Final = "rows"


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked rows of one view, column by column."""

    keys: list[bytes]
    event_times: visibility.Times
    created_times: visibility.Times
    rows: list[bytes]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.keys)

    def greatest(self) -> npt.NDArray[np.int64]:
        """Returns the position of the greatest row of each key, later rows winning ties."""
        numbers = {key: number for number, key in enumerate(dict.fromkeys(self.keys))}
        if len(numbers) == len(self.keys):
            return np.arange(len(self.keys))
        values = point_in_time.Values(
            np.fromiter(map(numbers.__getitem__, self.keys), np.int64, len(self.keys)),
            self.event_times,
            self.created_times,
            np.arange(len(self.keys)),
        )
        return point_in_time.greatest(values)


def concat(parts: Sequence[Batch]) -> Batch:
    """Returns the rows of several batches of one view, in order."""
    if len(parts) == 1:
        return parts[0]
    return Batch(
        list(itertools.chain.from_iterable(part.keys for part in parts)),
        np.concatenate([part.event_times for part in parts]),
        np.concatenate([part.created_times for part in parts]),
        list(itertools.chain.from_iterable(part.rows for part in parts)),
    )


def prepare(
    view: plan.CompiledView,
    columns: Columns,
    now: int,
    tolerance: int,
    *,
    keep_good: bool = False,
) -> tuple[Batch, refusal.Refused]:
    """Checks and packs a batch.

    Args:
        view: The view that is written.
        columns: Key columns, event_time, optionally created_time, and fields.
        now: The service's time; it stands for an absent created_time.
        tolerance: How far in the future times may lie, in microseconds, since clocks differ.
        keep_good: Whether bad rows are left out, rather than refuse the batch.

    Returns:
        The rows, and those that were left out.

    Raises:
        InvalidArgumentError: Names the column and, where there is one, the row; nothing is to be used.
    """
    if columns.rows > MAX_ROWS:
        rule = f"must be at most {MAX_ROWS}"
        raise errors.invalid(f"{_FIELD}.rows", columns.rows, rule, errors.Reason.TOO_LARGE)
    _check_names(view, columns)
    judge = refusal.Judge(columns.rows, _FIELD, keep_good=keep_good)
    times = _judge_times(judge, columns, now, now + tolerance)
    _judge_keys(judge, view, columns)
    for each in view.view.fields:
        _judge_field(judge, columns, each)
    good = judge.good()
    if good is not None:
        columns = columns.take(good)
        times = times[0][good], times[1][good]
    # No key is null any more.
    encoded = [key for key in view.codec.encode(columns, {}, _FIELD) if key is not None]
    fields = [_field(columns, each) for each in view.view.fields]
    rows = Batch(encoded, times[0], times[1], view.layout.pack(fields, columns.rows))
    return rows, judge.refused()


def _check_names(view: plan.CompiledView, columns: Columns) -> None:
    known = definitions.RESERVED_COLUMNS | {each.name for each in view.view.fields}
    known |= {key.name for key in view.view.keys}
    for name in columns:
        if name not in known:
            raise errors.invalid(
                f"{_FIELD}.{name}",
                name,
                f"must be a key, a field or a time of the view {view.view.name}",
                errors.Reason.UNKNOWN_FIELD,
            )


def _judge_times(
    judge: refusal.Judge, columns: Columns, now: int, limit: int
) -> tuple[visibility.Times, visibility.Times]:
    """Returns event times and created times."""
    events = _times(columns, definitions.EVENT_TIME)
    if events is None:
        raise errors.invalid(
            f"{_FIELD}.{definitions.EVENT_TIME}",
            None,
            "must be a column",
            errors.Reason.MISSING_FIELD,
        )
    _judge_nulls(judge, events)
    created = _times(columns, definitions.CREATED_TIME)
    created_times = np.full(columns.rows, now, np.int64) if created is None else created.values
    if created is not None and created.validity is not None:
        created_times = np.where(created.validity, created_times, now)
    rule = f"must not be after {limit}, the service's time and its tolerance"
    for name, values, valid in (
        (definitions.EVENT_TIME, events.values, events.validity),
        (definitions.CREATED_TIME, created_times, None),
    ):
        late = values > limit
        if valid is not None:
            late &= valid
        judge.refuse(name, late, values.item, rule, errors.Reason.EVENT_TIME_IN_FUTURE)
    return events.values, created_times


def _times(columns: Columns, name: str) -> Column | None:
    column = columns.by_name.get(name)
    if column is not None and column.dtype is not DataType.TIMESTAMP:
        raise errors.invalid(
            f"{_FIELD}.{name}", column.dtype.name, "must be TIMESTAMP", errors.Reason.WRONG_TYPE
        )
    return column


def _judge_keys(judge: refusal.Judge, view: plan.CompiledView, columns: Columns) -> None:
    found = view.codec.find(columns, {}, _FIELD)
    for column in found:
        _judge_nulls(judge, column)
        _judge_lengths(judge, column, keys.MAX_KEY_BYTES)
    texts = [(each.name, np.diff(each.offsets)) for each in found if each.offsets is not None]
    if len(texts) < 2:
        return
    lengths = np.sum([each for _, each in texts], axis=0)
    judge.refuse(
        texts[-1][0],
        lengths > keys.MAX_TEXT_BYTES,
        lambda row: f"{int(lengths[row])} bytes",
        f"must have together with the other key columns at most {keys.MAX_TEXT_BYTES} bytes",
        errors.Reason.TOO_LARGE,
    )


def _judge_nulls(judge: refusal.Judge, column: Column) -> None:
    if column.validity is not None:
        judge.refuse(
            column.name,
            ~column.validity,
            column.item,
            "must not be null",
            errors.Reason.NULL_REFUSED,
        )


def _judge_lengths(judge: refusal.Judge, column: Column, longest: int) -> None:
    if column.offsets is None:
        return
    lengths = np.diff(column.offsets)
    judge.refuse(
        column.name,
        lengths > longest,
        lambda row: f"{int(lengths[row])} bytes",
        f"must have at most {longest} bytes",
        errors.Reason.TOO_LARGE,
    )


def _judge_field(judge: refusal.Judge, columns: Columns, field: definitions.Field) -> None:
    column = columns.by_name.get(field.name)
    if column is None:
        return
    if column.dtype is not field.dtype:
        if column.dtype not in _NUMBERS or field.dtype not in _NUMBERS:
            raise errors.invalid(
                f"{_FIELD}.{column.name}",
                column.dtype.name,
                f"must be {field.dtype.name}",
                errors.Reason.WRONG_TYPE,
            )
        rule = f"has no exact {field.dtype.name}"
        misfits = column.misfits(field.dtype)
        judge.refuse(column.name, misfits, column.item, rule, errors.Reason.WRONG_TYPE)
    _judge_lengths(judge, column, checks.MAX_TEXT_BYTES)
    if field.finite and column.dtype in _FLOATS:
        strange = ~np.isfinite(column.values)
        if column.validity is not None:
            strange &= column.validity
        judge.refuse(
            column.name, strange, column.item, "must be finite", errors.Reason.INVALID_FIELD
        )


def _field(columns: Columns, field: definitions.Field) -> Column | None:
    column = columns.by_name.get(field.name)
    return None if column is None else column.cast(field.dtype)
