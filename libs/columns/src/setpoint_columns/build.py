"""Arrays for columns from Python values and from numpy arrays of other types."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import utf8
from setpoint_columns.dtypes import FLOATS, INTEGERS, MAX_TEXT_BYTES, NUMBERS, NUMPY_TYPES, DataType
from setpoint_runtime import errors

AnyArray = npt.NDArray[Any]
Parts = tuple[AnyArray, npt.NDArray[np.int32] | None, npt.NDArray[np.bool_] | None]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)

_BOOL_TYPES: Final = frozenset({bool, np.bool_})
_INT_TYPES: Final = frozenset(
    {int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64}
)
_FLOAT_TYPES: Final = _INT_TYPES | {float, np.float16, np.float32, np.float64}

_ALLOWED: Final[dict[DataType, frozenset[type]]] = {
    DataType.BOOL: _BOOL_TYPES,
    DataType.INT32: _INT_TYPES,
    DataType.INT64: _INT_TYPES,
    DataType.FLOAT32: _FLOAT_TYPES,
    DataType.FLOAT64: _FLOAT_TYPES,
    DataType.STRING: frozenset({str, np.str_}),
    DataType.TIMESTAMP: _INT_TYPES,
}
_EXPECTED: Final[dict[DataType, str]] = {
    DataType.BOOL: "must be a bool",
    DataType.INT32: "must be an integer from -2147483648 to 2147483647",
    DataType.INT64: "must be an integer from -9223372036854775808 to 9223372036854775807",
    DataType.FLOAT32: "must be a number",
    DataType.FLOAT64: "must be a number",
    DataType.STRING: "must be text of valid Unicode",
    DataType.TIMESTAMP: "must be an integer of microseconds since 1970 UTC or a datetime with a time zone",
}
_FILLERS: Final[dict[DataType, Any]] = {
    DataType.BOOL: False,
    DataType.INT32: 0,
    DataType.INT64: 0,
    DataType.FLOAT32: 0.0,
    DataType.FLOAT64: 0.0,
    DataType.STRING: "",
    DataType.TIMESTAMP: 0,
}
_INT_LIMITS: Final = {
    DataType.INT32: (-(1 << 31), (1 << 31) - 1),
    DataType.INT64: (-(1 << 63), (1 << 63) - 1),
}
_NONE_TYPE: Final = type(None)


def malformed(field: str, value: object, rule: str) -> errors.InvalidArgumentError:
    """Returns the error for arrays or bytes that do not have the form of a column."""
    return errors.invalid(field, value, rule, errors.Reason.MALFORMED_COLUMNS)


def wrong_type(field: str, value: object, rule: str) -> errors.InvalidArgumentError:
    """Returns the error for a value that the type of a column does not admit."""
    return errors.invalid(field, value, rule, errors.Reason.WRONG_TYPE)


def from_values(name: str, values: Sequence[Any], dtype: DataType) -> Parts:
    """Returns arrays for Python values, None meaning null.

    Raises:
        InvalidArgumentError: A value has the wrong type or does not fit; names row and value.
    """
    valid = None
    found = set(map(type, values))
    if _NONE_TYPE in found:
        valid = np.array([value is not None for value in values], np.bool_)
        filler = _FILLERS[dtype]
        values = [filler if value is None else value for value in values]
        found.discard(_NONE_TYPE)
    if not found <= _ALLOWED[dtype]:
        values = _convert_values(name, values, dtype)
    if dtype is DataType.STRING:
        data, offsets = _from_texts(name, values)
        return data, offsets, valid
    try:
        return np.array(values, NUMPY_TYPES[dtype]), None, valid
    except OverflowError:
        raise _refused(name, values, dtype) from None


def _from_texts(
    name: str, values: Sequence[str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    try:
        data, offsets = utf8.encode(values)
    except UnicodeEncodeError:
        raise _refused(name, values, DataType.STRING) from None
    if offsets is None:
        raise _too_much_text(name, len(data))
    return data, offsets


def narrow_offsets(name: str, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Returns int64 offsets as int32.

    Raises:
        InvalidArgumentError: The text is too long for int32 offsets.
    """
    if offsets[-1] > MAX_TEXT_BYTES:
        raise _too_much_text(name, int(offsets[-1]))
    return offsets.astype(np.int32)


def _too_much_text(name: str, length: int) -> errors.InvalidArgumentError:
    return malformed(name, f"{length} bytes of text", f"must have at most {MAX_TEXT_BYTES}")


