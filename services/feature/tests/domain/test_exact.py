import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_feature.domain import exact

numbers = st.one_of(
    st.floats(-(2.0**959), 2.0**959, allow_nan=False),
    st.sampled_from([0.1, -0.1, 1e16, 1.0, 5e-324, -5e-324, 2.0**959]),
)


def rounded(values: list[float]) -> float:
    """Returns the exact sum, rounded once."""
    return float(sum(map(Fraction, values), Fraction(0)))


@settings(deadline=None)
@given(st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=1, max_size=5))
def test_segments_are_rounded_once(segments: list[list[float]]) -> None:
    """Sums are those of exact arithmetic, and their parts merge without any loss."""
    values = np.array([value for segment in segments for value in segment])
    bounds = np.cumsum([0, *map(len, segments)])
    expected = list(map(rounded, segments))
    assert exact.segment_sums(values, bounds).tolist() == expected
    parts = exact.segment_partials(values, bounds)
    assert list(map(math.fsum, parts)) == expected
    assert math.fsum(part for some in parts for part in some) == rounded(values.tolist())


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 6), st.integers(1, 4)), min_size=0, max_size=8))
def test_intervals_are_rounded_once(intervals: list[tuple[float, int, int]]) -> None:
    """At each place the sum is that of exact arithmetic over the values that cover it."""
    found = exact.interval_sums(
        np.array([value for value, _, _ in intervals], np.float64),
        np.array([first for _, first, _ in intervals], np.int64),
        np.array([first + length for _, first, length in intervals], np.int64),
        10,
    )
    for place in range(10):
        covering = [value for value, first, length in intervals if first <= place < first + length]
        assert found[place] == rounded(covering)
