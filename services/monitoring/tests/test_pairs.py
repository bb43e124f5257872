"""A shadow and its primaries, in arrays."""

from __future__ import annotations

import numpy as np
import pytest

from setpoint_monitoring.domain import comparison, pairs, quality

NOTHING = float("nan")


def made(
    primary: list[float],
    shadow: list[float],
    label: list[float] | None = None,
    failed: list[bool] | None = None,
    paired: list[bool] | None = None,
) -> pairs.Pairs:
    """Returns pairs, by default all answered and not labelled."""
    rows = len(primary)
    is_paired = np.array(paired or [True] * rows, dtype=np.bool_)
    has_failed = np.array(failed or [False] * rows, dtype=np.bool_)
    return pairs.Pairs(
        is_paired,
        is_paired & ~has_failed,
        has_failed,
        np.array(primary),
        np.array(shadow),
        np.array(label or [NOTHING] * rows),
    )


def compare(each: pairs.Pairs, tolerance: float = 0.0) -> pairs.ShadowComparison:
    """Compares as a binary classification."""
    return pairs.compare(each, binary=True, threshold=0.5, tolerance=tolerance)


def test_compare_counts() -> None:
    """Failed and unpaired copies are counted apart, and only pairs with both scores compared."""
    found = compare(
        made(
            [0.1, 0.2, NOTHING, 0.4, NOTHING],
            [0.1, NOTHING, 0.3, 0.9, 0.5],
            failed=[False, True, False, False, False],
            paired=[True, True, True, True, False],
        )
    )
    assert (found.pairs, found.shadow_failures, found.unpaired) == (3, 1, 1)
    assert (found.scored, found.labelled, found.losses) == (2, 0, None)


def test_compare_differences() -> None:
    """Scores differ beyond the tolerance, decisions across the threshold."""
    scores = made([0.25, 0.49, 0.75, 0.5], [0.25, 0.51, 0.5, 0.5])
    found = compare(scores).differences
    assert found is not None
    assert (found.share, found.decision_share) == (0.5, 0.25)
    assert found.mean == pytest.approx((0.02 + 0.25) / 4)
    assert found.largest == 0.25
    within = compare(scores, tolerance=0.1).differences
    assert within is not None
    assert within.share == 0.25
    values = pairs.compare(scores, binary=False, threshold=0.5, tolerance=0).differences
    assert values is not None
    assert values.decision_share is None


def test_compare_without_pairs() -> None:
    """Nothing is said of nothing."""
    found = compare(made([], []))
    assert (found.pairs, found.differences, found.losses) == (0, None, None)


def test_compare_losses_of_labelled_pairs() -> None:
    """Both losses are taken on the same questions, those whose answer is known."""
    found = compare(made([0.9, 0.2, 0.5], [0.8, 0.1, 0.5], [1.0, 0.0, NOTHING])).losses
    assert found is not None
    assert found.primary == pytest.approx(-np.log([0.9, 0.8]).mean())
    assert found.shadow == pytest.approx(-np.log([0.8, 0.9]).mean())
    assert found.interval is None
    squared = pairs.compare(made([1.0], [3.0], [2.0]), binary=False, threshold=0, tolerance=0)
    assert squared.losses == pairs.Losses(1.0, 1.0, None)


def test_compare_pairs_are_tighter_than_samples() -> None:
    """What makes a question hard for both cancels out of the difference."""
    random = np.random.default_rng(5)
    truth = random.uniform(size=400)
    label = (random.uniform(size=400) < truth).astype(float)
    primary, shadow = np.clip([truth, truth * 0.9 + 0.05], 0.01, 0.99)
    found = compare(made(list(primary), list(shadow), list(label))).losses
    assert found is not None
    assert found.interval is not None
    assert found.interval.lower < found.shadow - found.primary < found.interval.upper
    apart = comparison.loss_interval(arm(shadow, label), arm(primary, label))
    assert apart is not None
    width = found.interval.upper - found.interval.lower
    assert width < (apart.upper - apart.lower) / 3


def arm(score: pairs.Vector, label: pairs.Vector) -> comparison.Arm:
    """Returns what an unpaired comparison knows."""
    losses = quality.log_losses(score, label)
    return comparison.Arm(len(score), 0, len(score), float(losses.sum()), float((losses**2).sum()))
