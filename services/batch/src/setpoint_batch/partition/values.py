"""Columns of files as the types that are wanted; a value that does not fit makes its row bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from setpoint_artifacts.signature import TensorSpec
from setpoint_batch.partition import failures
from setpoint_columns import Column, Columns, DataType, interop
from setpoint_columns.dtypes import FLOATS, INTEGERS, NUMBERS, NUMPY_TYPES
from setpoint_runtime import errors

MAX_TEXT_BYTES = 64 * 1024
"""As online."""

MAX_KEY_BYTES = 1024

RowErrors = dict[int, errors.SetpointError]

_ARROW = {
    DataType.BOOL: pa.bool_(),
    DataType.INT32: pa.int32(),
    DataType.INT64: pa.int64(),
    DataType.FLOAT32: pa.float32(),
    DataType.FLOAT64: pa.float64(),
    DataType.STRING: pa.string(),
    DataType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}


@dataclass(slots=True)
class Fitted:
    """Columns of the wanted types, and the rows that have a value which does not fit."""

    columns: Columns
    bad: RowErrors = field(default_factory=dict)


def can_become(dtype: DataType, wanted: DataType) -> bool:
    """Says whether values of a type may fit another one; each is judged by itself."""
    if dtype is wanted:
        return True
    return dtype in NUMBERS and (wanted in FLOATS or (dtype in INTEGERS and wanted in INTEGERS))


def typed(table: pa.Table, wanted: Mapping[str, DataType], url: str, first_row: int) -> pa.Table:
    """Returns a table of text with the wanted columns parsed.

    Raises:
        InvalidArgumentError: INVALID_INPUT, naming file, column and row of what cannot be parsed.
    """
    for name, dtype in wanted.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(
            index, name, _parsed(table.column(name), dtype, url, name, first_row)
        )
    return table


def _parsed(texts: Any, dtype: DataType, url: str, name: str, first_row: int) -> Any:
    target = _ARROW[dtype]
    if target == texts.type:
        return texts
    try:
        return compute.cast(texts, target)
    except pa.ArrowInvalid:
        row = _first_bad(texts, target)
        what = f"{str(texts[row])[:80]!r} is no {dtype.name}"
        if dtype is DataType.TIMESTAMP:
            what += " with a time zone"
        raise failures.invalid_input(url, what, column=name, row=first_row + row) from None


def _first_bad(texts: Any, target: pa.DataType) -> int:
    """Returns the first row that cannot be parsed, by halves."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            compute.cast(texts.slice(low, middle - low), target)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def fit(
    table: pa.Table, wanted: Mapping[str, DataType], first_row: int, max_text: int = MAX_TEXT_BYTES
) -> Fitted:
    """Returns the wanted columns of a table in their types.

    Args:
        table: It has the columns, of types that can become the wanted ones.
        wanted: Types by name.
        first_row: Position of its first row in the input, for errors.
        max_text: Most bytes of one text.
    """
    made = Fitted(Columns(table.num_rows))
    columns = []
    for column in interop.from_arrow(table.select(list(wanted))).columns:
        dtype = wanted[column.name]
        if column.dtype is not dtype:
            column = _converted(column, dtype, made.bad, first_row)
        if column.offsets is not None:
            long = np.flatnonzero(np.diff(column.offsets) > max_text)
            rule = f"must have at most {max_text} bytes"
            _mark(made.bad, column, long, first_row, rule, errors.Reason.TOO_LARGE)
        columns.append(column)
    made.columns = Columns(table.num_rows, columns)
    return made


def _converted(column: Column, dtype: DataType, bad: RowErrors, first_row: int) -> Column:
    """Returns a column of numbers in another type of number, like the router for online requests."""
    source, to = column.values, NUMPY_TYPES[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        converted = source.astype(to)
        if column.dtype in FLOATS:
            lost = np.isinf(converted) & ~np.isinf(source)
        elif dtype in FLOATS:
            exact = converted.astype(np.float64)
            lost = (exact.astype(np.int64) != source) | (exact >= 2.0**63)
        else:
            lost = converted.astype(source.dtype) != source
    if column.validity is not None:
        lost &= column.validity
    _mark(
        bad,
        column,
        np.flatnonzero(lost),
        first_row,
        f"must fit {dtype.name}",
        errors.Reason.WRONG_TYPE,
    )
    return Column(column.name, dtype, converted, None, column.validity)


def refuse_missing(columns: Columns, specs: tuple[TensorSpec, ...], first_row: int) -> RowErrors:
    """Returns the rows with a missing value that the model has no form for."""
    bad: RowErrors = {}
    for spec in specs:
        rules = dict(spec.missing)
        for name in spec.columns:
            column = columns.by_name.get(name)
            if column is None or (spec.dtype in FLOATS and name not in rules):
                continue
            if rules.get(name) is not None:
                continue
            mask = column.null_mask()
            if spec.dtype in FLOATS and column.dtype in FLOATS:
                gone = np.isnan(column.values)
                mask = gone if mask is None else mask | gone
            if mask is not None:
                _mark(
                    bad,
                    column,
                    np.flatnonzero(mask),
                    first_row,
                    "must not be missing",
                    errors.Reason.NULL_REFUSED,
                )
    return bad


def _mark(
    bad: RowErrors,
    column: Column,
    rows: npt.NDArray[np.intp],
    first_row: int,
    rule: str,
    reason: errors.Reason,
) -> None:
    for row in rows.tolist():
        path = f'rows["{column.name}"][{first_row + row}]'
        bad.setdefault(row, errors.invalid(path, column.item(row), rule, reason))
