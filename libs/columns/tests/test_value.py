import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from setpoint.common.v1 import value_pb2
from setpoint_columns import DataType, testing, value
from setpoint_runtime import errors

_ANY = testing.VALUES[DataType.INT64] | testing.VALUES[DataType.FLOAT64] | testing.texts


@given(_ANY)
def test_round_trip(given_value: Any) -> None:
    """Numbers and texts come back with their value and type."""
    back = value.from_proto(value.to_proto(given_value))
    assert testing.same(back, given_value)
    assert type(back) is type(given_value)


@pytest.mark.parametrize("given_value", [None, True, False, 0, "", float("inf")])
def test_round_trip_of_empty_values(given_value: Any) -> None:
    """Null, False, zero and empty text stay apart."""
    back = value.map_from_proto(value.map_to_proto({"x": given_value}))["x"]
    assert back == given_value
    assert type(back) is type(given_value)


def test_to_proto_takes_times_and_numpy_scalars() -> None:
    """An aware time is a timestamp, a numpy scalar what it holds."""
    assert (
        value.to_proto(dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)).timestamp_value == 1_000_000
    )
    assert value.to_proto(np.float32(1.5)).double_value == 1.5
    assert value.to_proto(np.int16(3)).int_value == 3
    assert value.to_proto(np.True_).bool_value is True


@pytest.mark.parametrize("bad", [2**63, b"x", dt.datetime(2013, 1, 1), object(), [1], "\ud800"])  # noqa: DTZ001 - naive is the point
def test_to_proto_refuses_the_rest(bad: Any) -> None:
    """Anything else is a typed error that names the field."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^inputs\.x: ") as caught:
        value.map_to_proto({"x": bad}, "inputs")
    assert caught.value.reason is errors.Reason.WRONG_TYPE


def test_from_proto_refuses_no_kind() -> None:
    """A message without a kind is not a null."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^inputs\.x: ") as caught:
        value.map_from_proto({"x": value_pb2.Value()}, "inputs")
    assert caught.value.reason is errors.Reason.MISSING_FIELD


@pytest.mark.parametrize(
    "given_value, dtype",
    [(1, DataType.FLOAT64), (2**24, DataType.FLOAT32), (1, DataType.INT32), ("a", DataType.STRING)],
)
def test_from_proto_accepts_fitting_type(given_value: Any, dtype: DataType) -> None:
    """A value that fits the type passes; an exact integer stands for a float."""
    assert value.from_proto(value.to_proto(given_value), dtype=dtype) == given_value
    assert value.from_proto(value.to_proto(None), dtype=dtype) is None


@pytest.mark.parametrize(
    "given_value, dtype",
    [
        (1.0, DataType.INT64),
        (True, DataType.INT64),
        (2**31, DataType.INT32),
        (2**24 + 1, DataType.FLOAT32),
        (2**53 + 1, DataType.FLOAT64),
        (1, DataType.TIMESTAMP),
        (1, DataType.STRING),
        ("1", DataType.FLOAT64),
        (dt.datetime(2013, 1, 1, tzinfo=dt.UTC), DataType.INT64),
    ],
)
def test_from_proto_refuses_other_type(given_value: Any, dtype: DataType) -> None:
    """A value of another type is refused by name."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^x: ") as caught:
        value.from_proto(value.to_proto(given_value), "x", dtype)
    assert caught.value.reason is errors.Reason.WRONG_TYPE
