"""How far a window's distribution lies from the reference, and whether chance explains it.

An alarm needs both an effect above a floor and a p-value that survives the correction for the number of
columns. The floor alone fires on every small window; the p-value alone fires on every large one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special as functions

from setpoint_monitoring.domain.profile import Counts, Reference

WARNING_FLOOR = 0.1
"""Population stability index from which a column is worth a look."""

ALARM_FLOOR = 0.25
"""Population stability index from which a column has clearly moved."""

FALSE_DISCOVERY_RATE = 0.05

MINIMUM_ROWS = 279
"""With fewer rows a ten-bin index above 0.1 is likelier than 1 in 1,000 when nothing has moved."""

MINIMUM_EXPECTED = 5.0
"""Neighbouring bins are pooled until a bin is expected to hold this many rows on both sides."""

MOVED_BINS = 3
SHARE_FLOOR = 0.01
"""A bin's share must change by this much to be named."""

SPECIAL_WARNING = 0.01
"""Missing, unseen or invalid values are worth a look when their share rises by this much, and to
twice what it was."""

SPECIAL_ALARM = 0.05
"""The same, from which they are an alarm."""


class Level(enum.IntEnum):
    """How far a column has moved; the numbers are those of the contract."""

    NO_DATA = 1
    OK = 2
    WARNING = 3
    ALARM = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One column in one window against its reference."""

    column: str
    rows: int
    population_stability_index: float
    p_value: float
    adjusted_p_value: float
    jensen_shannon_distance: float
    largest_share_change: float
    missing_share: float
    reference_missing_share: float
    unseen_share: float
    level: Level
    moved_bins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Measured:
    reference: Reference
    counts: Counts
    index: float
    p_value: float
    distance: float
    largest_change: float
    special_rise: float
    """Greatest rise of the share of missing, unseen or invalid values, if it at least doubled."""


def population_stability_index(reference: npt.ArrayLike, window: npt.ArrayLike) -> float:
    """Computes the population stability index of two count vectors, half a row added to each bin."""
    p, q = _smoothed_shares(reference), _smoothed_shares(window)
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon_distance(reference: npt.ArrayLike, window: npt.ArrayLike) -> float:
    """Computes the Jensen-Shannon distance of two count vectors, natural logarithm, 0 to 0.8326."""
    p, q = _shares(reference), _shares(window)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.sqrt(max(0.0, divergence)))


def chance_of_index(
    index: float, bins: int, rows: float, reference_rows: float, effect: float
) -> float:
    """Computes how likely an index at least this large is when nothing has moved.

    Under no change the index is distributed as (1/n + 1/m) times chi-square with bins - 1 degrees of
    freedom (Yurdakul 2018), stretched by the design effect of rows that are not independent.
    """
    if bins < 2:
        return 1.0
    scale = max(1.0, effect) * (1 / reference_rows + 1 / rows)
    return float(functions.chdtrc(bins - 1, index / scale))


def pooled(reference: Counts, window: Counts, special: int) -> tuple[Counts, Counts]:
    """Pools neighbouring bins until each is expected to hold 5 rows on both sides.

    The last `special` bins have no neighbours: each stands alone if it is expected to hold 5 rows, and
    is left out otherwise (`special_chance` judges them by themselves).
    """
    total = reference + window
    share = min(reference.sum(), window.sum()) / max(1, total.sum())
    values = len(total) - special
    starts: list[int] = []
    held = 0.0
    for place, count in enumerate(total[:values]):
        if not starts or held >= MINIMUM_EXPECTED:
            starts.append(place)
            held = 0.0
        held += float(count) * share
    if held < MINIMUM_EXPECTED and len(starts) > 1:
        starts.pop()
    alone = values + np.flatnonzero(total[values:] * share >= MINIMUM_EXPECTED)
    return (
        np.concatenate([np.add.reduceat(reference[:values], starts), reference[alone]]),
        np.concatenate([np.add.reduceat(window[:values], starts), window[alone]]),
    )


def special_chance(reference: Counts, window: Counts, special: int, effect: float) -> float:
    """Computes how likely so large a rise of any special bin's share is when nothing has moved.

    Two-proportion z-tests, half a row added to each count, corrected for their number.
    """
    n, m = float(reference.sum()), float(window.sum())
    before = (reference[-special:] + 0.5) / (n + 1)
    now = (window[-special:] + 0.5) / (m + 1)
    middle = (reference[-special:] + window[-special:] + 0.5) / (n + m + 1)
    spread = np.sqrt(middle * (1 - middle) * (1 / n + 1 / m) * max(1.0, effect))
    chances = functions.ndtr((before - now) / spread)
    return float(min(1.0, special * chances.min()))


def judge(pairs: Sequence[tuple[Reference, Counts]]) -> list[Finding]:
    """Compares every column of one window with its reference.

    Args:
        pairs: For each column its reference and the window's count vector.

    Returns:
        One finding for each column in order; p-values are corrected over the columns that have data.
    """
    measured = [_measure(reference, counts) for reference, counts in pairs]
    enough = [each for each in measured if _has_data(each)]
    adjusted = false_discovery_adjusted(np.array([each.p_value for each in enough]))
    corrected = {id(each): float(value) for each, value in zip(enough, adjusted, strict=True)}
    return [_finding(each, corrected.get(id(each))) for each in measured]


def false_discovery_adjusted(chances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjusts p-values so that those below a rate make at most that share of false discoveries.

    Benjamini and Hochberg 1995: the p-value of rank i among m is multiplied by m / i, and is never
    above that of a later rank. (Here, since scipy.stats takes longer to import than a service to start.)

    Args:
        chances: p-values, any order.

    Returns:
        Adjusted p-values in the same order, at most 1.
    """
    count = len(chances)
    falling = np.argsort(chances)[::-1]
    stretched = chances[falling] * count / np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[falling] = np.minimum(1.0, np.minimum.accumulate(stretched))
    return adjusted


