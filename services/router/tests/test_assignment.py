"""Slots and tables of slots."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from setpoint_columns import Column, DataType
from setpoint_router.domain import assignment, layer, route
from setpoint_runtime import errors

VECTORS = json.loads(
    (Path(__file__).parents[3] / "proto" / "vectors" / "assignment.json").read_text()
)

CHI_SQUARE_LIMIT = 10_000 + 5 * np.sqrt(2 * 10_000)
"""Five standard deviations above the mean of 9,999 degrees of freedom."""


def weights_of(cuts: list[int]) -> dict[int, int]:
    """Returns shares of versions 1, 2, … that lie between cuts of the 10,000 slots."""
    edges = [0, *sorted(cuts), assignment.SLOTS]
    return {at + 1: high - low for at, (low, high) in enumerate(itertools.pairwise(edges))}


def counts(table: assignment.SlotTable) -> dict[int, int]:
    """Returns how many slots each version has."""
    versions, found = np.unique(table, return_counts=True)
    return dict(zip(versions.tolist(), found.tolist(), strict=True))


WEIGHTS = strategies.builds(
    lambda cuts, names: dict(zip(names, weights_of(cuts).values(), strict=False)),
    strategies.lists(strategies.integers(0, assignment.SLOTS), max_size=6),
    strategies.permutations(range(1, 8)),
)
"""Shares of up to seven versions, others each time."""


def slots_of_texts(salt: str, keys: list[str]) -> list[int]:
    """Returns the slots of keys that lie in a column."""
    column = Column.from_list("key", keys, DataType.STRING)
    found: list[int] = assignment.slots_of_texts(salt, *column.text_bounds()).tolist()
    return found


@pytest.mark.parametrize("vector", VECTORS["slots"], ids=range(len(VECTORS["slots"])))
def test_slot_of_published(vector: dict[str, str | int]) -> None:
    """Shows that keys keep their published slots, in any script."""
    salt, key, slot = str(vector["salt"]), str(vector["key"]), vector["slot"]
    assert key.encode().hex() == vector["key_utf8"]
    assert assignment.slot_of(salt, key) == slot
    assert int(str(vector["hash"]), 16) % assignment.SLOTS == slot
    assert assignment.slots_of(salt, [key]).tolist() == [slot]
    assert set(slots_of_texts(salt, [key] * 1_000)) == {slot}


@pytest.mark.parametrize("evolution", VECTORS["tables"], ids=range(len(VECTORS["tables"])))
def test_tables_of_published(evolution: dict[str, Any]) -> None:
    """Shows that a route's tables go through the published revisions, slot by slot."""
    revision: route.Route | None = None
    for wanted in evolution["revisions"]:
        weights = {int(version): share for version, share in wanted["weights"].items()}
        content = route.Content(name="r", model="m", weights=weights, salt=evolution["salt"])
        if revision is None:
            revision = route.first_revision(content, (), 1)
        else:
            revision = route.next_revision(revision, content, (), 1)
        assert (revision.revision, revision.moved_slots) == (wanted["revision"], wanted["moved"])
        held = {int(slot): version for slot, version in wanted["slots"].items()}
        assert {slot: int(revision.slots[slot]) for slot in held} == held
        table = revision.slots.astype("<i4").tobytes()
        assert hashlib.sha256(table).hexdigest() == wanted["digest"]


@pytest.mark.parametrize("vector", VECTORS["layers"], ids=range(len(VECTORS["layers"])))
def test_layer_slot_of_published(vector: dict[str, Any]) -> None:
    """Shows that keys keep their published slots in layers."""
    assert layer.Layer(vector["layer"], 0, 1, 1).slot_of(vector["key"]) == vector["slot"]


def test_choices_of_published() -> None:
    """Shows that overrides, layer and slots choose together what was published."""
    told = VECTORS["route"]
    weights = [{int(key): share for key, share in each.items()} for each in told["revisions"]]
    contents = [
        route.Content(
            name="r",
            model="m",
            weights=each,
            salt=told["salt"],
            overrides=told["overrides"],
            layer=layer.Layer(**told["layer"]),
        )
        for each in weights
    ]
    first = route.first_revision(contents[0], (), 1)
    second = route.next_revision(first, contents[1], (), 1)
    for wanted in told["choices"]:
        version, slot, reason = second.assign(wanted["key"])
        assert (version, slot, reason.name) == (
            wanted["version"],
            wanted["slot"],
            wanted["reason"],
        )


