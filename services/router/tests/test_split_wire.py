"""Layers and previews over the wire."""

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_rpc import channel
from setpoint_runtime import errors

GIVEN = {
    "share": value_pb2.Value(double_value=0.5),
    "delay": value_pb2.Value(double_value=2.0),
    "hour": value_pb2.Value(int_value=8),
    "origin": value_pb2.Value(string_value="JFK"),
}
KEYS = [f"Zoë-{number}" for number in range(600)]


def part(first: int, end: int, baseline: int = 1, name: str = "prices") -> route_pb2.Layer:
    """Returns a part of a layer."""
    return route_pb2.Layer(name=name, first_slot=first, end_slot=end, baseline_version=baseline)


def content(weights: dict[int, int], **fields: Any) -> route_pb2.Route:
    """Returns what a route shall be."""
    listed = [
        route_pb2.VersionWeight(version=version, basis_points=share)
        for version, share in weights.items()
    ]
    return route_pb2.Route(**{"name": "flights", "model": "delays", "weights": listed, **fields})


async def update(router: Any, wanted: route_pb2.Route) -> route_pb2.Route:
    """Makes a revision."""
    request = router_service_pb2.UpdateRouteRequest(request_id=str(uuid.uuid4()), route=wanted)
    made: route_pb2.Route = (await router.stub.UpdateRoute(request)).route
    return made


async def preview(router: Any, wanted: route_pb2.Route, keys: list[str] | None = None) -> Any:
    """Asks who would move."""
    return await router.stub.PreviewSplit(
        router_service_pb2.PreviewSplitRequest(route=wanted, assignment_keys=keys or [])
    )


async def explain(router: Any, key: str) -> Any:
    """Asks what a key gets."""
    return await router.stub.ExplainAssignment(
        router_service_pb2.ExplainAssignmentRequest(route="flights", assignment_key=key)
    )


