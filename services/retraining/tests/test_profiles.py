import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_retraining.testing import DAY
from setpoint_retraining.training import profiles

RANDOM = np.random.default_rng(2)


@given(st.lists(st.floats(width=32), min_size=1, max_size=60))
def test_of_numbers_counts_every_row(values: list[float]) -> None:
    """Every row is in one bin; edges rise; missing and infinite values stand at the end."""
    array = np.array(values)
    made = profiles.of_numbers("x", array, np.zeros(len(values), dtype=np.int64))
    assert sum(made.counts) == len(values)
    assert len(made.counts) == len(made.edges) + 3
    assert list(made.edges) == sorted(set(made.edges))
    assert made.counts[-2] == np.isnan(array).sum()
    assert made.counts[-1] == np.isinf(array).sum()
    assert made.design_effect >= 1


def test_of_numbers_deciles() -> None:
    """Many different numbers are cut into ten equal bins, an edge belonging to the lower one."""
    made = profiles.of_numbers("x", np.arange(1.0, 101.0), np.zeros(100, dtype=np.int64))
    assert len(made.edges) == 9
    assert made.counts == (*[10] * 10, 0, 0)
    same = profiles.of_numbers("x", np.ones(7), np.zeros(7, dtype=np.int64))
    assert (same.edges, same.counts) == ((1.0,), (7, 0, 0, 0))


def test_of_texts_keeps_frequent_levels() -> None:
    """The 50 most frequent levels have bins of their own; the rest is other, nothing is unseen."""
    values = [f"level {number % 60:02}" for number in range(600)] + ["level 59"] * 5 + [None] * 3
    made = profiles.of_texts("t", values, np.zeros(len(values), dtype=np.int64))
    assert len(made.levels) == profiles.MAXIMUM_LEVELS
    assert made.levels[:2] == ("level 59", "level 00")
    assert made.counts[0] == 15
    other, unseen, missing, invalid = made.counts[-4:]
    assert (other, unseen, missing, invalid) == (100, 0, 3, 0)
    assert sum(made.counts) == len(values)


def test_design_effect_independent_rows() -> None:
    """Rows that know nothing of their day have an effect of about 1."""
    time = np.repeat(np.arange(30), 100) * DAY
    effect = profiles.design_effect(RANDOM.integers(0, 10, 3_000), time)
    assert 1.0 <= effect < 1.3


def test_design_effect_correlated_days() -> None:
    """Weather, which is one thing for a whole day, has a large one."""
    time = np.repeat(np.arange(30), 100) * DAY
    weather = np.repeat(RANDOM.integers(0, 10, 30), 100)
    assert profiles.design_effect(weather, time) > 20


def test_design_effect_needs_days() -> None:
    """Too few days, or one bin alone, say nothing."""
    time = np.repeat(np.arange(13), 100) * DAY
    assert profiles.design_effect(np.repeat(np.arange(13), 100), time) == 1.0
    assert profiles.design_effect(np.zeros(3_000, dtype=np.int64), np.arange(3_000) * DAY) == 1.0
