import dataclasses
from typing import Any

import pytest

from setpoint_columns import DataType
from setpoint_rules import (
    Exists,
    InSet,
    MeanRange,
    NotInSet,
    NotNull,
    Range,
    Regex,
    RowCount,
    Severity,
    Type,
    Unique,
)
from setpoint_runtime import errors

_NAN = float("nan")
_INF = float("inf")


@pytest.mark.parametrize(
    "kind, arguments, field",
    [
        (Range, {"column": "fare"}, "range_fare.min"),
        (Range, {"column": "fare", "min": _NAN}, "range_fare.min"),
        (Range, {"column": "fare", "max": _INF}, "range_fare.max"),
        (Range, {"column": "fare", "max": 10**400}, "range_fare.max"),
        (Range, {"column": "fare", "min": "1"}, "range_fare.min"),
        (Range, {"column": "fare", "min": True}, "range_fare.min"),
        (Range, {"column": "fare", "min": 2, "max": 1}, "range_fare.min"),
        (Range, {"column": "fare", "min": 1, "max": 1, "strict_max": True}, "range_fare.min"),
        (Range, {"column": "fare", "min": 1, "mostly": 0}, "range_fare.mostly"),
        (Range, {"column": "fare", "min": 1, "mostly": 1.1}, "range_fare.mostly"),
        (Range, {"column": "fare", "min": 1, "mostly": _NAN}, "range_fare.mostly"),
        (Range, {"column": "", "min": 1}, "range.column"),
        (Exists, {"column": "x" * 257}, f"exists_{'x' * 57}.column"),
        (Exists, {"column": 3}, "exists_3.column"),
        (Exists, {"column": "a", "rule_id": "No Name"}, "rule_id"),
        (Exists, {"column": "a", "severity": "REJECT!"}, "exists_a.severity"),
        (Type, {"column": "a", "dtypes": []}, "type_a.dtypes"),
        (Type, {"column": "a", "dtypes": [99]}, "type_a.dtypes"),
        (Type, {"column": "a", "dtypes": None}, "type_a.dtypes"),
        (InSet, {"column": "a", "values": []}, "in_set_a.values"),
        (InSet, {"column": "a", "values": "abc"}, "in_set_a.values"),
        (InSet, {"column": "a", "values": list(range(10_001))}, "in_set_a.values"),
        (InSet, {"column": "a", "values": [1, "x"]}, "in_set_a.values"),
        (InSet, {"column": "a", "values": [2, True]}, "in_set_a.values"),
        (InSet, {"column": "a", "values": [1, _NAN]}, "in_set_a.values[1]"),
        (NotInSet, {"column": "a", "values": [None]}, "not_in_set_a.values[0]"),
        (NotInSet, {"column": "a", "values": [2**63]}, "not_in_set_a.values[0]"),
        (Regex, {"column": "a", "pattern": ""}, "regex_a.pattern"),
        (Regex, {"column": "a", "pattern": "("}, "regex_a.pattern"),
        (Regex, {"column": "a", "pattern": "a" * 501}, "regex_a.pattern"),
        (Regex, {"column": "a", "pattern": "(a+)+b"}, "regex_a.pattern"),
        (Regex, {"column": "a", "pattern": 3}, "regex_a.pattern"),
        (Unique, {"columns": []}, "unique.columns"),
        (Unique, {"columns": "abc"}, "unique_a_b_c.columns"),
        (Unique, {"columns": ["a", "a"]}, "unique_a_a.columns[1]"),
        (Unique, {"columns": ["a", ""]}, "unique_a_.columns[1]"),
        (RowCount, {}, "row_count.min"),
        (RowCount, {"min": -1}, "row_count.min"),
        (RowCount, {"max": 1.5}, "row_count.max"),
        (RowCount, {"min": 3, "max": 2}, "row_count.min"),
        (MeanRange, {"column": "a"}, "mean_range_a.min"),
        (MeanRange, {"column": "a", "min": 1, "max": 0}, "mean_range_a.min"),
        (NotNull, {"column": "a", "mostly": None}, "not_null_a.mostly"),
    ],
)
def test_definition_is_refused(kind: Any, arguments: dict[str, Any], field: str) -> None:
    """A definition that means nothing is a typed error naming the rule and the field."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        kind(**arguments)
    assert caught.value.violations[0].field == field


def test_rules_are_values() -> None:
    """Equal definitions are equal, however they were written, and cannot be changed."""
    assert Range("fare", min=0) == Range("fare", min=0.0, strict_max=True)
    assert Type("a", [DataType.INT64, DataType.INT32]) == Type(
        "a", (DataType.INT32, DataType.INT64)
    )
    assert InSet("a", [1, 1, 2]) == InSet("a", (1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Exists("a").column = "b"  # type: ignore[misc]


def test_severity_defaults_to_reject() -> None:
    """A rule that says nothing rejects."""
    assert Exists("a").severity is Severity.REJECT


def test_label_is_made_of_kind_and_column() -> None:
    """Without an id a rule is known by kind and column, in the alphabet of ids."""
    assert Range("Fare €", min=0).label == "range_fare__"
    assert Range("fare", min=0, rule_id="floor").label == "floor"
    assert RowCount(1).label == "row_count"
