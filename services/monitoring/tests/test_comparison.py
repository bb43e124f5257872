"""Always-valid comparison, against published figures and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_monitoring.domain import comparison
from setpoint_monitoring.domain.comparison import Arm, Verdict


@pytest.mark.parametrize(
    ("successes", "others", "share", "two_sided", "one_sided"),
    [(30, 10, 0.5, 31.64, 63.23), (12, 40, 0.1, 6.19, 6.86), (9, 40, 0.1, 0.659, 0.714)],
)
def test_e_value_published(
    successes: int, others: int, share: float, two_sided: float, one_sided: float
) -> None:
    """E-values equal the reference figures."""
    assert comparison.binomial_e_value(successes, others, share) == pytest.approx(
        two_sided, rel=2e-3
    )
    assert comparison.one_sided_e_value(successes, others, share) == pytest.approx(
        one_sided, rel=2e-3
    )


@given(st.integers(0, 200), st.floats(0.05, 0.95))
def test_e_value_mean_at_most_one(events: int, share: float) -> None:
    """Under equal rates the expected evidence of any number of events is at most 1."""
    counts = np.arange(events + 1)
    logarithms = [
        math.lgamma(events + 1)
        - math.lgamma(k + 1)
        - math.lgamma(events - k + 1)
        + k * math.log(share)
        + (events - k) * math.log1p(-share)
        for k in counts.tolist()
    ]
    chances = np.exp(logarithms)
    evidence = [comparison.one_sided_e_value(k, events - k, share) for k in counts.tolist()]
    assert float(chances @ np.array(evidence)) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(100, 0.365639), (1_000, 0.096064), (10_000, 0.032730), (100_000, 0.011364)],
)
def test_radius_published(rows: int, expected: float) -> None:
    """The radius equals the reference figures for rho = 0.1."""
    horizon = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 0.01
    found = comparison.radius(rows, 1.0, 0.05, horizon=horizon)  # type: ignore[arg-type]  # exact rho
    assert found == pytest.approx(expected, abs=1e-6)


def _arm(predictions: int, failures: int = 0, loss: float | None = None) -> Arm:
    if loss is None:
        return Arm(predictions, failures)
    spread = 0.1
    return Arm(
        predictions,
        failures,
        predictions,
        predictions * loss,
        predictions * (loss**2 + spread**2),
    )


@pytest.mark.parametrize(
    ("candidate", "baseline", "verdict"),
    [
        (_arm(100), _arm(900), Verdict.PASS),
        (_arm(20), _arm(180), Verdict.INCONCLUSIVE),
        (_arm(100, failures=20), _arm(900, failures=9), Verdict.FAIL),
        (_arm(500), _arm(500), Verdict.INCONCLUSIVE),
        (_arm(1_000, loss=0.9), _arm(9_000, loss=0.5), Verdict.FAIL),
        (_arm(1_000, loss=0.5), _arm(9_000, loss=0.9), Verdict.PASS),
    ],
    ids=["alike", "too few", "fails more", "wrong split", "worse", "better"],
)
def test_compare_verdicts(candidate: Arm, baseline: Arm, verdict: Verdict) -> None:
    """Each kind of evidence leads to its verdict at a tenth of the traffic."""
    judged = comparison.compare(candidate, baseline, 0.1, minimum_predictions=50)
    assert judged.verdict is verdict
    assert judged.explanation


@pytest.mark.parametrize(
    ("candidate", "baseline", "minimum", "verdict"),
    [
        (_arm(49, failures=49), _arm(441), 50, Verdict.INCONCLUSIVE),
        (_arm(50, failures=50), _arm(441), 50, Verdict.FAIL),
        (_arm(199, loss=0.9), _arm(1_800, loss=0.1), 200, Verdict.INCONCLUSIVE),
        (_arm(200, loss=0.9), _arm(1_800, loss=0.1), 200, Verdict.FAIL),
        (_arm(0), _arm(1), 0, Verdict.INCONCLUSIVE),
        (_arm(0), _arm(0), 0, Verdict.INCONCLUSIVE),
        (_arm(1), _arm(0), 0, Verdict.INCONCLUSIVE),
        (_arm(1), _arm(9), 0, Verdict.PASS),
        (_arm(1), _arm(9), -5, Verdict.PASS),
    ],
)
def test_compare_waits_for_traffic(
    candidate: Arm, baseline: Arm, minimum: int, verdict: Verdict
) -> None:
    """With too little traffic the answer is to wait, neither to go on nor to go back."""
    judged = comparison.compare(candidate, baseline, 0.1, minimum_predictions=minimum)
    assert judged.verdict is verdict
    assert judged.explanation


@pytest.mark.parametrize(
    ("candidate", "baseline", "verdict"),
    [
        (_arm(400, failures=400), _arm(3_600), Verdict.FAIL),
        (_arm(40_000, failures=40_000), _arm(360_000), Verdict.FAIL),
        (_arm(8_000), _arm(30_000), Verdict.INCONCLUSIVE),
        (_arm(8_000, failures=4_000), _arm(30_000), Verdict.FAIL),
        (_arm(900, failures=45), _arm(100, failures=5), Verdict.INCONCLUSIVE),
    ],
    ids=["all fail", "all of many fail", "split far off", "fails and split off", "more traffic"],
)
def test_compare_extremes(candidate: Arm, baseline: Arm, verdict: Verdict) -> None:
    """A candidate that fails outright is stopped, whatever else is wrong; nothing overflows."""
    judged = comparison.compare(candidate, baseline, 0.1, minimum_predictions=50)
    assert judged.verdict is verdict
    assert math.isfinite(judged.failure_e_value)
    assert math.isfinite(judged.split_e_value)


@given(*(st.integers(0, 10**6) for _ in range(4)), st.floats(0.0001, 0.9999))
def test_compare_never_raises(a: int, b: int, c: int, d: int, share: float) -> None:
    """Any counts have an answer with finite evidence."""
    judged = comparison.compare(Arm(a, min(a, b)), Arm(c, min(c, d)), share, 50)
    assert math.isfinite(judged.failure_e_value)
    assert math.isfinite(judged.split_e_value)


def test_compare_equal_versions_rarely_fail() -> None:
    """Looking after every hundred predictions, equal versions are called worse in under 5 %."""
    random = np.random.default_rng(7)
    called = 0
    for _ in range(200):
        failed = random.random((20, 100)) < 0.05
        mine = random.random((20, 100)) < 0.2
        worse = False
        for looks in range(1, 21):
            a = int((failed[:looks] & mine[:looks]).sum())
            b = int((failed[:looks] & ~mine[:looks]).sum())
            worse |= comparison.one_sided_e_value(a, b, 0.2) >= 20
        called += worse
    assert called <= 10 + 3 * math.sqrt(10)