def _convert_values(name: str, values: Sequence[Any], dtype: DataType) -> list[Any]:
    """Converts the few types that need it, one value at a time; off the fast path."""
    allowed = _ALLOWED[dtype]
    converted = []
    for row, value in enumerate(values):
        if type(value) in allowed:
            converted.append(value)
        elif (
            dtype is DataType.TIMESTAMP
            and isinstance(value, dt.datetime)
            and value.tzinfo is not None
        ):
            converted.append((value - _EPOCH) // _MICROSECOND)
        elif dtype is DataType.STRING and isinstance(value, str):
            converted.append(str(value))
        else:
            raise wrong_type(f"{name}[{row}]", value, _EXPECTED[dtype])
    return converted


def _refused(name: str, values: Sequence[Any], dtype: DataType) -> errors.InvalidArgumentError:
    for row, value in enumerate(values):
        try:
            if dtype is DataType.STRING:
                value.encode("utf-8")
            else:
                np.array([value], NUMPY_TYPES[dtype])
        except (OverflowError, UnicodeEncodeError):
            return wrong_type(f"{name}[{row}]", value, _EXPECTED[dtype])
    return wrong_type(name, None, _EXPECTED[dtype])


def from_array(
    name: str, array: AnyArray, dtype: DataType | None
) -> tuple[AnyArray | list[Any], npt.NDArray[np.bool_] | None, DataType]:
    """Returns values (a list for text and objects), validity and type for a numpy array.

    Raises:
        InvalidArgumentError: The array has no lossless form in a column type.
    """
    if array.ndim != 1:
        raise malformed(name, f"{array.ndim} dimensions", "must have one dimension")
    kind = array.dtype.kind
    if kind in "OUT":
        listed = array.tolist()
        return listed, None, _type_of_objects(name, listed) if dtype is None else dtype
    if kind == "M":
        values, valid = _from_datetimes(array)
        natural = DataType.TIMESTAMP
    else:
        values, natural = _from_numbers(name, array)
        valid = None
    if dtype is None or dtype is natural:
        return values, valid, natural
    return cast(name, values, valid, natural, dtype), valid, dtype


def _from_datetimes(array: AnyArray) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
    missing = np.isnat(array)
    values = array.astype("datetime64[us]").view(np.int64)
    return values, ~missing if missing.any() else None


def _from_numbers(name: str, array: AnyArray) -> tuple[AnyArray, DataType]:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array, DataType.BOOL
    if kind == "f" and size <= 8:
        natural = DataType.FLOAT64 if size == 8 else DataType.FLOAT32
    elif kind == "i" or (kind == "u" and size < 8):
        natural = DataType.INT32 if size < 4 or (kind == "i" and size == 4) else DataType.INT64
    elif kind == "u":
        if len(array) and array.max() > _INT_LIMITS[DataType.INT64][1]:
            raise wrong_type(name, int(array.max()), _EXPECTED[DataType.INT64])
        natural = DataType.INT64
    else:
        raise wrong_type(
            name, str(array.dtype), "must be an array of bools, numbers, text or datetimes"
        )
    return array.astype(NUMPY_TYPES[natural], copy=False), natural


def _type_of_objects(name: str, values: list[Any]) -> DataType:
    found = set(map(type, values)) - {_NONE_TYPE}
    if found and found <= _ALLOWED[DataType.STRING]:
        return DataType.STRING
    if found and found <= _BOOL_TYPES:
        return DataType.BOOL
    if found and found <= _INT_TYPES:
        return DataType.INT64
    if found and found <= _FLOAT_TYPES:
        return DataType.FLOAT64
    if found and all(issubclass(each, dt.datetime) for each in found):
        return DataType.TIMESTAMP
    names = ", ".join(sorted(each.__name__ for each in found)) or "no values"
    raise wrong_type(name, names, "must hold values of one known type, or the type must be given")


def cast(
    name: str,
    values: AnyArray,
    valid: npt.NDArray[np.bool_] | None,
    source: DataType,
    target: DataType,
) -> AnyArray:
    """Returns values in another type when each one keeps its meaning exactly.

    Raises:
        InvalidArgumentError: The types are unrelated or a value does not fit; names row and value.
    """
    converted, lost = convert(name, values, valid, source, target)
    if lost is not None and lost.any():
        row = int(np.flatnonzero(lost)[0])
        raise wrong_type(f"{name}[{row}]", values[row].item(), f"has no exact {target.name}")
    return converted


def convert(
    name: str,
    values: AnyArray,
    valid: npt.NDArray[np.bool_] | None,
    source: DataType,
    target: DataType,
) -> tuple[AnyArray, npt.NDArray[np.bool_] | None]:
    """Returns values in another type, and for each whether it lost its meaning; None where none can.

    Float to float narrows by rounding, which is what asking for FLOAT32 means; integers must be exact.

    Raises:
        InvalidArgumentError: The types are unrelated.
    """
    timestamps = {source, target} == {DataType.INT64, DataType.TIMESTAMP}
    if timestamps:
        return values, None
    if source not in NUMBERS or target not in NUMBERS:
        raise wrong_type(name, source.name, f"cannot become {target.name}")
    with np.errstate(all="ignore"):
        converted = values.astype(NUMPY_TYPES[target])
        if source in FLOATS and target in FLOATS:
            lost = np.isinf(converted) & ~np.isinf(values)
        else:
            lost = _changed(values, converted, source, target)
    if valid is not None:
        lost &= valid
    return converted, lost


def _changed(
    values: AnyArray, converted: AnyArray, source: DataType, target: DataType
) -> npt.NDArray[np.bool_]:
    """Tells for each row whether a conversion with an integer side lost something."""
    if source in INTEGERS and target in INTEGERS:
        low, high = _INT_LIMITS[target]
        return (values < low) | (values > high)
    if source in INTEGERS:
        # A float just past the int64 range would wrap around on the way back and look equal.
        exact = converted.astype(np.float64)
        different: npt.NDArray[np.bool_] = exact.astype(np.int64) != values
        return different | (exact >= 2.0**63)
    low, high = _INT_LIMITS[target]
    inside = (values >= low) & (
        values < float(high) + 1.0 if target is DataType.INT64 else values <= high
    )
    changed: npt.NDArray[np.bool_] = converted != values
    return changed | ~inside
