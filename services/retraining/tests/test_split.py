import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_retraining.domain import split

ROWS = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 300)), max_size=50)


@given(rows=ROWS, holdout=st.integers(1, 300), gap=st.integers(0, 300))
def test_split_never_overlaps(rows: list[tuple[int, int]], holdout: int, gap: int) -> None:
    """No row is on both sides, and whatever was trained on was known when the hold-out began."""
    asked = np.array([time for time, _ in rows], dtype=np.int64)
    known = asked + np.array([delay for _, delay in rows], dtype=np.int64)
    parts = split.temporal_split(asked, known, 1_000, holdout, gap)
    start = 1_000 - holdout
    assert not (parts.train & parts.test).any()
    assert (asked[parts.test] >= start).all()
    assert (asked[parts.train] < start - gap).all()
    assert (known[parts.train] < start).all()
    assert parts.test.sum() == (asked >= start).sum()


def test_split_purges_late_labels() -> None:
    """A question that was answered only within the hold-out is trained on by nobody."""
    asked = np.array([10, 10, 85, 95])
    known = np.array([20, 90, 86, 99])
    parts = split.temporal_split(asked, known, end=100, holdout=10, gap=5)
    assert parts.train.tolist() == [True, False, False, False]
    assert parts.test.tolist() == [False, False, False, True]
