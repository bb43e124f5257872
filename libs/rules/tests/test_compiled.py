import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import setpoint_rules as rules
from setpoint_columns import Column, Columns, DataType
from setpoint_rules import testing
from setpoint_runtime import errors

_SMALL: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.BOOL: st.booleans(),
    DataType.INT32: st.integers(-4, 4) | st.sampled_from([-(2**31), 2**31 - 1]),
    DataType.INT64: st.integers(-4, 4) | st.sampled_from([-(2**63), 2**53 + 1, 2**63 - 1]),
    DataType.FLOAT32: st.floats(-4, 4, width=32) | st.floats(width=32),
    DataType.FLOAT64: st.floats(-4, 4) | st.floats(),
    DataType.STRING: st.sampled_from(["", "a", "b", "ab", "é", "7", "\n"]),
    DataType.TIMESTAMP: st.integers(-4, 4),
}


@st.composite
def _batches(draw: st.DrawFn) -> Columns:
    rows = draw(st.integers(0, 12))
    made = []
    for name in draw(st.lists(st.sampled_from(testing.COLUMNS), unique=True)):
        dtype = draw(st.sampled_from(list(DataType)))
        values = draw(st.lists(st.none() | _SMALL[dtype], min_size=rows, max_size=rows))
        made.append(Column.from_list(name, values, dtype))
    return Columns(rows, made)


_FLOATS = st.sampled_from([DataType.FLOAT32, DataType.FLOAT64])
_LIMITS = st.sampled_from([0.1, 1.0, 3.4028234663852886e38, 5e-324]) | st.floats(-4, 4)


@given(
    st.lists(
        st.tuples(_FLOATS, _LIMITS, _LIMITS, st.booleans(), st.booleans()), min_size=1, max_size=4
    ),
    st.lists(
        st.sampled_from([-math.inf, math.inf, math.nan, 0.0, 0.1]) | _LIMITS, min_size=2, max_size=9
    ),
    st.integers(0, 3),
)
def test_ranges_of_floats_judged_together(
    drawn: list[Any], values: list[float], nulls: int
) -> None:
    """Columns of floats that are looked at together break the rules that they break one by one."""
    with np.errstate(over="ignore"):
        batch = Columns(
            len(values),
            [
                Column.from_list(
                    f"c{at}", [None if at < nulls - 2 else each for each in values], dtype
                )
                for at, (dtype, *_) in enumerate(drawn)
            ],
        )
    kept: list[rules.RowRule] = []
    for at, (_, low, high, strict_min, strict_max) in enumerate(drawn):
        low, high = sorted((low, high))
        if low == high:
            strict_min = strict_max = False
        kept.append(rules.Range(f"c{at}", low, high, strict_min, strict_max))
        kept.append(rules.NotNull(f"c{at}", severity=rules.Severity.FLAG))
    compiled = rules.compile(kept)
    verdict = compiled.check_rows(batch)
    for row in range(batch.rows):
        alone = compiled.check_rows(batch.slice(row, row + 1))
        assert alone.rejections.get(0) == verdict.rejections.get(row)
        assert alone.flags.get(0) == verdict.flags.get(row)


@given(_batches(), st.lists(testing.row_rules(), min_size=1, max_size=6))
def test_rows_alone_agree_with_batch(batch: Columns, drawn: list[rules.RowRule]) -> None:
    """Each row judged alone, all rows judged at once, and the batch evaluation find the same failures."""
    compiled = rules.compile(drawn)
    at_once = compiled.check_rows(batch)
    alone = [compiled.check_rows(batch.slice(row, row + 1)) for row in range(batch.rows)]
    for row, verdict in enumerate(alone):
        assert verdict.rejections.get(0) == at_once.rejections.get(row)
        assert verdict.flags.get(0) == at_once.flags.get(row)
    results = compiled.evaluate(batch)
    for rule, result in zip(compiled.rules, results, strict=True):
        if rule.severity is rules.Severity.FLAG:
            flagged = [
                row
                for row, found in at_once.flags.items()
                if any(each.rule_id == rule.rule_id for each in found)
            ]
            assert sorted(flagged) == result.failing_rows.tolist()
    rejecting = [r for r in results if r.severity is rules.Severity.REJECT]
    failing = set().union(*(result.failing_rows.tolist() for result in rejecting))
    assert set(at_once.rejections) == failing
    assert np.flatnonzero(at_once.reject_mask).tolist() == sorted(failing)
    for row, failure in at_once.rejections.items():
        first = next(r for r in rejecting if row in r.failing_rows)
        assert failure.rule_id == first.rule_id


