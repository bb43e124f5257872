"""Revisions of routes."""

from typing import Any

import numpy as np
import pytest

from setpoint_columns import DataType
from setpoint_router.convert import routes, stored
from setpoint_router.domain import layer, plan, route
from setpoint_runtime import errors

NOW = 1_700_000_000_000_000


def content(**changes: Any) -> route.Content:
    """Returns what somebody may want of a route."""
    fields: dict[str, Any] = {"name": "flights", "model": "delays", "weights": {1: 10_000}}
    return route.Content(**(fields | changes))


def served(*versions: int) -> tuple[route.ServedVersion, ...]:
    """Returns versions with one input each."""
    return tuple(
        route.ServedVersion(
            version=version,
            inputs=(route.Field("x", DataType.FLOAT32),),
            outputs=(route.Field("y", DataType.FLOAT64),),
        )
        for version in versions
    )


def test_first_revision_takes_name_as_salt() -> None:
    """Shows that a route without salt hashes by its name, and moves nobody."""
    first = route.first_revision(content(), served(1), NOW)
    assert first.content.salt == "flights"
    assert (first.revision, first.valid_from, first.moved_slots) == (1, NOW, 0)
    assert set(first.slots.tolist()) == {1}


def test_next_revision_moves_surplus() -> None:
    """Shows that ten percent for a new version move ten percent of the slots."""
    first = route.first_revision(content(), served(1), NOW)
    second = route.next_revision(
        first, content(weights={1: 9_000, 2: 1_000}), served(1, 2), NOW + 1
    )
    assert second.moved_slots == 1_000
    assert int((second.slots != first.slots).sum()) == 1_000


def test_next_revision_keeps_given_time() -> None:
    """Shows that a replayed history keeps its times, and that they never go back."""
    first = route.first_revision(content(valid_from=100), served(1), NOW)
    second = route.next_revision(first, content(valid_from=200), served(1), NOW)
    assert (first.valid_from, second.valid_from) == (100, 200)
    with pytest.raises(errors.InvalidArgumentError, match=r"route\.valid_from"):
        route.next_revision(second, content(valid_from=199), served(1), NOW)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"model": "others"}, "route.model"), ({"salt": "other"}, "route.salt")],
)
def test_next_revision_refuses_break(changes: dict[str, str], field: str) -> None:
    """Shows that model and salt, on which all keys hang, never change."""
    first = route.first_revision(content(), served(1), NOW)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        route.next_revision(first, content(**changes), served(1), NOW)
    assert caught.value.violations[0].field == field


def test_assign_prefers_override() -> None:
    """Shows that an override wins over the slot, also in what the data plane uses."""
    first = route.first_revision(content(overrides={"vip": 2}), served(1, 2), NOW)
    version, slot, reason = first.assign("vip")
    assert (version, reason) == (2, route.AssignmentReason.OVERRIDE)
    serving = plan.serving_route(first)
    found, serving_slot, serving_reason = serving.assign("vip")
    assert (found.version.version, serving_slot, serving_reason) == (2, slot, reason)
    assert serving.assign("other")[0].version.version == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Über"}, "route.name"),
        ({"model": ""}, "route.model"),
        ({"overrides": {"k": 0}}, 'route.overrides["k"]'),
        ({"overrides": {str(at): 1 for at in range(10_001)}}, "route.overrides"),
        ({"fallback_version": -1}, "route.fallback_version"),
        ({"valid_from": -1}, "route.valid_from"),
    ],
)
def test_check_content_refuses(changes: dict[str, Any], field: str) -> None:
    """Shows that each broken rule is named by its field."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        route.check_content(content(**changes))
    assert caught.value.violations[0].field == field


def test_stored_round_trip() -> None:
    """Shows that a revision comes back from bytes, and from the file of all routes, as it was."""
    wanted = content(
        weights={1: 7_500, 2: 2_500},
        overrides={"ключ": 2},
        fallback_version=1,
        spool_full_policy=route.SpoolFullPolicy.ANSWER_UNRECORDED,
        feature_failure_policy=route.FeatureFailurePolicy.ANSWER_WITH_NULLS,
        actor="ada",
        reason="why not",
        layer=layer.Layer("prices", 5, 9_000, 1),
    )
    first = route.first_revision(wanted, served(1, 2), NOW)
    for found in (
        stored.route_from_bytes(stored.content_bytes(first), stored.slot_bytes(first)),
        *stored.routes_from_snapshot(stored.snapshot_bytes([first])),
    ):
        assert routes.route_to_proto(found) == routes.route_to_proto(first)
        assert found.content.layer == first.content.layer
        assert np.array_equal(found.slots, first.slots)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"format":1,"checksum":0,"routes":"[]"}'])
def test_routes_from_snapshot_refuses(data: bytes) -> None:
    """Shows that a broken file of routes is noticed."""
    with pytest.raises(ValueError, match=r".+"):
        stored.routes_from_snapshot(data)
