"""Single Python values to and from `setpoint.common.v1.Value`."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from setpoint.common.v1 import value_pb2
from setpoint_columns import build
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_INT32: Final = range(-(1 << 31), 1 << 31)
_INT64: Final = range(-(1 << 63), 1 << 63)

_KINDS: Final[dict[str, frozenset[DataType]]] = {
    "bool_value": frozenset({DataType.BOOL}),
    "int_value": frozenset({DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64}),
    "double_value": frozenset({DataType.FLOAT32, DataType.FLOAT64}),
    "string_value": frozenset({DataType.STRING}),
    "timestamp_value": frozenset({DataType.TIMESTAMP}),
}


def to_proto(value: Any, field: str = "value") -> value_pb2.Value:
    """Returns the message for a Python value: None, bool, int, float, str or an aware datetime.

    Raises:
        InvalidArgumentError: The value is none of these or out of range; names `field`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _text(value, field)
    if isinstance(value, float):
        return value_pb2.Value(double_value=value)
    if value is None:
        return value_pb2.Value(null_value=value_pb2.NULL_VALUE_UNSPECIFIED)
    if isinstance(value, bool):
        return value_pb2.Value(bool_value=value)
    if isinstance(value, int):
        if value not in _INT64:
            raise build.wrong_type(field, value, "must fit 64 bits")
        return value_pb2.Value(int_value=value)
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value_pb2.Value(timestamp_value=(value - _EPOCH) // _MICROSECOND)
    rule = "must be None, a bool, a number, text or a datetime with a time zone"
    raise build.wrong_type(field, value, rule)


def from_proto(value: value_pb2.Value, field: str = "value", dtype: DataType | None = None) -> Any:
    """Returns the Python value of a message; a timestamp as integer microseconds.

    Args:
        value: The message, not trusted.
        field: Path of the message in the request, for errors.
        dtype: Type that the value must have; by default any.

    Raises:
        InvalidArgumentError: The message has no kind, or does not fit `dtype`; names `field`.
    """
    kind = value.WhichOneof("kind")
    if kind is None:
        raise _no_kind(field)
    if kind == "null_value":
        return None
    found = getattr(value, kind)
    if dtype is not None:
        _check_type(found, kind, field, dtype)
    return found


def map_to_proto(values: Mapping[str, Any], field: str = "values") -> dict[str, value_pb2.Value]:
    """Returns messages for named Python values.

    Raises:
        InvalidArgumentError: A value has no form as a message; names it.
    """
    return {name: to_proto(value, f"{field}.{name}") for name, value in values.items()}


def map_from_proto(values: Mapping[str, value_pb2.Value], field: str = "values") -> dict[str, Any]:
    """Returns the Python values of named messages.

    Raises:
        InvalidArgumentError: A message has no kind; names it.
    """
    found = {}
    for name, value in values.items():
        kind = value.WhichOneof("kind")
        if kind is None:
            raise _no_kind(f"{field}.{name}")
        found[name] = None if kind == "null_value" else getattr(value, kind)
    return found


def _text(value: str, field: str) -> value_pb2.Value:
    try:
        return value_pb2.Value(string_value=value)
    except ValueError:
        raise build.wrong_type(field, value, "must be text of valid Unicode") from None


def _no_kind(field: str) -> errors.InvalidArgumentError:
    reason = errors.Reason.MISSING_FIELD
    return errors.invalid(field, None, "must have a kind, if only null", reason)


def _check_type(found: Any, kind: str, field: str, dtype: DataType) -> None:
    if dtype not in _KINDS[kind]:
        raise build.wrong_type(field, found, f"must be {dtype.name}")
    if kind == "int_value":
        if dtype is DataType.INT32 and found not in _INT32:
            raise build.wrong_type(field, found, "must fit INT32")
        if dtype in (DataType.FLOAT32, DataType.FLOAT64) and not _is_exact(found, dtype):
            raise build.wrong_type(field, found, f"must have an exact {dtype.name}")


def _is_exact(number: int, dtype: DataType) -> bool:
    return int(float(np.float32(number)) if dtype is DataType.FLOAT32 else float(number)) == number
