"""Tensors of the registry's contract as specifications, for everyone who reads manifests."""

from typing import Final

from setpoint.common.v1 import value_pb2
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

_KINDS: Final = {
    DataType.BOOL: ("bool_value",),
    DataType.INT32: ("int_value",),
    DataType.INT64: ("int_value",),
    DataType.FLOAT32: ("double_value", "int_value"),
    DataType.FLOAT64: ("double_value", "int_value"),
    DataType.STRING: ("string_value",),
    DataType.TIMESTAMP: ("timestamp_value",),
}
_INT32: Final = range(-(1 << 31), 1 << 31)


def tensor_from_proto(message: model_pb2.TensorSpec, field: str) -> TensorSpec:
    """Return a tensor of a manifest.

    Args:
        message: The tensor.
        field: Its path, for errors.

    Raises:
        InvalidArgumentError: The type is unknown, or a rule for missing values does not fit it.
    """
    try:
        dtype = DataType(message.dtype)
    except ValueError:
        raise errors.invalid(f"{field}.dtype", message.dtype, "must be a known data type") from None
    columns = tuple(message.columns)
    missing: list[Missing] = []
    for index, rule in enumerate(message.missing_values):
        path = f"{field}.missing_values[{index}]"
        if rule.column not in columns:
            raise errors.invalid(f"{path}.column", rule.column, "must be a column of the tensor")
        if any(rule.column == other.column for other in missing):
            raise errors.invalid(f"{path}.column", rule.column, "must be there only once")
        substitute = None
        if rule.HasField("substitute"):
            substitute = _value(rule.substitute, dtype, f"{path}.substitute")
        missing.append(Missing(rule.column, substitute))
    return TensorSpec(message.name, dtype, columns, tuple(missing))


def _value(message: value_pb2.Value, dtype: DataType, path: str) -> bool | int | float | str:
    kind = message.WhichOneof("kind")
    if kind not in _KINDS[dtype]:
        raise errors.invalid(path, kind, f"must be {dtype.name}", errors.Reason.WRONG_TYPE)
    value: bool | int | float | str = getattr(message, kind)
    if dtype is DataType.INT32 and value not in _INT32:
        raise errors.invalid(path, value, "must fit INT32")
    return value
