"""Reading the named values of requests."""

import math
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import DataType
from setpoint_router.convert import requests
from setpoint_router.domain import values
from setpoint_router.domain.route import Field
from setpoint_runtime import errors

FIELDS = tuple(Field(dtype.name.lower(), dtype) for dtype in DataType)
NAMES = frozenset(each.name for each in FIELDS)


def _missing(name: str) -> errors.InvalidArgumentError:
    return values.missing(f'inputs["{name}"]')


NULLABLE = frozenset({"float32", "float64"})
READER = requests.RowReader(FIELDS, NAMES | {"extra"}, "inputs", _missing, nullable=NULLABLE)

ROWS = strategies.fixed_dictionaries(
    {
        "bool": strategies.booleans(),
        "int32": strategies.integers(-(2**31), 2**31 - 1),
        "int64": strategies.integers(-(2**63), 2**63 - 1),
        "float32": strategies.none() | strategies.floats(width=32),
        "float64": strategies.none() | strategies.floats(),
        "string": strategies.text(max_size=20),
        "timestamp": strategies.integers(-(2**63), 2**63 - 1),
    }
)
KINDS = {
    "bool": "bool_value",
    "int32": "int_value",
    "int64": "int_value",
    "float32": "double_value",
    "float64": "double_value",
    "string": "string_value",
    "timestamp": "timestamp_value",
}


def message(row: dict[str, Any]) -> router_service_pb2.PredictRequest:
    """Returns a request as it arrives, parsed from bytes."""
    request = router_service_pb2.PredictRequest()
    for name, value in row.items():
        if value is None:
            request.inputs[name].null_value = value_pb2.NULL_VALUE_UNSPECIFIED
        else:
            setattr(request.inputs[name], KINDS[name], value)
    return router_service_pb2.PredictRequest.FromString(request.SerializeToString())


def same(left: Any, right: Any) -> bool:
    """Compares values, NaN equal to itself."""
    both_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left)
    return bool(left == right or (both_nan and math.isnan(right)))


@hypothesis.given(strategies.lists(ROWS, min_size=1, max_size=5))
def test_read_and_tabulate_any_row(rows: list[dict[str, Any]]) -> None:
    """Shows that every legal row is read as sent, and comes back from its columns."""
    read = [READER.read(message(row).inputs) for row in rows]
    for row, found in zip(rows, read, strict=True):
        wanted = [row[each.name] for each in FIELDS]
        assert all(map(same, wanted, found)), (row, found)
    columns, bad = values.tabulate(FIELDS, read, "inputs")
    assert bad == []
    for at, row in enumerate(rows):
        back = columns.row(at)
        assert all(same(back[name], value) for name, value in row.items()), (row, back)


@hypothesis.given(ROWS, strategies.sampled_from(sorted(NAMES)))
def test_read_names_missing(row: dict[str, Any], name: str) -> None:
    """Shows that whichever field is absent is named."""
    del row[name]
    with pytest.raises(errors.InvalidArgumentError) as caught:
        READER.read(message(row).inputs)
    assert caught.value.violations[0].field == f'inputs["{name}"]'
    assert caught.value.reason is errors.Reason.MISSING_FIELD


@hypothesis.given(ROWS)
def test_read_tolerates_other_versions_names(row: dict[str, Any]) -> None:
    """Shows that a name which another version of the route asks for is left alone, others are not."""
    request = message(row)
    request.inputs["extra"].int_value = 1
    READER.read(request.inputs)
    request.inputs["strange"].int_value = 1
    with pytest.raises(errors.InvalidArgumentError, match="strange"):
        READER.read(request.inputs)


@pytest.mark.parametrize("size", [65_536, 65_537, 200_000])
@pytest.mark.parametrize("character", ["x", "ü", "日"])
def test_check_text_counts_bytes(size: int, character: str) -> None:
    """Shows that the limit is one of UTF-8 bytes."""
    text = character * (size // len(character.encode()))
    if len(text.encode()) <= values.MAX_TEXT_BYTES:
        assert values.check_text("t", text) == text
    else:
        with pytest.raises(errors.InvalidArgumentError) as caught:
            values.check_text("t", text)
        assert caught.value.reason is errors.Reason.TOO_LARGE
        assert len(caught.value.message) < 300


def test_tabulate_names_overflow() -> None:
    """Shows that a number beyond FLOAT32 makes its row bad, whether its mates are plain or not."""
    fields = (Field("a", DataType.FLOAT32), Field("b", DataType.FLOAT64))
    cases: list[list[list[Any]]] = [[[1.0, 1e300], [1e300, 2.0]], [[None, 1e300], [1e300, 2.0]]]
    for rows in cases:
        columns, bad = values.tabulate(fields, rows, "inputs")
        assert [(row, error.violations[0].field) for row, error in bad] == [(1, 'inputs["a"]')]
        assert columns["b"].to_list() == [1e300, 2.0]
        assert columns["a"].values.dtype == np.float32


def test_entity_key_joins_by_name() -> None:
    """Shows that a key made of entities does not depend on the order in which they were given."""
    codec = requests.RequestCodec()
    one, other = router_service_pb2.PredictRequest(), router_service_pb2.PredictRequest()
    one.entities["b"].int_value, one.entities["a"].string_value = 5, "ü"
    other.entities["a"].string_value, other.entities["b"].int_value = "ü", 5
    assert codec.entity_key(one) == codec.entity_key(other) == "ü\x1f5"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_read_takes_nulls_where_they_may_be(name: str) -> None:
    """Shows that a null of any type is read where it may be one, and refused by name elsewhere."""
    fields = [each for each in FIELDS if each.name == name]
    request = message({name: None})
    for nullable in (frozenset({name}), frozenset[str]()):
        reader = requests.RowReader(fields, NAMES, "inputs", _missing, nullable=nullable)
        if nullable:
            row = reader.read(request.inputs)
            columns, bad = values.tabulate(fields, [row, row], "inputs")
            assert (row, bad, columns[name].to_list()) == ([None], [], [None, None])
        else:
            with pytest.raises(errors.InvalidArgumentError) as caught:
                reader.read(request.inputs)
            assert caught.value.reason is errors.Reason.NULL_REFUSED
