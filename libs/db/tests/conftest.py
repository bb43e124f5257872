import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines

SAMPLE = pathlib.Path(__file__).parent / "sample"


@pytest_asyncio.fixture
async def engine(database_url: str) -> AsyncIterator[sqlalchemy_asyncio.AsyncEngine]:
    """An engine on an empty database, its search path the public schema."""
    engine = engines.create_engine(database_url, application_name="setpoint-test", schema="public")
    yield engine
    await engine.dispose()


@pytest.fixture
def sample_package(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with two migrations, as a service has them."""
    monkeypatch.syspath_prepend(str(SAMPLE))
    return "setpoint_sample"
