import json
from typing import Any

import pytest
from hypothesis import given

import setpoint_rules as rules
from setpoint_columns import DataType
from setpoint_rules import testing
from setpoint_runtime import errors


@given(testing.rules)
def test_json_round_trips(rule: rules.Rule) -> None:
    """Any rule survives JSON text, and its hash with it."""
    back = rules.rule_from_json(json.loads(json.dumps(rules.rule_to_json(rule))))
    assert back == rule
    assert rules.content_hash([back]) == rules.content_hash([rule])


def test_hash_tells_meanings_apart() -> None:
    """Every part of a rule, the order and the binding are in the hash; spelling is not."""
    base = rules.Range("a", min=0)
    other: list[list[rules.Rule]] = [
        [],
        [rules.Range("b", min=0)],
        [rules.Range("a", min=1)],
        [rules.Range("a", max=0)],
        [rules.Range("a", min=0, strict_min=True)],
        [rules.Range("a", min=0, mostly=0.5)],
        [rules.Range("a", min=0, severity=rules.Severity.FLAG)],
        [rules.Range("a", min=0, rule_id="x")],
        [base, rules.Exists("a")],
        [rules.Exists("a"), base],
    ]
    hashes = [rules.content_hash([base]), *map(rules.content_hash, other)]
    hashes.append(rules.content_hash([base], "flights"))
    assert len(set(hashes)) == len(hashes)
    assert rules.content_hash([rules.Range("a", min=0.0, strict_max=True)]) == hashes[0]


def test_hash_is_stable() -> None:
    """The hash of a known suite never changes: stored versions are named by it."""
    suite = [rules.Type("a", [DataType.INT64]), rules.InSet("b", ["x", "é"]), rules.RowCount(1)]
    expected = "2d1a4d647dbe15403639414f4ae04175dfebaf44f320ff0d858c84c588c4e4c8"
    assert rules.content_hash(suite, "flights") == expected


@pytest.mark.parametrize(
    "content, field",
    [
        ({}, "rule.kind"),
        ({"kind": "magic", "column": "a"}, "rule.kind"),
        ({"kind": "exists", "column": "a", "colour": 1}, "rule.colour"),
        ({"kind": "exists"}, "rule"),
        ({"kind": "exists", "column": "a", "severity": "MAYBE"}, "rule.severity"),
        ({"kind": "type", "column": "a", "dtypes": ["INT65"]}, "rule.dtypes"),
        ({"kind": "range", "column": "a"}, "range_a.min"),
    ],
)
def test_json_is_refused(content: dict[str, Any], field: str) -> None:
    """A JSON rule with unknown, absent or senseless parts is a typed error that names them."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        rules.rule_from_json(content)
    assert caught.value.violations[0].field == field
