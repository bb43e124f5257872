"""Story 2: the router is killed while predictions run, again and again.

Nothing that was answered may be missing afterwards, and nothing may be there twice.
"""

import pytest
from tests.support import load, parcels
from tests.support import world as worlds

from setpoint_client import PredictionStory

pytestmark = pytest.mark.timeout(300)

KILLS = 3
BETWEEN = 150
"""Predictions that are answered before each kill."""


async def test_answered_predictions_survive_kills_of_router(world: worlds.World) -> None:
    """Proves that after kill -9 every answered prediction id is in monitoring, exactly once."""
    async with load.Load(world) as running:
        for _ in range(KILLS):
            await running.more(BETWEEN)
            async with world.killed("router"):
                pass
        await running.more(BETWEEN)

    assert len(running.answered) >= (KILLS + 1) * BETWEEN
    assert len(set(running.answered)) == len(running.answered)
    assert running.failures, "callers noticed the kills"
    assert all(failure.startswith("UnavailableError") for failure in running.failures), (
        running.failures
    )
    records = await world.wait_for_records(running.answered)
    assert set(records.values()) == {1}
    for prediction_id in running.answered[:: len(running.answered) // 10]:
        story = await world.client.get_prediction(prediction_id, timeout=worlds.CALL_SECONDS)
        _check_complete(story)


def _check_complete(story: PredictionStory) -> None:
    assert story.status == 0
    assert story.inputs.keys() == {*parcels.FEATURES, *parcels.REQUEST_FIELDS}
    assert 0 <= story.outputs["probability"] <= 1
    assert story.assignment.route == parcels.ROUTE
