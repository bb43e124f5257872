"""Medians, percentiles and ratios of what was measured."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least this share of the values does not exceed.

    Args:
        values: At least one, in any order.
        share: From 0 (the least value) to 1 (the greatest).
    """
    if not values:
        raise ValueError("there is no percentile of nothing")
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some rounds, and how far they lie apart."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sums rounds up; there is at least one."""
        return cls(statistics.median(values), min(values), max(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Divides round by round.

    What one round's noise does to both sides cancels out, which it would not between the medians.

    Args:
        over: One value for each round.
        under: The same rounds; none is 0.
    """
    return Spread.of([above / below for above, below in zip(over, under, strict=True)])
