from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import setpoint_rules as rules
from setpoint_columns import Column, Columns, DataType

_VALUES: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.BOOL: st.booleans(),
    DataType.INT64: st.sampled_from([0, 1, 2**63 - 1, -(2**63)]),
    DataType.FLOAT64: st.sampled_from([0.0, 1.5, float("nan")]),
    DataType.STRING: st.sampled_from(["", "a", "b"]),
}


@st.composite
def _keys(draw: st.DrawFn) -> Columns:
    rows = draw(st.integers(0, 12))
    made = []
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        dtype = draw(st.sampled_from(list(_VALUES)))
        values = draw(st.lists(st.none() | _VALUES[dtype], min_size=rows, max_size=rows))
        made.append(Column.from_list(name, values, dtype))
    return Columns(rows, made)


@given(_keys())
def test_unique_agrees_with_counting(batch: Columns) -> None:
    """Exactly the rows whose tuple occurs twice or more fail, rows of nulls alone left out."""
    result = rules.compile([rules.Unique(batch.names)]).evaluate(batch)[0]
    tuples = [tuple(map(repr, row.values())) for row in batch.to_rows()]
    counts = Counter(tuples)
    present = [any(part != "None" for part in each) for each in tuples]
    expected = [row for row, each in enumerate(tuples) if present[row] and counts[each] > 1]
    assert result.failing_rows.tolist() == expected
    assert result.missing_count == present.count(False)
    assert result.success is (not expected)


def test_unique_names_the_group() -> None:
    """The message shows the first repeated tuple."""
    batch = Columns.from_dict(
        {"a": (DataType.STRING, ["x", "y", "x"]), "b": (DataType.INT64, [1, 1, 1])}
    )
    result = rules.compile([rules.Unique(["a", "b"])]).evaluate(batch)[0]
    assert result.message == "a, b: a='x', b=1 must be unique (rule unique_a_b), 2 of 3 rows"
    missing = rules.compile([rules.Unique(["a", "z"])]).evaluate(batch)[0]
    assert missing.message == "z: must exist, because it must be unique (rule unique_a_z)"
    assert missing.unexpected_count == 3


@pytest.mark.parametrize(
    "rule, success",
    [
        (rules.RowCount(3), True),
        (rules.RowCount(max=3), True),
        (rules.RowCount(4), False),
        (rules.RowCount(0, 2), False),
    ],
)
def test_row_count_bounds_are_inclusive(rule: rules.RowCount, success: bool) -> None:
    """The number of rows is measured and compared."""
    result = rules.compile([rule]).evaluate(Columns(3))[0]
    assert (result.success, result.observed, result.unexpected_count) == (success, 3.0, 0)


@pytest.mark.parametrize(
    "dtype, values, observed, success",
    [
        (DataType.FLOAT64, [1.0, 3.0, None], 2.0, True),
        (DataType.INT64, [2**62, 2**62], float(2**62), False),
        (DataType.BOOL, [True, False], 0.5, False),
        (DataType.FLOAT64, [], None, False),
        (DataType.FLOAT64, [None], None, False),
        (DataType.STRING, ["2"], None, False),
        (DataType.TIMESTAMP, [2], None, False),
    ],
)
def test_mean_range_measures(
    dtype: DataType, values: list[Any], observed: float | None, success: bool
) -> None:
    """The mean leaves nulls out; nothing to average, or no numbers, is a failure."""
    batch = Columns.from_dict({"a": (dtype, values)})
    result = rules.compile([rules.MeanRange("a", 1, 2)]).evaluate(batch)[0]
    assert (result.observed, result.success) == (observed, success)


@pytest.mark.parametrize("values", [[1.0, float("nan")], [float("inf"), float("-inf")]])
def test_mean_range_fails_on_nan(values: list[float]) -> None:
    """A mean that is NaN lies nowhere."""
    batch = Columns.from_dict({"a": (DataType.FLOAT64, values)})
    result = rules.compile([rules.MeanRange("a", -9, 9)]).evaluate(batch)[0]
    assert not result.success
    assert "mean nan must be at least -9.0 and at most 9.0" in result.message


def test_mean_range_of_missing_column() -> None:
    """A column that is not there has no mean."""
    result = rules.compile([rules.MeanRange("a", 1)]).evaluate(Columns(2))[0]
    assert result.message == "a: must exist, because it must have a mean (rule mean_range_a)"
