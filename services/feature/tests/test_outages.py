import pathlib
from collections.abc import AsyncIterator, Callable

import pytest

from setpoint_columns import Columns, DataType
from setpoint_devstack import ports
from setpoint_devstack import postgres as postgres_server
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Start
from setpoint_runtime import errors

PLANES = Columns.from_dict({"plane": (DataType.INT64, [1, 2])})
ROWS = Columns.from_dict(
    {
        "plane": (DataType.INT64, [1]),
        "event_time": (DataType.TIMESTAMP, [NOW]),
        "age": (DataType.INT64, [7]),
    }
)


@pytest.fixture
async def own_postgres(
    run_folder: pathlib.Path,
) -> AsyncIterator[postgres_server.PostgresServer]:
    """A PostgreSQL that this test may stop."""
    options = postgres_server.PostgresOptions(durable=False, with_password=False)
    server = postgres_server.PostgresServer(run_folder / "own", ports.free_port(), options)
    await server.start()
    yield server
    await server.stop()


async def test_database_down_then_back(
    start: Start, own_postgres: postgres_server.PostgresServer
) -> None:
    """Without the database online reads go on, everything else fails clearly, and all recovers."""
    async with start(database_url=own_postgres.url()) as running:
        client = running.client
        await client.entity("plane", plane=DataType.INT64)
        await client.view("ages", "plane", [("age", DataType.INT64)])
        await client.feature_set("planes", [testing.reference("ages", "age")])
        await client.write("ages", ROWS)
        await own_postgres.stop()

        served = await client.online("planes", PLANES)
        failed = [
            await testing.error_of(client.write("ages", ROWS)),
            await testing.error_of(client.entity("other", id=DataType.INT64)),
            await testing.error_of(client.online("unknown", PLANES)),
        ]
        await own_postgres.start()

        assert served.values["age"] == [7, None]
        for error in failed:
            assert isinstance(error, errors.UnavailableError)
            assert error.reason is errors.Reason.DATABASE_UNAVAILABLE
        assert (await client.write("ages", ROWS)).online_applied


async def test_metrics_tell_of_writes_and_lag(start: Start, free_port: Callable[[], int]) -> None:
    """What is written and what lags is counted for those who watch."""
    async with start(valkey_url=f"redis://127.0.0.1:{free_port()}/0") as running:
        client = running.client
        await client.entity("plane", plane=DataType.INT64)
        await client.view("ages", "plane", [("age", DataType.INT64)])
        await client.write("ages", ROWS)

        found = {
            sample.name: sample.value
            for metric in running.server.metrics_registry.collect()
            for sample in metric.samples
            if sample.name.startswith("setpoint_feature")
        }

    assert found["setpoint_feature_rows_written_total"] == 1
    assert found["setpoint_feature_online_failed_batches_total"] == 1
