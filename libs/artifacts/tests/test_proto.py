import pytest

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import proto
from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors


def tensor(dtype: int, *rules: model_pb2.MissingValue) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(
        name="X",
        dtype=dtype,  # type: ignore[arg-type]  # also numbers that the enum lacks
        columns=["a", "b"],
        missing_values=rules,
    )


def rule(column: str, **value: object) -> model_pb2.MissingValue:
    made = model_pb2.MissingValue(column=column)
    if value:
        made.substitute.CopyFrom(value_pb2.Value(**value))  # type: ignore[arg-type]
    return made


def test_tensor_plain() -> None:
    """A tensor without rules is its name, type and columns."""
    found = proto.tensor_from_proto(tensor(column_pb2.DATA_TYPE_FLOAT32), "inputs[0]")
    assert found == TensorSpec("X", DataType.FLOAT32, ("a", "b"))


@pytest.mark.parametrize(
    ("dtype", "kind", "value"),
    [
        (column_pb2.DATA_TYPE_FLOAT32, "double_value", -1.5),
        (column_pb2.DATA_TYPE_FLOAT64, "int_value", 3),
        (column_pb2.DATA_TYPE_INT32, "int_value", -(1 << 31)),
        (column_pb2.DATA_TYPE_INT64, "int_value", 1 << 40),
        (column_pb2.DATA_TYPE_BOOL, "bool_value", False),
        (column_pb2.DATA_TYPE_STRING, "string_value", ""),
        (column_pb2.DATA_TYPE_TIMESTAMP, "timestamp_value", 0),
    ],
)
def test_tensor_substitute(dtype: int, kind: str, value: object) -> None:
    """Substitutes have the tensor's type; the values that look like nothing are values too."""
    found = proto.tensor_from_proto(tensor(dtype, rule("b", **{kind: value}), rule("a")), "x")
    assert found.missing == (Missing("b", value), Missing("a", None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "rules", "field"),
    [
        (0, [], "x.dtype"),
        (99, [], "x.dtype"),
        (column_pb2.DATA_TYPE_FLOAT32, [rule("c")], "x.missing_values[0].column"),
        (column_pb2.DATA_TYPE_FLOAT32, [rule("a"), rule("a")], "x.missing_values[1].column"),
        (
            column_pb2.DATA_TYPE_FLOAT32,
            [rule("a", string_value="0")],
            "x.missing_values[0].substitute",
        ),
        (
            column_pb2.DATA_TYPE_INT32,
            [rule("a", int_value=1 << 31)],
            "x.missing_values[0].substitute",
        ),
        (
            column_pb2.DATA_TYPE_STRING,
            [rule("a", null_value=value_pb2.NULL_VALUE_UNSPECIFIED)],
            "x.missing_values[0].substitute",
        ),
    ],
)
def test_tensor_refused(dtype: int, rules: list[model_pb2.MissingValue], field: str) -> None:
    """What does not fit is refused by its path."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        proto.tensor_from_proto(tensor(dtype, *rules), "x")
    assert caught.value.violations[0].field == field
