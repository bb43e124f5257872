"""A batch of rows on its way in: checked whole, packed, and reduced to what serving needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import checks, definitions, plan, point_in_time, visibility
from setpoint_runtime import errors

MAX_ROWS: Final = 100_000
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


def prepare(view: plan.CompiledView, columns: Columns, now: int, tolerance: int) -> Batch:
    """Checks and packs a batch; nothing of a bad one is used.

    Args:
        view: The view that is written.
        columns: Key columns, event_time, optionally created_time, and fields.
        now: The service's time; it stands for an absent created_time.
        tolerance: How far in the future times may lie, in microseconds, since clocks differ.

    Raises:
        InvalidArgumentError: Names the column and, where there is one, the row.
    """
    if columns.rows > MAX_ROWS:
        rule = f"must be at most {MAX_ROWS}"
        raise errors.invalid(f"{_FIELD}.rows", columns.rows, rule, errors.Reason.TOO_LARGE)
    _check_names(view, columns)
    event_times = _times(columns, definitions.EVENT_TIME)
    if event_times is None:
        raise errors.invalid(
            f"{_FIELD}.{definitions.EVENT_TIME}",
            None,
            "must be a column",
            errors.Reason.MISSING_FIELD,
        )
    _refuse_nulls(event_times)
    created_times = _created(columns, now)
    for name, values in (
        (definitions.EVENT_TIME, event_times.values),
        (definitions.CREATED_TIME, created_times),
    ):
        _check_not_future(name, values, now + tolerance)
    keys = view.codec.encode(columns, {}, _FIELD)
    checked_keys = _without_nulls(view, columns, keys)
    fields = [_field(columns, each) for each in view.view.fields]
    packed = view.layout.pack(fields, columns.rows)
    return Batch(checked_keys, event_times.values, created_times, packed)


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


def _times(columns: Columns, name: str) -> Column | None:
    column = columns.by_name.get(name)
    if column is not None and column.dtype is not DataType.TIMESTAMP:
        raise errors.invalid(
            f"{_FIELD}.{name}", column.dtype.name, "must be TIMESTAMP", errors.Reason.WRONG_TYPE
        )
    return column


def _created(columns: Columns, now: int) -> visibility.Times:
    column = _times(columns, definitions.CREATED_TIME)
    if column is None:
        return np.full(columns.rows, now, np.int64)
    if column.validity is None:
        return column.values
    return np.where(column.validity, column.values, now)


def _check_not_future(name: str, values: visibility.Times, limit: int) -> None:
    late = values > limit
    if late.any():
        row = int(np.flatnonzero(late)[0])
        raise errors.invalid(
            f"{_FIELD}.{name}[{row}]",
            int(values[row]),
            f"must not be after {limit}, the service's time and its tolerance",
            errors.Reason.EVENT_TIME_IN_FUTURE,
        )


def _refuse_nulls(column: Column) -> None:
    if column.validity is not None:
        row = int(np.flatnonzero(~column.validity)[0])
        raise errors.invalid(
            f"{_FIELD}.{column.name}[{row}]", None, "must not be null", errors.Reason.NULL_REFUSED
        )


def _without_nulls(
    view: plan.CompiledView, columns: Columns, keys: Sequence[bytes | None]
) -> list[bytes]:
    for key in view.view.keys:
        _refuse_nulls(columns[key.name])
    return [key for key in keys if key is not None]


def _field(columns: Columns, field: definitions.Field) -> Column | None:
    column = columns.by_name.get(field.name)
    if column is None:
        return None
    if column.dtype is not field.dtype:
        column = _converted(column, field)
    if column.offsets is not None:
        _check_lengths(column)
    return column


def _converted(column: Column, field: definitions.Field) -> Column:
    """Returns numbers in the field's type where each keeps its meaning."""
    numbers = {DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64}
    if column.dtype not in numbers or field.dtype not in numbers:
        raise errors.invalid(
            f"{_FIELD}.{column.name}",
            column.dtype.name,
            f"must be {field.dtype.name}",
            errors.Reason.WRONG_TYPE,
        )
    return column.rename(f"{_FIELD}.{column.name}"[:256]).cast(field.dtype)


def _check_lengths(column: Column) -> None:
    lengths = np.diff(column.text_bounds()[1])
    too_long = lengths > checks.MAX_TEXT_BYTES
    if too_long.any():
        row = int(np.flatnonzero(too_long)[0])
        raise errors.invalid(
            f"{_FIELD}.{column.name}[{row}]",
            f"{int(lengths[row])} bytes",
            f"must have at most {checks.MAX_TEXT_BYTES} bytes",
            errors.Reason.TOO_LARGE,
        )
