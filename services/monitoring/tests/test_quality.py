"""Quality, against scikit-independent definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_monitoring.domain import quality
from setpoint_monitoring.domain.records import Window, aligned_windows


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=60
    )
)
def test_roc_auc_equals_pairs(rows: list[tuple[float, bool]]) -> None:
    """The area is the share of pairs in the right order, ties counted half."""
    scores = np.array([score for score, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    positive, negative = scores[labels == 1], scores[labels == 0]
    found = quality.roc_auc(scores, labels)
    if min(len(positive), len(negative)) < quality.MINIMUM_ROWS_PER_CLASS:
        assert found is None
        return
    difference = positive[:, None] - negative[None, :]
    expected = ((difference > 0).sum() + 0.5 * (difference == 0).sum()) / difference.size
    assert found == pytest.approx(expected)


def test_binary_metrics_of_known_rows() -> None:
    """Four rows give the figures that paper and pencil give."""
    scores, labels = np.array([0.8, 0.4, 0.3, 0.9]), np.array([1.0, 0.0, 1.0, 1.0])
    metrics = quality.binary_metrics(scores, labels)
    expected = -np.mean(np.log([0.8, 0.6, 0.3, 0.9]))
    assert metrics["log_loss"] == pytest.approx(expected)
    assert metrics["brier"] == pytest.approx((0.04 + 0.16 + 0.49 + 0.01) / 4)
    assert metrics["accuracy"] == pytest.approx(0.75)
    assert "roc_auc" not in metrics


def test_metrics_of_no_rows_are_absent() -> None:
    """Nothing measured is nothing said."""
    assert quality.binary_metrics(np.empty(0), np.empty(0)) == {}
    assert quality.regression_metrics(np.empty(0), np.empty(0)) == {}


@given(st.integers(0, 10_000), st.integers(1, 5_000), st.integers(0, 700))
def test_aligned_windows_cover_the_range(start: int, length: int, size: int) -> None:
    """Windows follow each other without gap, inner edges on multiples of the size."""
    windows = aligned_windows(start, start + length, size)
    assert windows[0].start == start
    assert windows[-1].end == start + length
    for one, next_one in itertools.pairwise(windows):
        assert one.end == next_one.start
        assert one.end % size == 0
    assert all(isinstance(each, Window) and each.start < each.end for each in windows)
