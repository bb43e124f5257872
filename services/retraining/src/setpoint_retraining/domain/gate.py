"""Whether a new version is good enough, judged on the rows that the champion was judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_retraining.domain.policy import GATE_METRICS

DAY = 86_400_000_000
"""Microseconds."""

BOOTSTRAPS = 2_000
SMALLEST_PROBABILITY = 1e-7

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gate:
    """The answer with its evidence: the interval is the middle 95 % of the day-block bootstrap."""

    passed: bool
    difference: float
    lower: float
    upper: float
    explanation: str


def measure(score: Vector, label: Vector, threshold: float = 0.5) -> dict[str, float]:
    """Measures probabilities against labels of 0 and 1, both of shape [rows]."""
    metrics = {
        "log_loss": float(log_losses(score, label).mean()),
        "brier": float(((score - label) ** 2).mean()),
        "accuracy": float(np.mean((score >= threshold) == (label > 0))),
    }
    area = roc_auc(score, label)
    return metrics if area is None else {**metrics, "roc_auc": area}


def log_losses(score: Vector, label: Vector) -> Vector:
    """Computes the log loss of each row."""
    kept = np.clip(score, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -(label * np.log(kept) + (1 - label) * np.log1p(-kept))


def roc_auc(score: Vector, label: Vector) -> float | None:
    """Computes the area under the ROC curve, ties counted half; None with one class alone."""
    positives = int((label > 0).sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, places, sizes = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[places]
    area = ranks[label > 0].sum() - positives * (positives + 1) / 2
    return float(area / (positives * negatives))


def judge(
    metric: str,
    tolerance: float,
    metrics: Mapping[str, float],
    champion_metrics: Mapping[str, float],
    loss_difference: Vector,
    question_time: npt.NDArray[np.int64],
    seed: int = 0,
) -> Gate:
    """Judges a challenger.

    Args:
        metric: The metric that decides.
        tolerance: How much worse it may be.
        metrics: The challenger's metrics on the hold-out.
        champion_metrics: The champion's on the same rows.
        loss_difference: Challenger's log loss minus champion's, shape [rows].
        question_time: Microseconds, shape [rows]; whole days are resampled, because the rows of one
            day are not independent.
        seed: Of the bootstrap.
    """
    if metric not in metrics or metric not in champion_metrics:
        return Gate(False, 0.0, 0.0, 0.0, f"{metric} cannot be measured on the hold-out")
    better = GATE_METRICS[metric]
    difference = metrics[metric] - champion_metrics[metric]
    lower, upper = day_block_interval(loss_difference, question_time, seed)
    passed = difference * better >= -tolerance
    relation = "is" if passed else "is not"
    return Gate(
        passed,
        difference,
        lower,
        upper,
        f"{metric} {metrics[metric]:.4f} {relation} good enough against the champion's "
        f"{champion_metrics[metric]:.4f} (tolerance {tolerance:g}); log loss differs by "
        f"{float(loss_difference.mean()):+.4f}, by day blocks {lower:+.4f} to {upper:+.4f}",
    )


def day_block_interval(
    difference: Vector, question_time: npt.NDArray[np.int64], seed: int
) -> tuple[float, float]:
    """Computes a 95 % interval of the mean difference by resampling whole days."""
    days, places = np.unique(question_time // DAY, return_inverse=True)
    sums = np.bincount(places, weights=difference, minlength=len(days))
    sizes = np.bincount(places, minlength=len(days))
    drawn = np.random.default_rng(seed).integers(len(days), size=(BOOTSTRAPS, len(days)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return float(lower), float(upper)