@given(_batches(), testing.row_rules())
def test_evaluate_agrees_with_plain_python(batch: Columns, rule: rules.RowRule) -> None:
    """Counts, failing rows and success are what reading the definition value by value gives."""
    result = rules.compile([rule]).evaluate(batch)[0]
    column = batch.get(rule.subject)
    verdicts = [_passes(rule, column, row) for row in range(batch.rows)]
    assert result.failing_rows.tolist() == [
        row for row, passes in enumerate(verdicts) if not passes
    ]
    assert result.unexpected_count == verdicts.count(False)
    assert result.element_count == batch.rows
    assert bool(result.message) is not result.success
    if column is not None and _judges(rule, column.dtype):
        counted = batch.rows - result.missing_count
        mostly = getattr(rule, "mostly", 1.0)
        share = 1.0 if counted == 0 else (counted - result.unexpected_count) / counted
        assert result.success == (share >= mostly)
    else:
        assert not result.success


def _judges(rule: rules.RowRule, dtype: DataType) -> bool:
    numeric = dtype not in (DataType.BOOL, DataType.STRING)
    match rule:
        case rules.Range():
            return numeric
        case rules.Regex():
            return dtype is DataType.STRING
        case rules.Type():
            return dtype in rule.dtypes
        case rules.InSet() | rules.NotInSet():
            if isinstance(rule.values[0], str):
                return dtype is DataType.STRING
            return dtype is DataType.BOOL if isinstance(rule.values[0], bool) else numeric
        case _:
            return True


def _passes(rule: rules.RowRule, column: Column | None, row: int) -> bool:
    if column is None or not _judges(rule, column.dtype):
        return False
    value = column.item(row)
    if isinstance(rule, rules.NotNull):
        return value is not None and not (isinstance(value, float) and math.isnan(value))
    if value is None:
        return True
    narrow = column.dtype is DataType.FLOAT32
    match rule:
        case rules.Range():
            low = -math.inf if rule.min is None else _as(rule.min, narrow)
            high = math.inf if rule.max is None else _as(rule.max, narrow)
            above = value > low if rule.strict_min else value >= low
            return bool(above and (value < high if rule.strict_max else value <= high))
        case rules.InSet():
            return value in [_as(each, narrow) for each in rule.values]
        case rules.NotInSet():
            return value not in [_as(each, narrow) for each in rule.values]
        case rules.Regex():
            return re.search(rule.pattern, value) is not None
        case _:
            return True


def _as(value: Any, narrow: bool) -> Any:
    with np.errstate(over="ignore"):
        return float(np.float32(value)) if narrow and not isinstance(value, str) else value


def test_large_integers_are_compared_exactly() -> None:
    """Neighbours that are one number as doubles stay two."""
    batch = Columns.from_dict({"a": (DataType.INT64, [2**53, 2**53 + 1])})
    for few in (batch, Columns.concat([batch] * 5)):
        verdict = rules.compile([rules.Range("a", max=2**53)]).check_rows(few)
        assert set(verdict.rejections) == set(range(1, few.rows, 2))


