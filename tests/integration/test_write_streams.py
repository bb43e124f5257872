"""Frames written over one call while the database goes away and comes back."""

import asyncio
import pathlib
from collections.abc import AsyncIterator

import polars as pl
import pytest

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint_client import AsyncClient
from setpoint_devstack import ports, postgres
from setpoint_feature import config, wiring
from setpoint_runtime import ids
from setpoint_testkit import serving

FRAMES, ROWS, DARK = 24, 500, 7
NOON = 1_357_041_600_000_000


@pytest.fixture
async def own_postgres(run_folder: pathlib.Path) -> AsyncIterator[postgres.PostgresServer]:
    """A PostgreSQL that this test may stop."""
    options = postgres.PostgresOptions(durable=False, with_password=False)
    server = postgres.PostgresServer(run_folder / "writes", ports.free_port(), options)
    await server.start()
    yield server
    await server.stop()


def frame(number: int) -> pl.DataFrame:
    """Rows of the same times as every other frame's, so that the last one written is the one that is read."""
    return pl.DataFrame(
        {
            "plane": range(ROWS),
            "event_time": [NOON] * ROWS,
            "created_time": [NOON] * ROWS,
            "age": [float(number)] * ROWS,
        }
    )


async def _register(client: AsyncClient) -> None:
    feature = client.stubs.feature
    plane = reference_pb2.FieldSpec(name="plane", dtype=column_pb2.DATA_TYPE_INT64)
    age = definition_pb2.FeatureField(name="age", dtype=column_pb2.DATA_TYPE_FLOAT64)
    await feature.RegisterEntity(
        feature_service_pb2.RegisterEntityRequest(
            request_id=ids.uuid7(), entity=definition_pb2.Entity(name="plane", keys=[plane])
        )
    )
    await feature.RegisterFeatureView(
        feature_service_pb2.RegisterFeatureViewRequest(
            request_id=ids.uuid7(),
            view=definition_pb2.FeatureView(name="ages", entity="plane", fields=[age]),
        )
    )
    read = definition_pb2.FeatureReference(view="ages", field="age")
    await feature.RegisterFeatureSet(
        feature_service_pb2.RegisterFeatureSetRequest(
            request_id=ids.uuid7(),
            feature_set=definition_pb2.FeatureSet(name="planes", features=[read]),
        )
    )


async def test_frames_are_written_once_and_in_order(
    own_postgres: postgres.PostgresServer, valkey_url: str
) -> None:
    """Proves that a stream goes on by itself, and leaves neither a gap nor a double behind."""
    settings = config.FeatureSettings(database_url=own_postgres.url(), valkey_url=valkey_url)
    async with (
        serving.serve(wiring.build, settings) as server,
        AsyncClient(feature_address=server.address) as client,
    ):
        await _register(client)

        found = []
        has_begun = asyncio.Event()

        async def frames() -> AsyncIterator[pl.DataFrame]:
            for number in range(FRAMES):
                if number == DARK:
                    await has_begun.wait()
                    await own_postgres.stop()
                if number == DARK + 2:
                    await own_postgres.start()
                yield frame(number)

        async for each in client.stream_features("ages", frames()):
            found.append(each)
            has_begun.set()
        stored = await client.get_online_features("planes", [{"plane": 3}], timeout=30)
        times = pl.DataFrame({"plane": [3], "event_time": [NOON]})
        past = await client.get_historical_features("planes", times)
        rows = 0
        async for page in client.stubs.feature.ReadFeatureView(
            feature_service_pb2.ReadFeatureViewRequest(view="ages")
        ):
            rows += page.rows.rows

    assert [each.rows_written for each in found] == [ROWS] * FRAMES
    assert len({each.batch_id for each in found}) == FRAMES
    assert stored.frame == [{"age": float(FRAMES - 1)}]
    assert past.frame["age"].to_list() == [float(FRAMES - 1)]
    # Of rows with one event time the winning ones are read.
    assert rows == ROWS
