"""What each input and the score looked like in training, in fixed bins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DECILES = 10
MAXIMUM_LEVELS = 50
DAY = 86_400_000_000
MINIMUM_DAYS = 14
"""The design effect is estimated from at least this many days; with fewer it is 1."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One column's distribution; the layout of counts is that of registry.v1.FeatureProfile."""

    column: str
    categorical: bool
    edges: tuple[float, ...]
    levels: tuple[str, ...]
    counts: tuple[int, ...]
    design_effect: float

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "column": self.column,
            "categorical": self.categorical,
            "edges": list(self.edges),
            "levels": list(self.levels),
            "counts": list(self.counts),
            "design_effect": self.design_effect,
        }


def of_numbers(
    column: str, values: npt.NDArray[np.float64], time: npt.NDArray[np.int64]
) -> Profile:
    """Profiles numbers by deciles; NaN means missing. Both arrays have shape [rows]."""
    finite = values[np.isfinite(values)]
    inner = np.linspace(0, 1, DECILES + 1)[1:-1]
    edges = np.unique(np.quantile(finite, inner)) if len(finite) else np.empty(0)
    bins = len(edges) + 1
    place = np.searchsorted(edges, values, side="left")
    place[np.isnan(values)] = bins
    place[np.isinf(values)] = bins + 1
    counts = np.bincount(place, minlength=bins + 2)
    return Profile(
        column,
        False,
        tuple(float(edge) for edge in edges),
        (),
        tuple(int(count) for count in counts),
        design_effect(place, time),
    )


def of_texts(column: str, values: Sequence[str | None], time: npt.NDArray[np.int64]) -> Profile:
    """Profiles categories: the 50 most frequent levels, then other, unseen, missing, invalid."""
    frequent = Counter(value for value in values if value is not None)
    ordered = sorted(frequent, key=lambda level: (-frequent[level], level))[:MAXIMUM_LEVELS]
    code = {level: number for number, level in enumerate(ordered)}
    other = len(ordered)
    missing = other + 2
    place = np.array(
        [missing if value is None else code.get(value, other) for value in values], dtype=np.int64
    )
    counts = np.bincount(place, minlength=other + 4)
    return Profile(
        column,
        True,
        (),
        tuple(ordered),
        tuple(int(count) for count in counts),
        design_effect(place, time),
    )


def design_effect(place: npt.NDArray[np.int64], time: npt.NDArray[np.int64]) -> float:
    """Estimates how much more the profile varies between days than independent rows would.

    The mean over days of PSI(day, other days), over what independence predicts for it:
    (bins - 1)(1/n + 1/m). At least 1.
    """
    days, day = np.unique(time // DAY, return_inverse=True)
    if len(days) < MINIMUM_DAYS:
        return 1.0
    bins = int(place.max()) + 1
    table = np.zeros((len(days), bins))
    np.add.at(table, (day, place), 1)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    total = table.sum(axis=0)
    rest = total - table
    n, m = table.sum(axis=1), rest.sum(axis=1)
    p = (table + 0.5) / (n + 0.5 * table.shape[1])[:, None]
    q = (rest + 0.5) / (m + 0.5 * table.shape[1])[:, None]
    index = ((p - q) * np.log(p / q)).sum(axis=1)
    expected = (table.shape[1] - 1) * (1 / n + 1 / m)
    return float(max(1.0, np.mean(index / expected)))
