import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import setpoint_rules as rules
from setpoint_columns import Columns, DataType
from setpoint_rules import testing as rules_testing
from setpoint_validation.domain import run

COLUMNS = Columns.from_dict(
    {
        "a": (DataType.FLOAT64, [1.0, -1.0, None, 3.0]),
        "b": (DataType.STRING, ["a", "b", None, "a"]),
    }
)


def never() -> bool:
    return False


@given(st.lists(rules_testing.rules, min_size=1, max_size=5))
def test_judge_equals_rules_together(listed: list[rules.Rule]) -> None:
    """Judging rule by rule says what judging all at once says, from the columns that rules look at alone."""
    compiled = rules.compile(listed)
    wanted = [name for name in COLUMNS if name in run.columns_of(listed)]
    found = run.judge(compiled.rules, COLUMNS.select(wanted), never)
    for mine, theirs in zip(found, compiled.evaluate(COLUMNS), strict=True):
        assert mine.failing_rows.tolist() == theirs.failing_rows.tolist()
        assert repr(mine) == repr(theirs)


@pytest.mark.parametrize(("count", "named"), [(1, 1000), (500, 1000), (1000, 500)])
def test_judge_names_some_rows(count: int, named: int) -> None:
    """So many failing rows are named that a run of all rules fits a message; counts are exact."""
    listed = rules.compile([rules.NotNull("a")] * count).rules
    column = Columns.from_dict({"a": (DataType.FLOAT64, [None] * 1500)})
    for result in run.judge(listed, column, never):
        assert result.failing_rows.tolist() == list(range(named))
        assert result.unexpected_count == 1500


def test_judge_shortens_messages() -> None:
    """Explanations stay short, whatever names the columns have."""
    rule = rules.Unique([f"{number}{'x' * 200}" for number in range(20)], rule_id="many")
    columns = Columns.from_dict({name: (DataType.INT32, [1, 1]) for name in rule.columns})
    (result,) = run.judge([rule], columns, never)
    assert not result.success
    assert len(result.message) == run.MAX_MESSAGE_LENGTH


def test_judge_gives_up() -> None:
    """When nobody waits any more, no further rule is judged."""
    answers = iter([False, True])
    with pytest.raises(run.GivenUpError):
        run.judge([rules.NotNull("a", rule_id="x")] * 3, COLUMNS, lambda: next(answers))
    assert next(answers, None) is None


def test_passes_asks_rules_that_reject() -> None:
    """A broken rule that flags does not hold a table back."""
    flag = rules.NotNull("a", severity=rules.Severity.FLAG, rule_id="f")
    reject = rules.NotNull("a", rule_id="r")
    assert run.passes(run.judge([flag], COLUMNS, never))
    assert not run.passes(run.judge([flag, reject], COLUMNS, never))


def test_columns_of_rules() -> None:
    """Every column that a rule looks at is named, those of tuples one by one."""
    listed = [
        rules.Unique(["a", "b"]),
        rules.RowCount(1),
        rules.MeanRange("c", 0),
        rules.Exists("d"),
    ]
    assert run.columns_of(listed) == {"a", "b", "c", "d"}


def test_judge_copies_failing_rows() -> None:
    """A result does not keep all failing rows in memory."""
    column = Columns.from_dict({"a": (DataType.FLOAT64, [None] * 5000)})
    (result,) = run.judge([rules.NotNull("a", rule_id="x")], column, never)
    assert isinstance(result.failing_rows, np.ndarray)
    assert result.failing_rows.base is None
