"""The rows of an output: what was asked, what was answered, and why not where it was not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from setpoint_columns import DataType
from setpoint_columns.dtypes import NUMPY_TYPES
from setpoint_rpc import status
from setpoint_runtime import errors
from setpoint_scoring.packing import Output

MAX_ERROR_LENGTH = 500
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_TEMPLATE = np.frombuffer(b"00000000-0000-7000-8000-000000000000", np.uint8)
_RANDOM = [*range(15, 18), *range(20, 23), *range(24, 36)]
"""Positions of the 18 digits that are random altogether."""

_VARIANT = 19
"""Position of the digit whose upper two bits are 10."""

_TEXT_BYTES = 36
_STATUSES = {2: "FEATURE_STALE", 3: "FEATURE_MISSING", 4: "FEATURE_DEFAULT"}
"""Degradations by number of a feature's status."""


def prediction_ids(seed: str, create_time: int, first_row: int, rows: int) -> pa.Array:
    """Returns ids of rows as UUIDs version 7: the same job, attempt and row always has the same.

    Args:
        seed: Names job and attempt.
        create_time: When the attempt was asked for, microseconds UTC.
        first_row: Position of the first row.
        rows: How many.
    """
    texts = np.tile(_TEMPLATE, (rows, 1))
    stamp = f"{create_time // 1000:012x}".encode()
    texts[:, :8] = np.frombuffer(stamp[:8], np.uint8)
    texts[:, 9:13] = np.frombuffer(stamp[8:], np.uint8)
    # A counter-based generator: the numbers of a row need none of the rows before.
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest()[:16], np.uint64)
    generator = np.random.Philox(key=key, counter=first_row)
    drawn = generator.random_raw(4 * rows).astype("<u8").view(np.uint8).reshape(rows, 32)
    texts[:, _RANDOM[:9]] = _DIGITS[drawn[:, :9] & 15]
    texts[:, _RANDOM[9:]] = _DIGITS[drawn[:, :9] >> 4]
    texts[:, _VARIANT] = _DIGITS[8 + (drawn[:, 9] & 3)]
    offsets = np.arange(0, _TEXT_BYTES * (rows + 1), _TEXT_BYTES, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(texts))


def error_columns(bad: Mapping[int, errors.SetpointError], rows: int) -> tuple[pa.Array, pa.Array]:
    """Returns the columns `status` and `error`."""
    codes = np.zeros(rows, np.int32)
    if not bad:
        return pa.array(codes), pa.nulls(rows, pa.string())
    texts: list[str | None] = [None] * rows
    for row, error in bad.items():
        codes[row] = status.code_of(error).value[0]
        texts[row] = f"{error.reason.value}: {error.message}"[:MAX_ERROR_LENGTH]
    return pa.array(codes), pa.array(texts, pa.string())


def degradations(
    names: Sequence[str],
    statuses: Sequence[bytes],
    flags: Mapping[int, Sequence[str]],
    rows: int,
) -> pa.Array:
    """Returns the column `degradations`.

    Args:
        names: The features.
        statuses: For each of them one byte a row.
        flags: Further pieces by row.
        rows: How many there are.
    """
    table = np.array([np.frombuffer(each, np.uint8) for each in statuses]).T if statuses else None
    if table is None or not np.isin(table, list(_STATUSES)).any():
        texts = pa.nulls(rows, pa.string())
    else:
        # Few patterns stand for many rows.
        patterns, found = np.unique(table, axis=0, return_inverse=True)
        told = pa.array([_pattern(names, each) for each in patterns.tolist()], pa.string())
        texts = told.take(pa.array(found.reshape(-1)))
    if not flags:
        return texts
    listed = texts.to_pylist()
    for row, pieces in flags.items():
        listed[row] = ",".join([*([listed[row]] if listed[row] else []), *pieces])
    return pa.array(listed, pa.string())


def _pattern(names: Sequence[str], statuses: Sequence[int]) -> str | None:
    pieces = [
        f"{_STATUSES[each]}:{name}"
        for name, each in zip(names, statuses, strict=True)
        if each in _STATUSES
    ]
    return ",".join(pieces) or None


def output_columns(
    parts: Sequence[tuple[npt.NDArray[np.intp], Sequence[Output]]],
    fields: Mapping[str, DataType],
    rows: int,
) -> list[pa.Array]:
    """Returns the model's output columns for all rows, null where there is no answer."""
    if len(parts) == 1 and len(parts[0][0]) == rows:
        return [_whole(each) for each in parts[0][1]]
    present = np.zeros(rows, np.bool_)
    for indices, _ in parts:
        present[indices] = True
    columns = []
    for position, dtype in enumerate(fields.values()):
        is_text = dtype is DataType.STRING
        values = np.full(rows, None) if is_text else np.zeros(rows, NUMPY_TYPES[dtype])
        for indices, outputs in parts:
            values[indices] = outputs[position].values
        columns.append(pa.array(values, arrow_type(dtype), mask=~present))
    return columns


def _whole(output: Output) -> pa.Array:
    values: Any = output.values
    return pa.array(np.ascontiguousarray(values), arrow_type(output.dtype))


def arrow_type(dtype: DataType) -> pa.DataType:
    """Returns the type of a column in files."""
    return _ARROW[dtype]


_ARROW = {
    DataType.BOOL: pa.bool_(),
    DataType.INT32: pa.int32(),
    DataType.INT64: pa.int64(),
    DataType.FLOAT32: pa.float32(),
    DataType.FLOAT64: pa.float64(),
    DataType.STRING: pa.string(),
    DataType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}
