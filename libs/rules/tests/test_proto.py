from typing import Any

import numpy as np
import pytest
from hypothesis import given

import setpoint_rules as rules
from setpoint.common.v1 import value_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint_columns import Columns, DataType
from setpoint_rules import proto, testing
from setpoint_rules.rule import KINDS
from setpoint_runtime import errors


@given(testing.rules)
def test_rule_round_trips_over_the_wire(rule: rules.Rule) -> None:
    """Any rule survives its message."""
    data = proto.rule_to_proto(rule).SerializeToString()
    assert proto.rule_from_proto(suite_pb2.Rule.FromString(data)) == rule


def test_every_kind_of_the_contract_is_converted() -> None:
    """The contract's kinds and the rules are the same list (a set rule may be negated)."""
    contract = {field.name for field in suite_pb2.Rule.DESCRIPTOR.oneofs_by_name["kind"].fields}
    known = {kind.removeprefix("not_in_").removeprefix("in_") for kind in KINDS}
    assert contract == known


def _rule(**fields: Any) -> suite_pb2.Rule:
    return suite_pb2.Rule(**fields)


@pytest.mark.parametrize(
    "message, field",
    [
        (_rule(), "suite.rules[1]"),
        (_rule(severity=9, exists={"column": "a"}), "suite.rules[1].severity"),
        (_rule(rule_id="No", exists={"column": "a"}), "suite.rules[1].rule_id"),
        (_rule(exists={}), "suite.rules[1].exists.column"),
        (_rule(mostly=0.5, exists={"column": "a"}), "suite.rules[1].mostly"),
        (_rule(mostly=0.5, row_count={"min": 1}), "suite.rules[1].mostly"),
        (_rule(mostly=0.0, not_null={"column": "a"}), "suite.rules[1].not_null_a.mostly"),
        (_rule(range={"column": "a"}), "suite.rules[1].range_a.min"),
        (_rule(range={"column": "a", "min": float("nan")}), "suite.rules[1].range_a.min"),
        (_rule(range={"column": "a", "min": 2, "max": 1}), "suite.rules[1].range_a.min"),
        (_rule(type={"column": "a"}), "suite.rules[1].type_a.dtypes"),
        (_rule(type={"column": "a", "dtypes": [3, 77]}), "suite.rules[1].type.dtypes[1]"),
        (_rule(set={"column": "a"}), "suite.rules[1].in_set_a.values"),
        (_rule(set={"column": "a", "values": [{}]}), "suite.rules[1].set.values[0]"),
        (
            _rule(set={"column": "a", "values": [{"null_value": 0}]}),
            "suite.rules[1].in_set_a.values[0]",
        ),
        (_rule(regex={"column": "a", "pattern": "("}), "suite.rules[1].regex_a.pattern"),
        (_rule(unique={}), "suite.rules[1].unique.columns"),
        (_rule(row_count={"min": -1}), "suite.rules[1].row_count.min"),
        (_rule(mean_range={"column": "a"}), "suite.rules[1].mean_range_a.min"),
    ],
)
def test_bad_messages_name_rule_and_field(message: suite_pb2.Rule, field: str) -> None:
    """A bad rule among good ones is named by its place, itself and its field."""
    good = suite_pb2.Rule(exists=suite_pb2.ExistsRule(column="a"))
    with pytest.raises(errors.InvalidArgumentError) as caught:
        proto.rules_from_proto([good, message])
    assert caught.value.violations[0].field == field
    assert str(caught.value).startswith(field)


def test_unspecified_severity_rejects() -> None:
    """A rule that says nothing rejects, as the contract has it."""
    message = suite_pb2.Rule(exists=suite_pb2.ExistsRule(column="a"))
    assert proto.rule_from_proto(message).severity is rules.Severity.REJECT


def test_timestamps_in_sets_are_numbers() -> None:
    """A set of timestamps judges TIMESTAMP columns."""
    values = [value_pb2.Value(timestamp_value=5)]
    message = suite_pb2.Rule(set=suite_pb2.SetRule(column="t", values=values))
    compiled = rules.compile([proto.rule_from_proto(message)])
    assert compiled.check_rows(Columns.from_dict({"t": (DataType.TIMESTAMP, [5])})).ok
    assert not compiled.check_rows(Columns.from_dict({"t": (DataType.TIMESTAMP, [6])})).ok


def test_result_is_converted_with_first_rows() -> None:
    """A result keeps its counts and the first thousand failing rows."""
    batch = Columns.from_dict({"a": (DataType.INT64, [-1] * 1500)})
    compiled = rules.compile([rules.Range("a", min=0), rules.MeanRange("a", -2, 0)])
    failed, mean = (proto.result_to_proto(each) for each in compiled.evaluate(batch))
    assert list(failed.failing_rows) == np.arange(1000).tolist()
    assert (failed.unexpected_count, failed.success) == (1500, False)
    assert not failed.HasField("observed_value")
    assert (mean.observed_value, mean.success) == (-1.0, True)
