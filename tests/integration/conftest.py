"""Services in this process: one filled with the first days of the demo's real history, and a house of
those that answer predictions.
"""

from collections.abc import AsyncIterator

import polars as pl
import pytest
import pytest_asyncio
import redis
from tests.support import departures, house
from tests.support.departures import Past

from setpoint.feature.v1 import feature_service_pb2
from setpoint_client import AsyncClient
from setpoint_db import migrate
from setpoint_demo import definitions
from setpoint_devstack import valkey as valkey_server
from setpoint_feature import config, wiring
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool
from setpoint_testkit import serving

DAYS = 8


@pytest_asyncio.fixture(scope="package")
async def past(
    databases: database_pool.Databases,
    valkey: valkey_server.ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Past]:
    """A feature service that knows the first days of 2013, dep_delay among its features."""

    async def prepare(url: str) -> None:
        await migrate.upgrade(url, schema="feature", package="setpoint_feature")

    with redis.Redis.from_url(valkey.url()) as online:
        online.flushall()
    name = databases.create(databases.template("feature", prepare))
    settings = config.FeatureSettings(
        database_url=databases.url(name),
        valkey_url=valkey.url(),
        segment_url=str(tmp_path_factory.mktemp("segments")),
    )
    async with (
        serving.serve(wiring.build, settings) as server,
        AsyncClient(feature_address=server.address) as client,
    ):
        await _register(client)
        frames = departures.history(DAYS)
        for view, frame in frames.items():
            await client.write_features(view, frame)
        yield Past(client, frames, server.address)
    databases.drop(name)


async def _register(client: AsyncClient) -> None:
    feature = client.stubs.feature
    for entity in definitions.ENTITIES:
        await feature.RegisterEntity(
            feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity)
        )
    for view in definitions.VIEWS:
        await feature.RegisterFeatureView(
            feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view)
        )
    leaky = definitions.feature_set(departures.LEAK)
    await feature.RegisterFeatureSet(
        feature_service_pb2.RegisterFeatureSetRequest(request_id=ids.uuid7(), feature_set=leaky)
    )


@pytest.fixture(scope="package")
def questions(past: Past) -> pl.DataFrame:
    """A sample of the scheduled flights, in the order of their questions."""
    return past.frames["scheduled_flight"].sample(600, seed=13).sort("event_time", "flight_id")


@pytest_asyncio.fixture(scope="package")
async def home(
    databases: database_pool.Databases,
    valkey: valkey_server.ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[house.House]:
    """Everything between a question about a parcel and its answer, online and in batches."""
    name = databases.create()
    # Beside the feature service of `past`, which has the server's first database.
    online = f"{valkey.url().rsplit('/', 1)[0]}/1"
    with redis.Redis.from_url(online) as store:
        store.flushdb()
    folder = tmp_path_factory.mktemp("house")
    async with house.opened(folder, databases.url(name), online) as opened:
        yield opened
    databases.drop(name)