@hypothesis.given(strategies.text(), strategies.lists(strategies.text(), max_size=20))
def test_slots_of_many(salt: str, keys: list[str]) -> None:
    """Shows that many keys get the slots that each gets alone."""
    expected = [assignment.slot_of(salt, key) for key in keys]
    assert assignment.slots_of(salt, keys).tolist() == expected
    assert slots_of_texts(salt, keys) == expected


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(strategies.lists(WEIGHTS, min_size=1, max_size=4))
def test_rebalance_moves_minimum(steps: list[dict[int, int]]) -> None:
    """Shows that shares are exact and no slot moves without need, over any history of weights."""
    table = assignment.empty_table()
    for revision, weights in enumerate(steps):
        before = counts(table)
        after, moved = assignment.rebalance(table, weights, f"s{revision}")
        held = counts(after)
        assert held == {version: share for version, share in weights.items() if share}
        surplus = sum(max(0, count - weights.get(version, 0)) for version, count in before.items())
        assert moved == surplus == int((after != table).sum())
        again, _ = assignment.rebalance(table, dict(reversed(weights.items())), f"s{revision}")
        assert np.array_equal(after, again)
        table = after


def test_rebalance_same_weights() -> None:
    """Shows that asking for the shares that are there moves nothing."""
    table, _ = assignment.rebalance(assignment.empty_table(), {1: 9_000, 2: 1_000}, "a")
    again, moved = assignment.rebalance(table, {1: 9_000, 2: 1_000}, "b")
    assert moved == 0
    assert np.array_equal(table, again)


def test_rebalance_draws_by_seed() -> None:
    """Shows that two canaries after each other do not fall on the same slots."""
    table, _ = assignment.rebalance(assignment.empty_table(), {1: 10_000}, "s\x001")
    first, _ = assignment.rebalance(table, {1: 9_000, 2: 1_000}, "s\x002")
    second, _ = assignment.rebalance(table, {1: 9_000, 3: 1_000}, "s\x004")
    shared = int(((first == 2) & (second == 3)).sum())
    # By chance a tenth of a tenth.
    assert 50 < shared < 160


@pytest.mark.parametrize(
    "weights",
    [{}, {1: 9_999}, {1: 10_001}, {1: -1, 2: 10_001}, {0: 10_000}, {2**31: 10_000}],
)
def test_check_weights_refuses(weights: dict[int, int]) -> None:
    """Shows that shares which do not divide the slots are refused by name."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        assignment.check_weights(weights)
    assert caught.value.reason is errors.Reason.INVALID_WEIGHTS
    assert "weights" in caught.value.violations[0].field


@pytest.mark.parametrize("salt", ["flights", "überraschung"])
def test_slots_spread_evenly(salt: str) -> None:
    """Shows by chi-square that keys as they really look fall evenly on the slots."""
    tails = [
        f"N{number}{letters}" for number in range(100, 1_000) for letters in ("UA", "AA", "JB")
    ]
    users = [f"user-{number}@example.org" for number in range(97_300)]
    slots = assignment.slots_of(salt, tails + users)
    counts = np.bincount(slots, minlength=assignment.SLOTS)
    expected = len(slots) / assignment.SLOTS
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_LIMIT


def test_salts_are_independent() -> None:
    """Shows that the slots of a key under two salts have nothing to do with each other."""
    keys = [f"user-{number}" for number in range(40_000)]
    first, second = assignment.slots_of("one", keys), assignment.slots_of("two", keys)
    table = np.histogram2d(first, second, bins=10, range=[[0, 10_000], [0, 10_000]])[0]
    # 81 degrees of freedom.
    assert ((table - 400) ** 2 / 400).sum() < 81 + 5 * np.sqrt(2 * 81) + 20
