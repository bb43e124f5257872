import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.load.support import figures

NUMBERS = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@pytest.mark.parametrize(
    "share, expected",
    [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)],
)
def test_percentile_of_a_hundred(share: float, expected: float) -> None:
    """A percentile is a measured value, the smallest that covers the share."""
    assert figures.percentile([float(value) for value in range(100, 0, -1)], share) == expected


@given(NUMBERS, st.floats(0, 1))
def test_percentile_covers_its_share(values: list[float], share: float) -> None:
    """At least the share lies at or below it, and less than the share below it."""
    found = figures.percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) <= share * len(values)


def test_percentile_refuses_nothing() -> None:
    """There is no percentile without values."""
    with pytest.raises(ValueError, match="nothing"):
        figures.percentile([], 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_percentile_refuses_a_share(share: float) -> None:
    """A share is between 0 and 1; 99 for the 99th percentile is a mistake that is told."""
    with pytest.raises(ValueError, match="share"):
        figures.percentile([1.0], share)


@given(NUMBERS)
def test_spread_holds_its_middle(values: list[float]) -> None:
    """The middle is the median and lies between the ends."""
    spread = figures.Spread.of(values)
    assert spread.least <= spread.middle <= spread.greatest
    assert spread.middle == statistics.median(values)


def test_ratio_divides_round_by_round() -> None:
    """A round that was slow for both sides does not move the ratio."""
    assert figures.ratio([100.0, 10.0, 90.0], [200.0, 20.0, 180.0]) == figures.Spread(0.5, 0.5, 0.5)


def test_ratio_refuses_rounds_that_do_not_pair() -> None:
    """Each round has both sides."""
    with pytest.raises(ValueError, match="zip"):
        figures.ratio([1.0], [1.0, 2.0])
