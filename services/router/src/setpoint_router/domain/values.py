"""Rules for the values of a request, and the errors that name what breaks them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_columns import column as column_module
from setpoint_router.domain.route import Field
from setpoint_runtime import errors

MAX_TEXT_BYTES = 64 * 1024
"""Longest text of one input; anything longer is a mistake or an attack, and would fill records."""

MAX_KEY_BYTES = 1024
"""Longest text of an entity key: what the feature service looks up. It would refuse a longer one
together with all the questions that travel with it."""

FLOATS = frozenset({DataType.FLOAT32, DataType.FLOAT64})
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_INT32 = (-(2**31), 2**31 - 1)
_EXPECTED = {
    DataType.BOOL: "must be a bool",
    DataType.INT32: "must be an integer from -2147483648 to 2147483647",
    DataType.INT64: "must be an integer",
    DataType.FLOAT32: "must be a number that fits FLOAT32",
    DataType.FLOAT64: "must be a number",
    DataType.STRING: "must be text",
    DataType.TIMESTAMP: "must be a timestamp in microseconds",
}
_NUMPY = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FLOAT32: np.dtype("<f4"),
    DataType.FLOAT64: np.dtype("<f8"),
    DataType.TIMESTAMP: np.dtype("<i8"),
}


class Timestamp(int):
    """Microseconds that the caller marked as a time; a plain integer is none."""


def check_value(
    path: str,
    value: Any,
    dtype: DataType,
    *,
    may_be_null: bool,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> Any:
    """Returns one value of a request as its column takes it.

    Args:
        path: The field as the caller wrote it, such as `inputs["hour"]`.
        value: bool, int, float, str, `Timestamp` or None.
        dtype: The declared type.
        may_be_null: Whether None is accepted.
        max_text_bytes: Most bytes of a text.

    Raises:
        InvalidArgumentError: Names path, value and rule.
    """
    if value is None:
        if may_be_null:
            return None
        raise null_refused(path)
    kind = type(value)
    if dtype in FLOATS:
        return _check_number(path, value, kind, dtype)
    if dtype is DataType.STRING and kind is str:
        return check_text(path, value, max_text_bytes)
    if dtype is DataType.BOOL and kind is bool:
        return value
    if dtype is DataType.TIMESTAMP and kind is Timestamp:
        return int(value)
    if kind is int and (
        dtype is DataType.INT64 or (dtype is DataType.INT32 and _INT32[0] <= value <= _INT32[1])
    ):
        return value
    raise wrong_type(path, value, dtype)


def _check_number(path: str, value: Any, kind: type, dtype: DataType) -> float:
    if kind is float:
        if dtype is DataType.FLOAT32 and math.isfinite(value) and abs(value) > _MAX_FLOAT32:
            raise wrong_type(path, value, dtype)
        return value  # type: ignore[no-any-return]
    if kind is int:
        exact = float(np.float32(value)) if dtype is DataType.FLOAT32 else float(value)
        if exact == value:
            return exact
    raise wrong_type(path, value, dtype)


def check_text(path: str, text: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Returns text that is not too long.

    Raises:
        InvalidArgumentError: It is.
    """
    # No character takes more than four bytes, so short text needs no encoding to be measured.
    if len(text) * 4 > max_bytes and (len(text) > max_bytes or len(text.encode()) > max_bytes):
        rule = f"must have at most {max_bytes} bytes"
        raise errors.invalid(path, text, rule, errors.Reason.TOO_LARGE)
    return text


def wrong_type(path: str, value: Any, dtype: DataType) -> errors.InvalidArgumentError:
    """Returns the error for a value of another type."""
    return errors.invalid(path, value, _EXPECTED[dtype], errors.Reason.WRONG_TYPE)


def null_refused(path: str) -> errors.InvalidArgumentError:
    """Returns the error for a null where none is allowed."""
    return errors.invalid(path, None, "must not be null", errors.Reason.NULL_REFUSED)


def missing(path: str) -> errors.InvalidArgumentError:
    """Returns the error for an input that is absent."""
    return errors.invalid(path, None, "must be given", errors.Reason.MISSING_FIELD)


def unknown(path: str, name: str) -> errors.InvalidArgumentError:
    """Returns the error for an input that nobody asked for."""
    return errors.invalid(path, name, "is not known to the route", errors.Reason.UNKNOWN_FIELD)


def key_missing(name: str) -> errors.InvalidArgumentError:
    """Returns the error for an entity key that is absent."""
    return errors.invalid(
        f'entities["{name}"]', None, "must be given", errors.Reason.ENTITY_KEY_MISSING
    )


