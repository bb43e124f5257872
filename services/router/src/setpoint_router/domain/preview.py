"""Who would move: one revision of a route beside the next."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_router.domain import assignment
from setpoint_router.domain.layer import Layer
from setpoint_router.domain.route import AssignmentReason, Route

Shares = dict[tuple[int, int], float]
"""Share of all keys in basis points, by version before and after."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Keys that would get another version."""

    before: int
    after: int
    basis_points: float
    """Their share of all keys, overrides aside."""


@dataclass(frozen=True, slots=True)
class KeyMovement:
    """One of them; each side is version, slot and reason."""

    key: str
    before: tuple[int, int, AssignmentReason]
    after: tuple[int, int, AssignmentReason]


def movements(before: Route, after: Route) -> list[Movement]:
    """Returns what share of all keys would move from which version to which, largest first."""
    found = _shares(before, after)
    moving = [
        Movement(*versions, share)
        for versions, share in sorted(found.items())
        if versions[0] != versions[1] and share > 0
    ]
    return sorted(moving, key=lambda each: -each.basis_points)


def moved_keys(before: Route, after: Route, keys: Iterable[str]) -> list[KeyMovement]:
    """Returns those of some keys that would get another version, and overridden keys that would."""
    asked = dict.fromkeys(keys)
    asked.update(dict.fromkeys((*before.content.overrides, *after.content.overrides)))
    pairs = ((key, before.assign(key), after.assign(key)) for key in asked)
    return [KeyMovement(*each) for each in pairs if each[1][0] != each[2][0]]


def _shares(before: Route, after: Route) -> Shares:
    """Divides all keys by where they are in the layers; layers and tables are independent."""
    found: defaultdict[tuple[int, int], float] = defaultdict(float)
    for (was_in, is_in), share in _parts(before.content.layer, after.content.layer).items():
        old, new = _versions(before, is_in=was_in), _versions(after, is_in=is_in)
        pairs, counts = np.unique(np.stack([old, new]), axis=1, return_counts=True)
        for pair, count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            found[pair[0], pair[1]] += share * count
    return dict(found)


def _parts(before: Layer | None, after: Layer | None) -> dict[tuple[bool, bool], float]:
    """Returns the share of keys by whether they took part and whether they will."""
    if before is None or after is None or before.name == after.name:
        was_in, is_in = _mask(before), _mask(after)
        return {
            (was, will): float(np.mean((was_in == was) & (is_in == will)))
            for was in (True, False)
            for will in (True, False)
        }
    return {
        (was, will): (before.share if was else 1 - before.share)
        * (after.share if will else 1 - after.share)
        for was in (True, False)
        for will in (True, False)
    }


def _mask(layer: Layer | None) -> npt.NDArray[np.bool_]:
    slots = np.arange(assignment.SLOTS)
    if layer is None:
        return slots >= 0
    return (slots >= layer.first_slot) & (slots < layer.end_slot)


def _versions(route: Route, *, is_in: bool) -> assignment.SlotTable:
    """Returns the version of each slot for keys that take part, or do not."""
    if is_in or route.content.layer is None:
        return route.slots
    return np.full(assignment.SLOTS, route.content.layer.baseline_version, np.int32)
