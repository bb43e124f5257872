import numpy as np
import pytest

from setpoint_columns import Column, DataType
from setpoint_feature.domain import sketch


def estimated(column: Column) -> int:
    """Returns the estimate for all values of a column."""
    registers, ranks = sketch.places(column)
    greatest = np.zeros(sketch.REGISTERS, np.int64)
    np.maximum.at(greatest, registers, ranks)
    at_least = [np.count_nonzero(greatest >= rank) for rank in range(1, sketch.TOP_RANK + 1)]
    return int(sketch.estimate(np.array([at_least], np.int64))[0])


@pytest.mark.parametrize("count", [0, 1, 30, 100])
def test_small_counts_are_nearly_exact(count: int) -> None:
    """Few values hardly share a register."""
    column = Column.from_list("x", [f"value {number}" for number in range(count)], DataType.STRING)
    assert abs(estimated(column) - count) <= count // 20


@pytest.mark.parametrize("count", [700, 2_500, 5_000, 200_000])
def test_error_is_as_stated(count: int) -> None:
    """Over many sets of values the root of the mean squared error is the standard error, without a bias."""
    errors = []
    for start in range(20):
        values = np.arange(count) + start * 1_000_000
        errors.append(estimated(Column.from_numpy("x", values)) / count - 1)
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 * sketch.STANDARD_ERROR
    assert abs(np.mean(errors)) < sketch.STANDARD_ERROR


def test_equal_values_have_equal_places() -> None:
    """Widths do not count, nor does the sign of zero; types do."""
    wide = sketch.places(Column.from_list("x", [7, -1], DataType.INT64))
    narrow = sketch.places(Column.from_list("x", [7, -1], DataType.INT32))
    assert np.array_equal(wide, narrow)
    zeros = sketch.places(Column.from_list("x", [0.0, -0.0], DataType.FLOAT64))
    assert zeros[0][0] == zeros[0][1]
    assert zeros[1][0] == zeros[1][1]


def test_places_never_change() -> None:
    """States are stored, so a value keeps its place for ever, on every machine."""
    found = sketch.places(Column.from_list("x", ["", "JFK", "é"], DataType.STRING))
    assert [each.tolist() for each in found] == [[194, 751, 179], [1, 1, 1]]
