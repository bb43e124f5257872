"""Who would move."""

import itertools
from collections import Counter
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from setpoint_router.domain import assignment, preview, route
from setpoint_router.domain.layer import Layer

KEYS = [f"user-{number}" for number in range(10_000)]
PARTS = [
    None,
    Layer("prices", 0, 2_000, 1),
    Layer("prices", 1_000, 4_000, 3),
    Layer("sizes", 500, 9_500, 2),
]
FIRST: dict[str, Any] = {"weights": {1: 9_000, 2: 1_000}}


def revisions(first: dict[str, Any], second: dict[str, Any]) -> tuple[route.Route, route.Route]:
    """Returns two revisions of a route."""
    fields: dict[str, Any] = {"name": "flights", "model": "delays"}
    before = route.first_revision(route.Content(**fields, **first), (), 1)
    return before, route.next_revision(before, route.Content(**fields, **second), (), 1)


def moved(before: route.Route, after: route.Route) -> dict[tuple[int, int], float]:
    """Returns the shares that move, by version before and after."""
    found = preview.movements(before, after)
    return {(each.before, each.after): each.basis_points for each in found}


CUTS = strategies.lists(strategies.integers(0, assignment.SLOTS), max_size=4)
WEIGHTS = strategies.builds(
    lambda cuts, versions: dict(
        zip(versions, np.diff([0, *sorted(cuts), assignment.SLOTS]).tolist(), strict=False)
    ),
    CUTS,
    strategies.permutations(range(1, 6)),
)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(WEIGHTS, WEIGHTS)
def test_movements_are_the_minimum(first: dict[int, int], second: dict[int, int]) -> None:
    """Shows that what moves is what must: from those who lose to those who win, all told."""
    before, after = revisions({"weights": first}, {"weights": second})
    found = moved(before, after)
    assert sum(found.values()) == after.moved_slots
    for version in range(1, 6):
        change = second.get(version, 0) - first.get(version, 0)
        leaves = sum(share for (old, _), share in found.items() if old == version)
        comes = sum(share for (_, new), share in found.items() if new == version)
        assert (leaves, comes) == (max(0, -change), max(0, change))


def test_movements_largest_first() -> None:
    """Shows the order, and that no change moves nobody."""
    before, after = revisions(FIRST, {"weights": {1: 2_000, 2: 3_000, 3: 5_000}})
    found = preview.movements(before, after)
    assert [(each.before, each.after) for each in found] == [(1, 3), (1, 2)]
    assert [each.basis_points for each in found] == [5_000, 2_000]
    assert moved(*revisions(FIRST, FIRST)) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.permutations(PARTS, 2)),
)
def test_movements_between_layers(first: Layer | None, second: Layer | None) -> None:
    """Shows that shares told ahead are those of real keys, whatever becomes of the layer."""
    before, after = revisions(
        FIRST | {"layer": first}, {"weights": {1: 5_000, 3: 5_000}, "layer": second}
    )
    pairs = Counter((before.assign(key)[0], after.assign(key)[0]) for key in KEYS)
    told = moved(before, after)
    assert {pair for pair in pairs if pair[0] != pair[1]} <= told.keys()
    for pair, share in told.items():
        # Five standard deviations of a count.
        assert pairs[pair] == pytest.approx(share, abs=5 * np.sqrt(share) + 1)


def test_moved_keys() -> None:
    """Shows that the keys that move are named with both choices, in order, and overrides too."""
    before, after = revisions(
        FIRST | {"overrides": {"gone": 2, "kept": 2}},
        {"weights": {1: 5_000, 2: 5_000}, "overrides": {"kept": 2, "new": 9}},
    )
    asked = [*KEYS[:300], KEYS[0]]
    found = preview.moved_keys(before, after, asked)
    for each in found:
        assert (each.before, each.after) == (before.assign(each.key), after.assign(each.key))
    expected = [key for key in KEYS[:300] if before.assign(key)[0] != after.assign(key)[0]]
    assert 80 < len(expected) < 160
    keys = [each.key for each in found]
    assert keys[: len(expected)] == expected
    assert "new" in keys
    assert "kept" not in keys
