"""Distributions in fixed bins: made once in training, counted ever after.

A profile is an integer count vector, so the profiles of replicas, windows and segments merge by
addition. Edges are never taken from the window that is judged: windows stay comparable.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reference:
    """The distribution of one column in training.

    Numbers: ``edges`` are inner bin edges, rising; bins are (-inf, e1], (e1, e2], ..., (en, inf), then
    missing, then invalid (NaN, infinite). Categories: one bin for each level, then other (in training,
    but not among the levels), unseen, missing, invalid.
    """

    column: str
    edges: tuple[float, ...]
    levels: tuple[str, ...]
    counts: tuple[int, ...]
    categorical: bool
    importance: float = 0.0
    design_effect: float = 1.0

    @property
    def bins(self) -> int:
        """Number of bins that hold values, those of missing and invalid values left out."""
        return len(self.levels) + 2 if self.categorical else len(self.edges) + 1

    @property
    def special(self) -> int:
        """Number of last bins that hold no ordinary values: unseen, missing, invalid."""
        return 3 if self.categorical else 2

    @property
    def size(self) -> int:
        """Length of a count vector."""
        return self.bins + 2

    def labels(self) -> list[str]:
        """Names the bins, for people."""
        if self.categorical:
            return [*self.levels, "other", "unseen", "missing", "invalid"]
        ends = ["-inf", *(f"{edge:.6g}" for edge in self.edges), "inf"]
        ranges = [f"({low}, {high}]" for low, high in itertools.pairwise(ends)]
        return [*ranges, "missing", "invalid"]


def count_numbers(
    reference: Reference, values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_]
) -> Counts:
    """Counts numbers into the reference's bins.

    Args:
        reference: A numeric reference.
        values: shape [rows]; what stands at missing rows is not looked at.
        missing: shape [rows], true where there is no value.

    Returns:
        A count vector of the reference's size.
    """
    counts = np.zeros(reference.size, dtype=np.int64)
    present = values[~missing]
    finite = present[np.isfinite(present)]
    places = np.searchsorted(np.asarray(reference.edges), finite, side="left")
    counts[: reference.bins] = np.bincount(places, minlength=reference.bins)
    counts[-2] = len(values) - len(present)
    counts[-1] = len(present) - len(finite)
    return counts


def count_levels(reference: Reference, values: Sequence[str | None]) -> Counts:
    """Counts categories into the reference's bins.

    A value that is none of the levels counts as unseen: which rarer values training held is not
    kept, so a reference whose ``other`` bin was filled in training takes them as other.
    """
    counts = np.zeros(reference.size, dtype=np.int64)
    place = {level: number for number, level in enumerate(reference.levels)}
    other = len(reference.levels)
    unknown = other if reference.counts[other] else other + 1
    for value in values:
        counts[-2 if value is None else place.get(value, unknown)] += 1
    return counts
