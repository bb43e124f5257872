from hypothesis import given
from hypothesis import strategies as st

import setpoint_rules as rules
from setpoint_rules import testing as rules_testing
from setpoint_validation import convert
from setpoint_validation.domain import suite as suites


@given(st.lists(rules_testing.rules, min_size=1, max_size=5), st.sampled_from(["", "flights"]))
def test_suite_round_trip(listed: list[rules.Rule], feature_set: str) -> None:
    """A suite that is read and put again is the same version."""
    suite = suites.make("s", listed, feature_set, "words", 7)
    message = convert.suite_to_proto(suite)
    again = suites.make(
        message.name,
        convert.rules_from_proto(message),
        message.feature_set,
        message.description,
        message.create_time,
    )
    assert again == suite


@given(st.lists(rules_testing.rules, min_size=1, max_size=5))
def test_snapshot_has_row_rules_alone(listed: list[rules.Rule]) -> None:
    """A snapshot names suite, version and binding, and has the rules that judge single requests."""
    suite = suites.make("s", listed, "flights", "words", 7)
    message = convert.snapshot_to_proto(suites.Snapshot(3, (suite,)))
    (pushed,) = message.suites
    assert (message.revision, pushed.version) == (3, suite.version)
    expected = [rule.rule_id for rule in suites.row_rules(suite)]
    assert [rule.rule_id for rule in pushed.rules] == expected
