"""Story 3: monitoring is killed under load; predictions go on and their records arrive later."""

import pytest
from tests.support import load
from tests.support import world as worlds

from setpoint_client import errors

pytestmark = pytest.mark.timeout(300)


async def test_predictions_go_on_without_monitoring(world: worlds.World) -> None:
    """Proves that no prediction fails while monitoring is dead, and that no record is lost."""
    async with load.Load(world) as running:
        await running.more(100)
        async with world.killed("monitoring"):
            await running.more(300)
            with pytest.raises(errors.UnavailableError):
                await world.client.get_prediction(running.answered[0], timeout=worlds.CALL_SECONDS)
        await running.more(100)

    assert not running.failures
    records = await world.wait_for_records(running.answered)
    assert all(records[each] == 1 for each in running.answered)