def test_float32_bounds_are_rounded_to_the_column() -> None:
    """A stored 0.1 is within a maximum of 0.1 and in a set with 0.1."""
    batch = Columns.from_dict({"a": (DataType.FLOAT32, [0.1] * 9)})
    kept = [rules.Range("a", max=0.1), rules.InSet("a", [0.1])]
    assert rules.compile(kept).check_rows(batch).ok
    assert rules.compile(kept).check_rows(batch.slice(0, 1)).ok


def test_large_sets_over_many_rows() -> None:
    """The sorted look-up for long columns gives what the small one gives."""
    values = list(range(3000))
    batch = Columns.from_dict({"a": (DataType.INT64, [None, *values])})
    members = list(range(0, 3000, 2))
    kept, other = rules.compile([rules.InSet("a", members), rules.NotInSet("a", members)]).evaluate(
        batch
    )
    assert kept.failing_rows.tolist() == [value + 1 for value in values if value % 2]
    assert other.failing_rows.tolist() == [value + 1 for value in values if value % 2 == 0]


def test_nan_is_null_to_not_null_and_nowhere_in_a_range() -> None:
    """NaN fails both rules, null the first alone."""
    batch = Columns.from_dict({"a": (DataType.FLOAT64, [1.0, float("nan"), None])})
    known, between = rules.compile([rules.NotNull("a"), rules.Range("a", min=0)]).evaluate(batch)
    assert known.failing_rows.tolist() == [1, 2]
    assert between.failing_rows.tolist() == [1]
    assert (known.missing_count, between.missing_count) == (0, 1)


@pytest.mark.parametrize(
    "mostly, success",
    [(1.0, False), (0.5, True), (0.51, False)],
)
def test_mostly_counts_non_null_rows(mostly: float, success: bool) -> None:
    """A share of one half passes at one half and not above; nulls are out of the count."""
    batch = Columns.from_dict({"a": (DataType.INT64, [1, -1, None, None])})
    result = rules.compile([rules.Range("a", min=0, mostly=mostly)]).evaluate(batch)[0]
    assert result.success is success
    assert (result.unexpected_count, result.missing_count) == (1, 2)


def test_nothing_to_judge_succeeds() -> None:
    """No rows, or nulls alone, keep every rule about values."""
    kept = [rules.Range("a", min=0), rules.InSet("a", [1]), rules.NotInSet("a", [1])]
    for values in ([], [None, None]):
        batch = Columns.from_dict({"a": (DataType.INT64, values)})
        assert all(result.success for result in rules.compile(kept).evaluate(batch))


def test_first_failing_rule_by_order_of_rules() -> None:
    """The rejection of a row is by its first rule, also across columns; flags are all kept."""
    compiled = rules.compile(
        [
            rules.Range("b", min=0, rule_id="b-floor"),
            rules.Range("a", min=0, rule_id="a-floor"),
            rules.Range("a", min=5, rule_id="a-low", severity=rules.Severity.FLAG),
            rules.Range("b", min=5, rule_id="b-low", severity=rules.Severity.FLAG),
        ]
    )
    batch = Columns.from_dict(
        {"a": (DataType.INT64, [-1, 9, -1]), "b": (DataType.INT64, [-1, 9, 4])}
    )
    verdict = compiled.check_rows(batch)
    assert {row: each.rule_id for row, each in verdict.rejections.items()} == {
        0: "b-floor",
        2: "a-floor",
    }
    assert {row: [each.rule_id for each in found] for row, found in verdict.flags.items()} == {
        0: ["a-low", "b-low"],
        2: ["a-low", "b-low"],
    }
    assert verdict.reject_mask.tolist() == verdict.flag_mask.tolist() == [True, False, True]
    assert not verdict.ok


