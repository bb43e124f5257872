import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import setpoint_rules as rules
from setpoint_rules import testing as rules_testing
from setpoint_runtime import errors
from setpoint_validation.store import documents


@given(st.lists(rules_testing.rules, max_size=5))
def test_rules_round_trip(listed: list[rules.Rule]) -> None:
    """Rules come back from JSON as they were."""
    text = json.dumps(documents.rules_to_json(listed), allow_nan=False)
    assert documents.rules_from_json(json.loads(text)) == tuple(listed)


def test_rules_of_newer_release() -> None:
    """A rule that this release does not know is an error, never silently dropped."""
    with pytest.raises(errors.InvalidArgumentError, match="entropy"):
        documents.rules_from_json([{"kind": "entropy", "column": "a"}])


@pytest.mark.parametrize("observed", [None, 0.0, -1e308, math.nan, math.inf, -math.inf])
def test_results_round_trip(observed: float | None) -> None:
    """Results come back from JSON as they were, numbers that JSON does not have included."""
    result = rules.RuleResult(
        rule_id="x",
        success=False,
        severity=rules.Severity.FLAG,
        element_count=10,
        unexpected_count=2,
        missing_count=1,
        observed=observed,
        failing_rows=np.array([3, 2**40], np.int64),
        message="a: 'b\0' must be known",
    )
    text = json.dumps(documents.results_to_json([result]), allow_nan=False)
    (found,) = documents.results_from_json(json.loads(text))
    assert repr(found) == repr(result)
    assert found.failing_rows.dtype == np.int64
