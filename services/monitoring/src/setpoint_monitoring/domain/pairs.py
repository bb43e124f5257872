"""A shadow and what was answered to callers, pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_monitoring.domain import comparison, quality

Vector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Copies of one shadow, aligned arrays of shape [copies]."""

    is_paired: Flags
    """The record of the prediction that is copied is there."""
    is_answered: Flags
    """The shadow answered, and the version that it is compared with did."""
    has_failed: Flags
    """The shadow did not answer."""
    primary: Vector
    """Scores that callers got; NaN where there is none."""
    shadow: Vector
    """Scores of the shadow; NaN where there is none."""
    label: Vector
    """NaN where no outcome is known."""


@dataclass(frozen=True, slots=True)
class Differences:
    """How far the scores of both lie apart."""

    share: float
    """Of the pairs whose scores differ."""
    decision_share: float | None
    """Of those on different sides of the threshold; None where there is no decision."""
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses on the pairs whose outcome is known."""

    primary: float
    shadow: float
    interval: comparison.Interval | None
    """Shadow minus primary; None with too few pairs."""


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """What can be said of a shadow."""

    pairs: int
    shadow_failures: int
    unpaired: int
    scored: int
    labelled: int
    differences: Differences | None
    losses: Losses | None


def compare(pairs: Pairs, *, binary: bool, threshold: float, tolerance: float) -> ShadowComparison:
    """Compares a shadow with what was answered to callers.

    Args:
        pairs: Its copies.
        binary: The scores are probabilities, the labels 0 or 1.
        threshold: Probability from which on a decision is positive.
        tolerance: Scores that differ by no more are equal.
    """
    scored = pairs.is_answered & np.isfinite(pairs.primary) & np.isfinite(pairs.shadow)
    labelled = scored & np.isfinite(pairs.label)
    return ShadowComparison(
        pairs=int(pairs.is_answered.sum()),
        shadow_failures=int(pairs.has_failed.sum()),
        unpaired=int((~pairs.is_paired).sum()),
        scored=int(scored.sum()),
        labelled=int(labelled.sum()),
        differences=_differences(
            pairs.primary[scored], pairs.shadow[scored], threshold if binary else None, tolerance
        ),
        losses=_losses(
            pairs.primary[labelled], pairs.shadow[labelled], pairs.label[labelled], binary
        ),
    )


def _differences(
    primary: Vector, shadow: Vector, threshold: float | None, tolerance: float
) -> Differences | None:
    if not len(primary):
        return None
    distance = np.abs(shadow - primary)
    decisions = None
    if threshold is not None:
        decisions = float(np.mean((shadow >= threshold) != (primary >= threshold)))
    return Differences(
        float(np.mean(distance > tolerance)),
        decisions,
        float(distance.mean()),
        float(distance.max()),
    )


def _losses(primary: Vector, shadow: Vector, label: Vector, binary: bool) -> Losses | None:
    rows = len(label)
    if not rows:
        return None
    loss = quality.log_losses if binary else quality.squared_errors
    of_primary, of_shadow = loss(primary, label), loss(shadow, label)
    interval = None
    if rows >= comparison.MINIMUM_LABELLED:
        # Both saw the same question, so that what made it hard for both cancels out.
        more = of_shadow - of_primary
        width = comparison.radius(rows, math.sqrt(float(more.var(ddof=1))))
        mean = float(more.mean())
        interval = comparison.Interval(mean, mean - width, mean + width)
    return Losses(float(of_primary.mean()), float(of_shadow.mean()), interval)