def test_failure_names_field_value_and_rule() -> None:
    """The error to answer with carries all that a caller needs to mend the request."""
    batch = Columns.from_dict({"fare": (DataType.FLOAT64, [-3.0])})
    failure = rules.compile([rules.Range("fare", min=0, max=9)]).check_rows(batch).rejections[0]
    assert failure.message == "fare: -3.0 must be at least 0.0 and at most 9.0 (rule range_fare)"
    error = failure.error("inputs.fare")
    assert error.reason is errors.Reason.RULE_VIOLATED
    assert error.violations[0].field == "inputs.fare"
    assert error.metadata == {"field": "inputs.fare", "rule_id": "range_fare"}


@pytest.mark.parametrize(
    "rule, message",
    [
        (rules.Exists("b"), "b: must exist (rule exists_b), 2 of 2 rows"),
        (
            rules.NotNull("b"),
            "b: must exist, because it must be known (rule not_null_b), 2 of 2 rows",
        ),
        (
            rules.Range("a", min=0),
            "a: type STRING must be at least 0.0 (rule range_a), 2 of 2 rows",
        ),
        (
            rules.Type("a", [DataType.BOOL]),
            "a: type STRING must be of type BOOL (rule type_a), 2 of 2 rows",
        ),
        (rules.NotNull("a"), "a: None must be known (rule not_null_a), 1 of 2 rows"),
        (rules.Regex("a", "^y"), "a: 'x' must have a match of '^y' (rule regex_a), 1 of 2 rows"),
        (
            rules.InSet("a", ["y", "z"]),
            "a: 'x' must be one of 'y', 'z' (rule in_set_a), 1 of 2 rows",
        ),
        (
            rules.NotInSet("a", ["x"]),
            "a: 'x' must not be one of 'x' (rule not_in_set_a), 1 of 2 rows",
        ),
    ],
)
def test_message_says_what_is_wrong(rule: rules.Rule, message: str) -> None:
    """Each kind of rule explains its failure in one line."""
    batch = Columns.from_dict({"a": (DataType.STRING, ["x", None])})
    assert rules.compile([rule]).evaluate(batch)[0].message == message


def test_missing_column_fails_without_rows() -> None:
    """A column that is not there is a failure of an empty batch as well."""
    for rule in (rules.Exists("a"), rules.Range("a", min=0), rules.Unique(["a"])):
        assert not rules.compile([rule]).evaluate(Columns(0))[0].success


def test_compile_gives_free_ids() -> None:
    """Rules without ids get distinct ones that no rule has already."""
    compiled = rules.compile(
        [
            rules.Range("a", min=0),
            rules.Range("a", max=9),
            rules.Exists("b", rule_id="range_a_2"),
            rules.RowCount(1),
        ]
    )
    assert [rule.rule_id for rule in compiled.rules] == [
        "range_a",
        "range_a_3",
        "range_a_2",
        "row_count",
    ]
    assert [rule.rule_id for rule in compiled.row_rules] == ["range_a", "range_a_3", "range_a_2"]
    assert [rule.rule_id for rule in compiled.batch_rules] == ["row_count"]
    long = rules.compile([rules.Exists("x" * 80), rules.Exists("x" * 81)])
    assert {len(rule.rule_id) for rule in long.rules} == {64}


def test_compile_refuses_equal_ids_and_too_many_rules() -> None:
    """An id names one rule, and a list of rules has an end."""
    twice = [rules.Exists("a", rule_id="x"), rules.Exists("b", rule_id="x")]
    with pytest.raises(
        errors.InvalidArgumentError, match=r"^rules\[1\]\.rule_id: 'x' must be unique"
    ):
        rules.compile(twice)
    with pytest.raises(errors.InvalidArgumentError, match="must be at most 1000"):
        rules.compile([rules.Exists("a")] * 1001)


def test_no_rules_judge_nothing() -> None:
    """An empty list of rules is content with everything."""
    compiled = rules.compile([])
    assert compiled.evaluate(Columns(3)) == []
    verdict = compiled.check_rows(Columns(3))
    assert verdict.ok
    assert verdict.reject_mask.tolist() == [False] * 3
