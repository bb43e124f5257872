"""Quality of scores once the outcomes are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-7
"""Probabilities are cut to this distance from 0 and 1, so that one certain error stays finite."""

CALIBRATION_BINS = 10
MINIMUM_ROWS_PER_CLASS = 10
"""The area under the ROC curve is not reported with fewer rows of either class."""


def log_losses(scores: Vector, labels: Vector) -> Vector:
    """Computes the log loss of each row; labels are 0 or 1. Shape [rows]."""
    kept = np.clip(scores, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -(labels * np.log(kept) + (1 - labels) * np.log1p(-kept))


def squared_errors(scores: Vector, labels: Vector) -> Vector:
    """Computes the squared error of each row. Shape [rows]."""
    return (scores - labels) ** 2


def roc_auc(scores: Vector, labels: Vector) -> float | None:
    """Computes the area under the ROC curve, ties counted half; None with too few of either class."""
    positives = int(np.sum(labels > 0))
    negatives = len(labels) - positives
    if min(positives, negatives) < MINIMUM_ROWS_PER_CLASS:
        return None
    _, places, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[places]
    area = ranks[labels > 0].sum() - positives * (positives + 1) / 2
    return float(area / (positives * negatives))


def expected_calibration_error(scores: Vector, labels: Vector) -> float:
    """Computes the mean distance of score and label over ten bins of equal size."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(CALIBRATION_BINS, len(order)))
    gaps = [len(part) * abs(labels[part].mean() - scores[part].mean()) for part in parts]
    return float(sum(gaps) / len(order))


def binary_metrics(scores: Vector, labels: Vector, threshold: float = 0.5) -> dict[str, float]:
    """Measures a binary classifier; empty without rows.

    Args:
        scores: Probabilities of the positive class, shape [rows].
        labels: 0 or 1, shape [rows].
        threshold: Probability from which on the decision is positive.
    """
    if not len(scores):
        return {}
    metrics = {
        "log_loss": float(log_losses(scores, labels).mean()),
        "brier": float(squared_errors(scores, labels).mean()),
        "accuracy": float(np.mean((scores >= threshold) == (labels > 0))),
        "expected_calibration_error": expected_calibration_error(scores, labels),
    }
    area = roc_auc(scores, labels)
    return metrics if area is None else {**metrics, "roc_auc": area}


def regression_metrics(scores: Vector, labels: Vector) -> dict[str, float]:
    """Measures a regression; empty without rows."""
    if not len(scores):
        return {}
    errors = scores - labels
    return {
        "mean_absolute_error": float(np.abs(errors).mean()),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
        "bias": float(errors.mean()),
    }