def _has_data(measured: _Measured) -> bool:
    return bool(measured.counts.sum() >= MINIMUM_ROWS and sum(measured.reference.counts) > 0)


def _measure(reference: Reference, counts: Counts) -> _Measured:
    expected = np.asarray(reference.counts, dtype=np.int64)
    if not counts.sum() or not expected.sum():
        return _Measured(reference, counts, 0.0, 1.0, 0.0, 0.0, 0.0)
    before, now = pooled(expected, counts, reference.special)
    index = population_stability_index(before, now)
    by_index = chance_of_index(
        index, len(before), float(counts.sum()), float(expected.sum()), reference.design_effect
    )
    by_special = special_chance(expected, counts, reference.special, reference.design_effect)
    shares_before, shares_now = _shares(expected), _shares(counts)
    rises = (shares_now - shares_before)[-reference.special :]
    doubled = shares_now[-reference.special :] >= 2 * shares_before[-reference.special :]
    return _Measured(
        reference,
        counts,
        index,
        # Two looks at one column: the smaller chance, doubled.
        min(1.0, 2 * min(by_index, by_special)),
        jensen_shannon_distance(expected, counts),
        float(np.max(np.abs(shares_before - shares_now))),
        float(max(0.0, (rises * doubled).max())),
    )


def _finding(measured: _Measured, adjusted: float | None) -> Finding:
    reference, counts = measured.reference, measured.counts
    now, before = _shares(counts), _shares(reference.counts)
    return Finding(
        column=reference.column,
        rows=int(counts.sum()),
        population_stability_index=measured.index,
        p_value=measured.p_value,
        adjusted_p_value=1.0 if adjusted is None else adjusted,
        jensen_shannon_distance=measured.distance,
        largest_share_change=measured.largest_change,
        missing_share=float(now[-2]),
        reference_missing_share=float(before[-2]),
        unseen_share=float(now[-3]) if reference.categorical else 0.0,
        level=_level(measured, adjusted),
        moved_bins=_moved(reference, before, now),
    )


def _level(measured: _Measured, adjusted: float | None) -> Level:
    if adjusted is None:
        return Level.NO_DATA
    if adjusted > FALSE_DISCOVERY_RATE:
        return Level.OK
    if measured.index >= ALARM_FLOOR or measured.special_rise >= SPECIAL_ALARM:
        return Level.ALARM
    if measured.index >= WARNING_FLOOR or measured.special_rise >= SPECIAL_WARNING:
        return Level.WARNING
    return Level.OK


def _moved(
    reference: Reference, before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]
) -> tuple[str, ...]:
    labels = reference.labels()
    order = np.argsort(-np.abs(now - before), kind="stable")[:MOVED_BINS]
    return tuple(
        f"{labels[place]}: {before[place]:.1%} → {now[place]:.1%}"
        for place in order
        if abs(now[place] - before[place]) >= SHARE_FLOOR
    )


def _shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(counts, dtype=np.float64)
    return values / max(1.0, float(values.sum()))


def _smoothed_shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return _shares(np.asarray(counts, dtype=np.float64) + 0.5)


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))
