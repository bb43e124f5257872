"""Story 6: PostgreSQL is killed under load; predictions go on and their records arrive later."""

import pytest
from tests.support import load, parcels
from tests.support import world as worlds

from setpoint_client import errors, typed_error

pytestmark = pytest.mark.timeout(300)


async def test_predictions_go_on_without_postgres(world: worlds.World) -> None:
    """Proves that the data plane needs no database, and that its records are stored when it is back."""
    async with load.Load(world) as running:
        await running.more(100)
        async with world.killed("postgres"):
            await running.more(300)
            with pytest.raises(Exception, match="UNAVAILABLE") as refused:
                await world.retrain(parcels.POLICY, parcels.midnight(world.days))
            told = typed_error(refused.value)  # type: ignore[arg-type]  # an AioRpcError, or it fails
            assert told.reason is errors.Reason.DATABASE_UNAVAILABLE
        await running.more(100)

    assert not running.failures
    records = await world.wait_for_records(running.answered)
    assert all(records[each] == 1 for each in running.answered)
    # The control plane is back too.
    await world.put_policy(parcels.policy())
