"""Two versions on one route, compared in a way that stays valid however often one looks.

E-values and confidence sequences may be read after every prediction: the chance of ever being misled
stays below the stated level, where a repeated fixed-size test would be misled in 3 of 10 cases.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from scipy import special

FAILURE_LEVEL = 0.05
"""Chance of ever calling an equal candidate worse."""

SPLIT_LIMIT = 1_000.0
"""E-value from which the split of traffic is not the one that was asked for."""

LOSS_HORIZON = 2_000
"""Labelled predictions at which the confidence sequence is tightest."""

LARGEST_SHARE = 1 - 1e-9
MINIMUM_LABELLED = 100

LARGEST_LOGARITHM = 700.0
"""Evidence beyond e to this power overflows a float and needs no telling apart."""


class Verdict(enum.IntEnum):
    """The answer of a gate; the numbers are those of the contract."""

    PASS = 1
    FAIL = 2
    INCONCLUSIVE = 3


@dataclass(frozen=True, slots=True)
class Arm:
    """What one version did in the compared time."""

    predictions: int
    failures: int
    labelled: int = 0
    loss_sum: float = 0.0
    loss_square_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """Difference of mean losses, candidate minus baseline, with its confidence sequence."""

    difference: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The gate's answer with its evidence."""

    verdict: Verdict
    failure_e_value: float
    split_e_value: float
    loss: Interval | None
    explanation: str


def binomial_e_value(successes: int, others: int, share: float) -> float:
    """Computes the evidence against "each event falls to the first side with this probability".

    The mixture of all alternatives with a uniform prior: B(1 + a, 1 + b) / (share^a (1 - share)^b).
    """
    return _exponential(_log_mixture(successes, others, share))


def one_sided_e_value(successes: int, others: int, share: float) -> float:
    """Computes the evidence that events fall to the first side more often than its share.

    The uniform prior is cut to the alternatives above the share.
    """
    above = float(special.betaincc(1 + successes, 1 + others, share))
    if above <= 0.0:
        return 0.0
    return _exponential(_log_mixture(successes, others, share) + math.log(above / (1 - share)))


def _exponential(logarithm: float) -> float:
    """Computes e to a power, as large as a float can be where the true value is larger."""
    return math.exp(min(logarithm, LARGEST_LOGARITHM))


def _log_mixture(successes: int, others: int, share: float) -> float:
    prior = float(special.betaln(1 + successes, 1 + others))
    return prior - successes * math.log(share) - others * math.log1p(-share)


def radius(
    rows: int, deviation: float, level: float = FAILURE_LEVEL, horizon: int = LOSS_HORIZON
) -> float:
    """Computes the half-width of an asymptotic confidence sequence of a mean (Waudby-Smith et al.)."""
    rho_squared = (-2 * math.log(level) + math.log(-2 * math.log(level) + 1)) / horizon
    spread = rows * rho_squared + 1
    return deviation * math.sqrt(
        2 * spread / (rows**2 * rho_squared) * math.log(math.sqrt(spread) / level)
    )


def loss_interval(candidate: Arm, baseline: Arm) -> Interval | None:
    """Compares mean losses; None while either version has fewer than 100 labelled predictions.

    Each mean has its own sequence at half the level, so both hold together at the whole level.
    """
    if min(candidate.labelled, baseline.labelled) < MINIMUM_LABELLED:
        return None
    difference = _mean(candidate) - _mean(baseline)
    width = sum(
        radius(arm.labelled, _deviation(arm), FAILURE_LEVEL / 2) for arm in (candidate, baseline)
    )
    return Interval(difference, difference - width, difference + width)


def _mean(arm: Arm) -> float:
    return arm.loss_sum / arm.labelled


def _deviation(arm: Arm) -> float:
    variance = arm.loss_square_sum / arm.labelled - _mean(arm) ** 2
    return math.sqrt(max(0.0, variance) * arm.labelled / (arm.labelled - 1))


def compare(
    candidate: Arm, baseline: Arm, candidate_share: float, minimum_predictions: int
) -> Comparison:
    """Judges a candidate against the version that serves.

    Args:
        candidate: What the candidate did.
        baseline: What the serving version did in the same time.
        candidate_share: The candidate's share of traffic, between 0 and 1, constant in that time.
        minimum_predictions: With fewer of the candidate the answer is INCONCLUSIVE, whatever they
            are like: too little traffic is a reason to wait. With none it always is.
    """
    # Where more traffic came than was asked for, more failures are no sign of a worse version.
    both = max(1, candidate.predictions + baseline.predictions)
    share = min(max(candidate_share, candidate.predictions / both), LARGEST_SHARE)
    failures = one_sided_e_value(candidate.failures, baseline.failures, share)
    split = binomial_e_value(candidate.predictions, baseline.predictions, candidate_share)
    loss = loss_interval(candidate, baseline)
    verdict, why = _verdict(candidate, baseline, failures, split, loss, minimum_predictions)
    return Comparison(verdict, failures, split, loss, why)


def _verdict(
    candidate: Arm,
    baseline: Arm,
    failures: float,
    split: float,
    loss: Interval | None,
    minimum: int,
) -> tuple[Verdict, str]:
    if not baseline.predictions:
        return Verdict.INCONCLUSIVE, "the baseline has no predictions to compare with"
    if candidate.predictions < max(minimum, 1):
        return (
            Verdict.INCONCLUSIVE,
            f"{candidate.predictions} of {max(minimum, 1)} predictions by the candidate so far",
        )
    if failures >= 1 / FAILURE_LEVEL:
        return Verdict.FAIL, f"the candidate fails more often (e-value {failures:.3g})"
    if loss is not None and loss.lower > 0:
        return (
            Verdict.FAIL,
            f"the candidate's loss is {loss.difference:.4f} higher, at least {loss.lower:.4f}",
        )
    if split >= SPLIT_LIMIT:
        return (
            Verdict.INCONCLUSIVE,
            f"traffic is not split as asked (e-value {split:.3g}); the versions cannot be compared",
        )
    measured = f", loss {loss.difference:+.4f}" if loss is not None else ""
    return (
        Verdict.PASS,
        f"{candidate.predictions} predictions, {candidate.failures} failed{measured}",
    )
