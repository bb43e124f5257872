"""Columns to and from `setpoint.common.v1.ColumnBatch`; the place where outside bytes are checked."""

from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint.common.v1 import column_pb2
from setpoint_columns import bitmap, build, columns
from setpoint_columns import column as column_module
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import MAX_NAME_LENGTH, MAX_ROWS, NUMPY_TYPES, OFFSET_TYPE, DataType

_FIXED = {
    int(dtype): (dtype, NUMPY_TYPES[dtype], NUMPY_TYPES[dtype].itemsize) for dtype in DataType
}
del _FIXED[DataType.BOOL], _FIXED[DataType.STRING]
_frombuffer = np.frombuffer
_trusted = column_module.trusted


def to_proto(batch: Columns) -> column_pb2.ColumnBatch:
    """Returns the message for columns; text offsets start at zero and bits past the last row are zero."""
    message = column_pb2.ColumnBatch()
    fill(message, batch)
    return message


def fill(message: column_pb2.ColumnBatch, batch: Columns) -> None:
    """Puts columns into an empty message, such as a part of a larger one, which would copy a whole one."""
    message.rows = batch.rows
    add = message.columns.add
    for name, column in batch.by_name.items():
        added = add()
        added.name = name
        # The numbers are equal by contract (and by test), which saves a look-up for each column.
        dtype: Any = column.dtype
        added.dtype = dtype
        if dtype is DataType.STRING:
            data, offsets = column.text_bounds()
            added.values = data.tobytes()
            added.offsets = offsets.tobytes()
        elif dtype is DataType.BOOL:
            added.values = bitmap.pack(column.values)
        else:
            added.values = column.values.tobytes()
        if column.validity is not None:
            added.validity = bitmap.pack(column.validity)


def from_proto(message: column_pb2.ColumnBatch, field: str = "batch") -> Columns:
    """Returns the columns of an untrusted message, as views of its bytes.

    Args:
        message: The message; nothing about it is taken for granted.
        field: Path of the message in the request, for errors such as `batch.columns[3].offsets`.

    Raises:
        InvalidArgumentError: The message breaks the format; names the field, the value and the rule.
    """
    rows = message.rows
    if not 0 <= rows <= MAX_ROWS:
        raise build.malformed(f"{field}.rows", rows, f"must be from 0 to {MAX_ROWS}")
    parsed: dict[str, Column] = {}
    for index, item in enumerate(message.columns):
        name = item.name
        if name in parsed or not name or len(name) > MAX_NAME_LENGTH or "\0" in name:
            raise _bad_name(f"{field}.columns[{index}].name", name, name in parsed)
        number: int = item.dtype
        data = item.values
        bits = item.validity
        valid = _validity(bits, rows, field, index) if bits else None
        fixed = _FIXED.get(number)
        if fixed is not None:
            dtype, array_type, width = fixed
            if len(data) != rows * width:
                raise _bad_length(f"{field}.columns[{index}].values", len(data), rows * width, rows)
            if item.offsets:
                raise _unwanted_offsets(
                    f"{field}.columns[{index}].offsets", len(item.offsets), dtype
                )
            parsed[name] = _trusted(name, dtype, _frombuffer(data, array_type), None, valid, rows)
        elif number == 6:
            text, offsets = _text(item, data, rows, f"{field}.columns[{index}]")
            parsed[name] = _trusted(name, DataType.STRING, text, offsets, valid, rows)
        elif number == 1:
            flags = _flags(item, data, rows, f"{field}.columns[{index}]")
            parsed[name] = _trusted(name, DataType.BOOL, flags, None, valid, rows)
        else:
            raise build.malformed(
                f"{field}.columns[{index}].dtype", number, "must be a known data type"
            )
    return columns.trusted(rows, parsed)


def _validity(bits: bytes, rows: int, field: str, index: int) -> npt.NDArray[np.bool_]:
    if len(bits) != bitmap.byte_length(rows):
        raise _bad_length(
            f"{field}.columns[{index}].validity", len(bits), bitmap.byte_length(rows), rows
        )
    return bitmap.unpack(bits, rows)


def _flags(item: column_pb2.Column, data: bytes, rows: int, path: str) -> npt.NDArray[np.bool_]:
    if len(data) != bitmap.byte_length(rows):
        raise _bad_length(f"{path}.values", len(data), bitmap.byte_length(rows), rows)
    if item.offsets:
        raise _unwanted_offsets(f"{path}.offsets", len(item.offsets), DataType.BOOL)
    return bitmap.unpack(data, rows)


def _text(
    item: column_pb2.Column, data: bytes, rows: int, path: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    raw = item.offsets
    if rows == 0 and not raw:
        # Arrow allows an absent offset buffer for no rows.
        raw = b"\0\0\0\0"
    if len(raw) != (rows + 1) * 4:
        raise _bad_length(f"{path}.offsets", len(raw), (rows + 1) * 4, rows)
    offsets = _frombuffer(raw, OFFSET_TYPE)
    if offsets[0] != 0:
        raise build.malformed(f"{path}.offsets[0]", int(offsets[0]), "must be 0")
    if offsets[-1] < len(data):
        rule = f"must be {len(data)}, the length of values"
        raise build.malformed(f"{path}.offsets[{rows}]", int(offsets[-1]), rule)
    column_module.check_text(f"{path}.offsets", f"{path}.values", data, offsets)
    return _frombuffer(data, np.uint8), offsets


def _bad_name(field: str, name: str, duplicate: bool) -> Exception:
    if duplicate:
        return build.malformed(field, name, "must be unique within the batch")
    return build.malformed(field, name, f"must have 1 to {MAX_NAME_LENGTH} characters, none NUL")


def _bad_length(field: str, length: int, expected: int, rows: int) -> Exception:
    return build.malformed(field, f"{length} bytes", f"must have {expected} bytes for {rows} rows")


def _unwanted_offsets(field: str, length: int, dtype: DataType) -> Exception:
    return build.malformed(field, f"{length} bytes", f"must be empty for {dtype.name}")


def data_type_from_proto(number: int, field: str) -> DataType:
    """Returns the data type for a protocol enum value.

    Raises:
        InvalidArgumentError: The number is 0 or unknown; names `field`.
    """
    try:
        return DataType(number)
    except ValueError:
        raise build.malformed(field, number, "must be a known data type") from None


def data_type_to_proto(dtype: DataType) -> Any:
    """Returns the protocol enum value for a data type."""
    return dtype.value
