from collections.abc import AsyncIterator, Callable

import pytest

from setpoint_batch.store.sql_store import SQLStore
from setpoint_db import engine


@pytest.fixture
async def store(migrated_url: Callable[[str], str]) -> AsyncIterator[SQLStore]:
    """A store on a database of this test alone."""
    database = engine.create_engine(migrated_url("batch"), application_name="test", schema="batch")
    yield SQLStore(database)
    await database.dispose()
