import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from setpoint_retraining.domain import gate
from setpoint_retraining.testing import DAY

RANDOM = np.random.default_rng(1)
LABEL = (RANDOM.random(500) < 0.3).astype(float)
NOISE = RANDOM.normal(0, 0.2, 500)
SCORE: gate.Vector = np.clip(0.3 + 0.3 * (LABEL - 0.3) + NOISE, 0.01, 0.99).astype(np.float64)
SCORE = np.rint(SCORE * 100) / 100
TIME = np.arange(500) * DAY // 20


def test_measure_like_scikit_learn() -> None:
    """Metrics, ties included, are those of scikit-learn."""
    measured = gate.measure(SCORE, LABEL)
    assert measured == pytest.approx(
        {
            "log_loss": sklearn_metrics.log_loss(LABEL, SCORE),
            "brier": sklearn_metrics.brier_score_loss(LABEL, SCORE),
            "accuracy": sklearn_metrics.accuracy_score(LABEL, SCORE >= 0.5),
            "roc_auc": sklearn_metrics.roc_auc_score(LABEL, SCORE),
        }
    )


def test_measure_one_class() -> None:
    """With one class alone there is no area under a curve, and certain errors stay finite."""
    measured = gate.measure(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    assert "roc_auc" not in measured
    assert measured["log_loss"] == pytest.approx(-np.log(gate.SMALLEST_PROBABILITY) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "tolerance", "passed"),
    [
        ("log_loss", 0.40, 0.41, 0.0, True),
        ("log_loss", 0.41, 0.41, 0.0, True),
        ("log_loss", 0.42, 0.41, 0.0, False),
        ("log_loss", 0.42, 0.41, 0.02, True),
        ("roc_auc", 0.80, 0.79, 0.0, True),
        ("roc_auc", 0.78, 0.79, 0.0, False),
        ("roc_auc", 0.78, 0.79, 0.02, True),
    ],
)
def test_judge_by_direction(
    metric: str, ours: float, theirs: float, tolerance: float, passed: bool
) -> None:
    """Lower is better for losses, higher for the others; the tolerance goes against better."""
    judged = gate.judge(metric, tolerance, {metric: ours}, {metric: theirs}, SCORE, TIME)
    assert judged.passed is passed
    assert judged.difference == pytest.approx(ours - theirs)
    assert metric in judged.explanation


def test_judge_unmeasured_metric() -> None:
    """A metric that could not be measured lets nothing pass."""
    judged = gate.judge("roc_auc", 1.0, {"log_loss": 0.1}, {"log_loss": 0.2}, SCORE, TIME)
    assert not judged.passed
    assert "roc_auc" in judged.explanation


def test_day_block_interval_holds_mean() -> None:
    """The interval holds the mean and is the same for the same seed."""
    difference = RANDOM.normal(0.1, 1, 500)
    lower, upper = gate.day_block_interval(difference, TIME, 0)
    assert lower < difference.mean() < upper
    assert (lower, upper) == gate.day_block_interval(difference, TIME, 0)


def test_day_block_interval_is_wider_for_dependent_rows() -> None:
    """Rows that agree within a day carry less evidence than independent ones."""
    independent = RANDOM.normal(0, 1, 500)
    dependent = np.repeat(RANDOM.normal(0, 1, 25), 20)
    narrow = np.ptp(gate.day_block_interval(independent, TIME, 0))
    wide = np.ptp(gate.day_block_interval(dependent, TIME, 0))
    assert wide > 2 * narrow