def tabulate(
    fields: Sequence[Field], rows: Sequence[Sequence[Any]], path: str
) -> tuple[Columns, list[tuple[int, errors.InvalidArgumentError]]]:
    """Returns rows of checked values as columns, and the rows that do not fit after all.

    A FLOAT32 that is out of range is found here, for all rows at once; its row holds infinity.

    Args:
        fields: Names and types, in the order of the values of each row.
        rows: One sequence of values for each row.
        path: Where the values come from, `inputs` or `entities`.
    """
    count = len(rows)
    bad: list[tuple[int, errors.InvalidArgumentError]] = []
    if fields and all(each.dtype in FLOATS for each in fields):
        # One array for all columns costs a fraction of one for each.
        table = np.array(rows, np.float64)
        if not np.isnan(table).any():
            return Columns(count, _float_columns(fields, table, path, bad)), bad
    columns = {}
    for field, values in zip(fields, zip(*rows, strict=True), strict=True):
        columns[field.name] = _column(field, values, path, bad)
    return Columns(count, columns.values()), bad


def _float_columns(
    fields: Sequence[Field],
    table: npt.NDArray[np.float64],
    path: str,
    bad: list[tuple[int, errors.InvalidArgumentError]],
) -> list[Column]:
    """Returns the columns of a table of numbers."""
    rows = len(table)
    wide = np.ascontiguousarray(table.T)
    narrow = None
    if any(each.dtype is DataType.FLOAT32 for each in fields):
        with np.errstate(over="ignore"):
            narrow = wide.astype("<f4")
        if np.isinf(narrow).any():
            _note_overflow(fields, wide, narrow, path, bad)
    made = []
    for at, field in enumerate(fields):
        is_wide = narrow is None or field.dtype is DataType.FLOAT64
        array = wide[at] if is_wide or narrow is None else narrow[at]
        made.append(column_module.owned(field.name, field.dtype, array, None, None, rows))
    return made


def _note_overflow(
    fields: Sequence[Field],
    wide: npt.NDArray[np.float64],
    narrow: npt.NDArray[np.float32],
    path: str,
    bad: list[tuple[int, errors.InvalidArgumentError]],
) -> None:
    lost = np.isinf(narrow) & ~np.isinf(wide)
    for at, row in np.argwhere(lost).tolist():
        field = fields[at]
        if field.dtype is DataType.FLOAT32:
            error = wrong_type(f'{path}["{field.name}"]', wide[at, row].item(), field.dtype)
            bad.append((row, error))


def _column(
    field: Field,
    values: tuple[Any, ...],
    path: str,
    bad: list[tuple[int, errors.InvalidArgumentError]],
) -> Column:
    dtype = field.dtype
    if dtype in FLOATS:
        # None becomes NaN here, which is what a float input takes for a null.
        array = (
            np.array(values, np.float64)
            if dtype is DataType.FLOAT64
            else _narrowed(field, values, path, bad)
        )
        valid = np.array([each is not None for each in values]) if None in values else None
    elif dtype is DataType.STRING or dtype is DataType.BOOL or None in values:
        return Column.from_list(field.name, values, dtype)
    else:
        array, valid = np.array(values, _NUMPY[dtype]), None
    return column_module.owned(field.name, dtype, array, None, valid, len(values))


def _narrowed(
    field: Field,
    values: tuple[Any, ...],
    path: str,
    bad: list[tuple[int, errors.InvalidArgumentError]],
) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype("<f4")
    if np.isinf(array).any():
        for row in np.flatnonzero(np.isinf(array)).tolist():
            if math.isfinite(values[row]):
                error = wrong_type(f'{path}["{field.name}"]', values[row], field.dtype)
                bad.append((row, error))
    return array


def with_sent(entities: Columns, requested: Columns, names: Sequence[str]) -> Columns:
    """Returns entities with the request fields that the feature service computes with beside them."""
    sent = [requested[name] for name in names if name not in entities]
    return Columns(entities.rows, [*entities.columns, *sent]) if sent else entities


def null_column(field: Field, rows: int) -> Column:
    """Returns a column of nulls."""
    valid = np.zeros(rows, np.bool_)
    if field.dtype is DataType.STRING:
        text, offsets = np.empty(0, np.uint8), np.zeros(rows + 1, np.int32)
        return column_module.owned(field.name, field.dtype, text, offsets, valid, rows)
    array = np.zeros(rows, _NUMPY[field.dtype])
    return column_module.owned(field.name, field.dtype, array, None, valid, rows)
