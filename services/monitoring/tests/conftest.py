from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from setpoint_db import engine
from setpoint_monitoring.store.alert_store import AlertStore
from setpoint_monitoring.store.prediction_store import PredictionStore


@pytest.fixture
async def database(migrated_url: Callable[[str], str]) -> AsyncIterator[AsyncEngine]:
    """An engine on a database of this test alone."""
    opened = engine.create_engine(
        migrated_url("monitoring"), application_name="test", schema="monitoring"
    )
    yield opened
    await opened.dispose()


@pytest.fixture
def store(database: AsyncEngine) -> PredictionStore:
    return PredictionStore(database, database)


@pytest.fixture
def alerts(database: AsyncEngine) -> AlertStore:
    return AlertStore(database)
