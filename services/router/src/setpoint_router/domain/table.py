"""Checks and conversions of whole columns that callers send, row by row where a row is wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_columns import column as column_module
from setpoint_router.domain import values
from setpoint_router.domain.route import Field
from setpoint_runtime import errors

_NUMBERS = frozenset({DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64})
_NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT32: np.dtype("<f4"),
    DataType.FLOAT64: np.dtype("<f8"),
}
RowErrors = dict[int, errors.SetpointError]


def fitted(
    rows: Columns,
    fields: Sequence[Field],
    *,
    may_be_null: bool,
    bad: RowErrors,
    max_text_bytes: int = values.MAX_TEXT_BYTES,
) -> Columns:
    """Returns the columns that fields describe.

    Args:
        rows: What the caller sent.
        fields: What is wanted.
        may_be_null: Whether nulls are left to later checks; else they make a row bad.
        bad: Gets the rows whose values do not fit.
        max_text_bytes: Most bytes of one text.

    Raises:
        InvalidArgumentError: A column is absent or of another type.
    """
    found = []
    for field in fields:
        column = rows.by_name.get(field.name)
        if column is None:
            raise values.missing(f'rows["{field.name}"]')
        fitting = _of_type(column, field, bad)
        if not may_be_null and fitting.validity is not None:
            for row in np.flatnonzero(~fitting.validity).tolist():
                bad.setdefault(row, values.null_refused(f'rows["{field.name}"][{row}]'))
        if field.dtype is DataType.STRING:
            _check_texts(fitting, bad, max_text_bytes)
        found.append(fitting)
    return Columns(rows.rows, found)


def _of_type(column: Column, field: Field, bad: RowErrors) -> Column:
    if column.dtype is field.dtype:
        return column
    if column.dtype in _NUMBERS and field.dtype in values.FLOATS:
        return _as_float(column, field.dtype, bad)
    whole = {DataType.INT32, DataType.INT64}
    if column.dtype in whole and field.dtype in whole:
        return column.cast(field.dtype)
    raise errors.invalid(
        f'rows["{field.name}"]',
        column.dtype.name,
        f"must be {field.dtype.name}",
        errors.Reason.WRONG_TYPE,
    )


def _as_float(column: Column, dtype: DataType, bad: RowErrors) -> Column:
    source = column.values
    with np.errstate(over="ignore", invalid="ignore"):
        converted = source.astype(_NUMPY[dtype])
        if column.dtype in values.FLOATS:
            lost = np.isinf(converted) & ~np.isinf(source)
        else:
            exact = converted.astype(np.float64)
            lost = (exact.astype(np.int64) != source) | (exact >= 2.0**63)
    if column.validity is not None:
        lost &= column.validity
    for row in np.flatnonzero(lost).tolist():
        path = f'rows["{column.name}"][{row}]'
        bad.setdefault(row, values.wrong_type(path, source[row].item(), dtype))
    validity = None if column.validity is None else column.validity.copy()
    return column_module.owned(column.name, dtype, converted, None, validity, column.rows)


def _check_texts(column: Column, bad: RowErrors, max_bytes: int) -> None:
    if column.offsets is None:
        return
    long = np.diff(column.offsets) > max_bytes
    if not long.any():
        return
    for row in np.flatnonzero(long).tolist():
        rule = f"must have at most {max_bytes} bytes"
        bad.setdefault(
            row,
            errors.invalid(
                f'rows["{column.name}"][{row}]',
                column.item(row),
                rule,
                errors.Reason.TOO_LARGE,
            ),
        )


def refuse_unknown(rows: Columns, allowed: frozenset[str]) -> None:
    """Refuse a table with a column that nobody asked for.

    Raises:
        InvalidArgumentError: Names it.
    """
    for name in rows.names:
        if name not in allowed:
            raise values.unknown(f'rows["{name[:100]}"]', name)


def row_bytes(rows: Columns) -> int:
    """Returns about how many bytes a row takes, at least 1."""
    if not rows.rows:
        return 1
    total = sum(each.values.nbytes for each in rows.columns)
    return max(1, -(-total // rows.rows))


def spread(columns: Sequence[tuple[npt.NDArray[np.intp], Column]], rows: int) -> Column:
    """Returns one column of pieces that belong to some rows each, null elsewhere.

    Pieces of different number types meet in FLOAT64.

    Raises:
        InvalidArgumentError: The types of the pieces are unrelated.
    """
    dtype = columns[0][1].dtype
    if any(each.dtype is not dtype for _, each in columns):
        dtype = DataType.FLOAT64
    pieces = [Columns(len(each), [each.cast(dtype)]) for _, each in columns]
    together = Columns.concat(pieces).columns[0]
    positions = np.full(rows, -1, np.intp)
    positions[np.concatenate([indices for indices, _ in columns])] = np.arange(len(together))
    taken = (
        together.take(np.maximum(positions, 0))
        if len(together)
        else values.null_column(Field(together.name, dtype), rows)
    )
    valid = positions >= 0
    if taken.validity is not None:
        valid &= taken.validity
    return Column(taken.name, dtype, taken.values, taken.offsets, valid, rows)
