from collections.abc import AsyncIterator, Callable

import pytest

from setpoint_db import engine
from setpoint_retraining.store.sql_store import SQLStore


@pytest.fixture
async def store(migrated_url: Callable[[str], str]) -> AsyncIterator[SQLStore]:
    """A store on a database of this test alone."""
    database = engine.create_engine(
        migrated_url("retraining"), application_name="test", schema="retraining"
    )
    yield SQLStore(database)
    await database.dispose()
