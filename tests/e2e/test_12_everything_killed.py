"""Story 12: first all that decides is killed, then the router, and at last everything that runs.

The data plane goes on by what it was last told, also when it starts anew meanwhile. When all are
back, nothing is missing and nothing has changed.
"""

import pytest
from tests.support import load, parcels
from tests.support import world as worlds

from setpoint_client import errors

pytestmark = pytest.mark.timeout(300)

DECIDING = ("retraining", "monitoring", "validation", "registry", "postgres")
ANSWERING = ("router", "inference", "feature", "valkey")


async def test_answers_outlive_whoever_decides(world: worlds.World) -> None:
    """Proves that answers, their rules and their records survive the kill of each process."""
    before = await world.route()
    known = await world.recorded()
    try:
        async with load.Load(world) as running:
            await running.more(100)
            for name in DECIDING:
                await world.stack.kill(name)
            await running.more(200)
            assert not running.failures
            await world.stack.kill("router")
            await world.stack.restart("router")
            await running.more(200)
        await _check_alone(world, before.revision)
        for name in ANSWERING:
            await world.stack.kill(name)
    finally:
        await world.revive()

    records = await world.wait_for_records(running.answered)
    assert set(records.values()) == {1}
    assert known.keys() <= records.keys()
    assert await world.route() == before
    story = await world.client.get_prediction(running.answered[0], timeout=worlds.CALL_SECONDS)
    assert story.assignment.route_revision == before.revision
    # Whoever decides can decide again.
    await world.put_policy(parcels.policy())
    answer = await world.predict(parcels.Day(world.days).parcels[0])
    assert answer.assignment.route_revision == before.revision


async def _check_alone(world: worlds.World, revision: int) -> None:
    """Asks the router that was started while nobody could tell it anything."""
    [parcel, *_] = parcels.Day(world.days).parcels
    answer = await world.predict(parcel)
    assert answer.assignment.route_revision == revision
    assert "CHECKS_SKIPPED" not in {each.kind for each in answer.degradations}
    with pytest.raises(errors.InvalidArgumentError) as refused:
        await world.client.predict(
            parcels.ROUTE,
            entities=parcel.entities,
            inputs={**parcel.inputs, "distance": -1.0},
            timeout=worlds.CALL_SECONDS,
        )
    assert refused.value.reason is errors.Reason.RULE_VIOLATED