async def refusal(call: Coroutine[Any, Any, Any] | Any) -> errors.SetpointError:
    """Returns the typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return channel.from_rpc_error(caught.value)


async def assigned(router: Any) -> list[tuple[int, int, int]]:
    """Returns version, slot and reason of each key, as a batch answers them."""
    count = len(KEYS)
    rows = Columns.from_dict(
        {
            "key": (DataType.STRING, KEYS),
            "share": (DataType.FLOAT64, [0.5] * count),
            "delay": (DataType.FLOAT64, [2.0] * count),
            "hour": (DataType.INT64, [8] * count),
            "origin": (DataType.STRING, ["JFK"] * count),
        }
    )
    answer = await router.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(
            route="flights", rows=columns_proto.to_proto(rows), assignment_key_column="key"
        ),
        timeout=30,
    )
    results = columns_proto.from_proto(answer.results)
    named = [results[name].to_list() for name in ("version", "slot", "reason")]
    return list(zip(*named, strict=True))


async def test_layer_divides_keys(router: Any) -> None:
    """Shows that a batch, a prediction and an explanation say the same of a key, in and outside."""
    await update(
        router, content({1: 5_000, 2: 5_000}, layer=part(0, 5_000), overrides={KEYS[0]: 2})
    )
    batch = await assigned(router)
    reasons = [reason for _, _, reason in batch]
    assert reasons[0] == route_pb2.ASSIGNMENT_REASON_OVERRIDE
    assert 240 < reasons.count(route_pb2.ASSIGNMENT_REASON_SLOT) < 360
    outside = {
        version for version, _, reason in batch if reason == route_pb2.ASSIGNMENT_REASON_LAYER
    }
    assert outside == {1}
    for key, found in list(zip(KEYS, batch, strict=True))[1:20]:
        told = await explain(router, key)
        one = told.assignment
        assert (one.model_version.version, one.slot, one.reason) == found
        assert (told.layer_slot < 5_000) == (one.reason == route_pb2.ASSIGNMENT_REASON_SLOT)
        answer = await router.predict(inputs=GIVEN, assignment_key=key)
        assert answer.assignment == one


async def test_explain_past_layer(router: Any) -> None:
    """Shows that the past is told by the layer and the overrides of then, and in words."""
    await router.create(
        "history", valid_from=1_000, layer=part(0, 1, baseline=2), overrides={"vip": 9}
    )
    await update(router, content({1: 10_000}, name="history", valid_from=2_000))

    async def at(time: int, key: str = "key") -> Any:
        return await router.stub.ExplainAssignment(
            router_service_pb2.ExplainAssignmentRequest(
                route="history", assignment_key=key, time=time
            )
        )

    before, now = await at(1_999), await at(0)
    assert (now.assignment.model_version.version, now.HasField("layer_slot")) == (1, False)
    assert before.assignment.model_version.version == 2
    assert before.assignment.reason == route_pb2.ASSIGNMENT_REASON_LAYER
    assert before.layer_slot > 0
    vip = (await at(1_999, "vip")).assignment
    assert (vip.model_version.version, vip.reason) == (9, route_pb2.ASSIGNMENT_REASON_OVERRIDE)
    assert (await at(2_000, "vip")).assignment.model_version.version == 1
    assert "slots 0 to 0 of layer prices, outside of which version 2 serves" in before.explanation


async def test_layer_refuses_overlap(router: Any) -> None:
    """Shows that slots of a layer belong to one route, until that gives them up."""
    await update(router, content({1: 10_000}, layer=part(0, 5_000)))
    error = await refusal(router.create("trains", layer=part(4_999, 6_000)))
    assert (error.reason, error.metadata["route"]) == (errors.Reason.IN_USE, "flights")
    await router.create("trains", layer=part(5_000, 6_000))
    error = await refusal(update(router, content({1: 10_000}, layer=part(0, 5_001))))
    assert error.metadata["route"] == "trains"
    await router.create("ships", layer=part(0, 10_000, name="sizes"))
    await update(router, content({1: 10_000}))
    await update(router, content({1: 10_000}, name="trains", layer=part(0, 6_000)))


async def test_layer_at_once(router: Any) -> None:
    """Shows that of routes that want the same slots at the same moment one gets them."""
    results = await asyncio.gather(
        *(router.create(f"route-{number}", layer=part(0, 10)) for number in range(4)),
        return_exceptions=True,
    )
    refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refused) == 3
    assert {channel.from_rpc_error(each).reason for each in refused} == {errors.Reason.IN_USE}


@pytest.mark.parametrize("layer", [None, part(2_000, 9_000)], ids=["all", "layer"])
async def test_preview_is_what_update_does(router: Any, layer: route_pb2.Layer | None) -> None:
    """Shows that those who were told to move move, and nobody else, and that asking changes nothing."""
    await update(router, content({1: 9_000, 2: 1_000}, overrides={"vip": 2}))
    before = await assigned(router)
    wanted = content({1: 4_000, 2: 5_000, 9: 1_000}, layer=layer, overrides={"vip": 1})
    told = await preview(router, wanted, KEYS)
    assert told.base_revision == 2
    assert await assigned(router) == before
    made = await update(router, wanted)
    assert (made.revision, made.moved_slots) == (3, told.moved_slots)
    after = await assigned(router)
    moved = {
        key: (a[0], b[0]) for key, a, b in zip(KEYS, before, after, strict=True) if a[0] != b[0]
    }
    named = {
        each.assignment_key: (each.before.model_version.version, each.after.model_version.version)
        for each in told.moved_keys
    }
    assert named.pop("vip") == (2, 1)
    assert named == moved
    for each in told.moved_keys[:10]:
        assert (await explain(router, each.assignment_key)).assignment == each.after
    if layer is None:
        shares = {
            (each.from_version, each.to_version): each.basis_points for each in told.movements
        }
        assert shares == {(1, 2): 4_000, (1, 9): 1_000}


async def test_preview_refuses(router: Any) -> None:
    """Shows that a preview refuses what an update would refuse by itself, and too many keys."""
    cases = [
        (content({1: 9_999}), [], errors.Reason.INVALID_WEIGHTS),
        (content({1: 10_000}, salt="other"), [], errors.Reason.INVALID_FIELD),
        (content({1: 10_000}, name="trains"), [], errors.Reason.ROUTE_NOT_FOUND),
        (content({1: 10_000}), ["key"] * 10_001, errors.Reason.TOO_LARGE),
    ]
    for wanted, keys, reason in cases:
        error = await refusal(preview(router, wanted, keys))
        assert error.reason is reason
