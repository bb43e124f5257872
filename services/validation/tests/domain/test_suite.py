import pytest

import setpoint_rules as rules
from setpoint_runtime import errors
from setpoint_validation.domain import suite as suites


def made(*listed: rules.Rule, name: str = "s", feature_set: str = "f") -> suites.Suite:
    return suites.make(name, listed, feature_set, "", 7)


def test_make_version_of_content() -> None:
    """The version depends on rules, their order and the binding, not on name, description and time."""
    one, two = rules.NotNull("a"), rules.NotNull("b")
    base = made(one, two)
    assert suites.is_version(base.version)
    assert suites.make("other", (one, two), "f", "words", 8).version == base.version
    changed = [made(two, one), made(one), made(one, two, feature_set="")]
    assert len({base.version, *(each.version for each in changed)}) == 4


def test_make_version_of_ids() -> None:
    """An id that is written down is the same content as the equal one that is made."""
    written = made(rules.NotNull("a", rule_id="not_null_a"))
    assert written == made(rules.NotNull("a"))


def test_make_refuses_equal_ids() -> None:
    """Two rules with one id are refused by the path of the second."""
    listed = rules.NotNull("a", rule_id="x"), rules.NotNull("b", rule_id="x")
    with pytest.raises(errors.InvalidArgumentError) as caught:
        made(*listed)
    assert caught.value.violations[0].field == "suite.rules[1].rule_id"
    assert caught.value.message.startswith("suite.rules[1].rule_id: 'x'")
    assert caught.value.metadata["field"] == "suite.rules[1].rule_id"


def test_make_refuses_too_many_rules() -> None:
    """A suite has a bounded number of rules."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        made(*[rules.RowCount(1)] * 1001)
    assert caught.value.violations[0].field == "suite.rules"


def test_check_siblings_names_rule_and_suite() -> None:
    """An id that a sibling's row rule has is refused, naming both; ids of batch rules do not matter."""
    sibling = made(rules.NotNull("a", rule_id="x"), rules.RowCount(1, rule_id="y"), name="sibling")
    suites.check_siblings(made(rules.NotNull("b", rule_id="y")), [sibling])
    suites.check_siblings(made(rules.RowCount(1, rule_id="x")), [sibling])
    with pytest.raises(errors.AlreadyExistsError, match="sibling") as caught:
        suites.check_siblings(made(rules.RowCount(1), rules.Exists("b", rule_id="x")), [sibling])
    assert caught.value.metadata["field"] == "suite.rules[1].rule_id"


def test_check_pushed_bound() -> None:
    """What is pushed has a bound below the size of a message."""
    suites.check_pushed(suites.MAX_PUSHED_BYTES)
    with pytest.raises(errors.FailedPreconditionError):
        suites.check_pushed(suites.MAX_PUSHED_BYTES + 1)


def test_row_rules_of_suite() -> None:
    """Rules about whole batches are not for single requests."""
    suite = made(rules.RowCount(1), rules.NotNull("a"), rules.Unique(["a"]), rules.Exists("b"))
    assert [rule.KIND for rule in suites.row_rules(suite)] == ["not_null", "exists"]
