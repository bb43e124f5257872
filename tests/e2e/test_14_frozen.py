"""Story 14: services stop moving without dying, which no connection tells.

Whoever only decides is not missed. Without features an answer comes in time and says so, where the
route wants it that way.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support import load, parcels
from tests.support import world as worlds

from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_runtime import ids

pytestmark = pytest.mark.timeout(300)

DECIDING = ("validation", "monitoring", "registry", "retraining", "postgres")
LENIENT = "parcel_lenient"


@asynccontextmanager
async def frozen(world: worlds.World, name: str) -> AsyncIterator[None]:
    """Freezes a service or store; it moves again after the block."""
    world.stack.signal(name, signal.SIGSTOP)
    try:
        yield
    finally:
        world.stack.signal(name, signal.SIGCONT)


async def test_answers_go_on_without_whoever_decides(world: worlds.World) -> None:
    """Proves that nobody on the way to an answer waits for a frozen decider, and no record is lost."""
    async with load.Load(world) as running:
        for name in DECIDING:
            async with frozen(world, name):
                await running.more(50)
    assert not running.failures
    records = await world.wait_for_records(running.answered)
    assert {records[each] for each in running.answered} == {1}


async def test_frozen_model_is_waited_for(world: worlds.World) -> None:
    """Proves that a pause of inference which ends in time costs time alone."""
    async with load.Load(world) as running:
        await running.more(20)
        async with frozen(world, "inference"):
            await asyncio.sleep(0.5)
        await running.more(50)
    assert not running.failures


async def test_frozen_features_are_told(world: worlds.World) -> None:
    """Proves that a route may answer with nulls, in time and flagged, while features are frozen."""
    current = await world.route()
    served = max(worlds.weights(current))
    await world.services.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(
            request_id=ids.uuid7(),
            route=route_pb2.Route(
                name=LENIENT,
                model=parcels.MODEL,
                weights=[route_pb2.VersionWeight(version=served, basis_points=10_000)],
                feature_failure_policy=route_pb2.FEATURE_FAILURE_POLICY_ANSWER_WITH_NULLS,
            ),
        ),
        timeout=worlds.CALL_SECONDS,
    )
    some = parcels.Day(world.days).parcels[:4]
    async with frozen(world, "feature"):
        answers = await asyncio.gather(*(world.predict(each, LENIENT) for each in some))
    for answer in answers:
        assert "FEATURES_UNAVAILABLE" in {each.kind for each in answer.degradations}
    healed = await world.predict(some[0], LENIENT)
    assert "FEATURES_UNAVAILABLE" not in {each.kind for each in healed.degradations}
    await world.wait_for_records([answer.prediction_id for answer in answers])
