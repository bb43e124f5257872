"""Story 11: what the router asks is killed under load: clear errors, and then answers again.

Failed predictions are predictions: they are recorded too.
"""

import pytest
from tests.support import load, parcels, waiting
from tests.support import world as worlds

pytestmark = pytest.mark.timeout(300)

REASONS = {"inference": "INFERENCE_UNAVAILABLE", "feature": "FEATURES_UNAVAILABLE"}


@pytest.mark.parametrize("service", REASONS)
async def test_kill_is_told_and_forgotten(world: worlds.World, service: str) -> None:
    """Proves typed failures while the service is dead, recovery without help, and a record of each."""
    # Records arrive in order: when this one is there, all before it are.
    last = await world.predict(parcels.Day(world.days).parcels[0])
    known = len(await world.wait_for_records([last.prediction_id]))
    async with load.Load(world) as running:
        await running.more(100)

        async def failures() -> int:
            return running.failures.total()

        async with world.killed(service):
            await waiting.until(failures, lambda found: found >= load.CALLERS)
        await running.more(100)

    assert running.failures.keys() == {f"UnavailableError {REASONS[service]}"}
    await world.wait_for_records(running.answered)
    asked = len(running.answered) + running.failures.total()
    records = await waiting.until(
        world.recorded, lambda found: sum(found.values()) >= known + asked
    )
    assert set(records.values()) == {1}
    assert len(records) == known + asked
