import pathlib
from collections.abc import AsyncIterator, Callable

import pytest

from setpoint.common.v1 import column_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
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


async def test_ten_million_rows_in_one_call(start: Start) -> None:
    """A number of rows costs nothing to claim; it is refused by name before anything is done for it."""
    many = 10_000_000
    async with start() as running:
        client = running.client
        await client.entity("all")
        await client.view("totals", "all", [("total", DataType.FLOAT64)])
        await client.feature_set("totals", [testing.reference("totals", "total")])
        online = pb.GetOnlineFeaturesRequest()
        online.feature_set.name = "totals"
        online.entities.rows = many
        write = testing.write_request("totals", Columns(many))
        spine = pb.GetHistoricalFeaturesRequest(feature_set=online.feature_set)
        spine.spine.rows = many
        spine.spine.columns.add(name="event_time", dtype=column_pb2.DATA_TYPE_TIMESTAMP)
        found = [
            await testing.error_of(client.stub.GetOnlineFeatures(online, timeout=5)),
            await testing.error_of(client.stub.WriteFeatures(write, timeout=5)),
            await testing.error_of(client.stub.GetHistoricalFeatures(iter([spine])).read()),
        ]

    assert [(each.reason.value, each.violations[0].field) for each in found] == [
        ("TOO_LARGE", "entities.rows"),
        ("TOO_LARGE", "rows.rows"),
        ("MALFORMED_COLUMNS", "spine.columns[0].values"),
    ]


async def test_strange_floats_leave_nothing_behind(start: Start) -> None:
    """Where a field is finite NaN is refused by name and nothing of its batch is stored."""
    rows = Columns.from_dict(
        {
            "event_time": (DataType.TIMESTAMP, [NOW, NOW]),
            "total": (DataType.FLOAT64, [1.0, float("nan")]),
        }
    )
    async with start() as running:
        client = running.client
        await client.entity("all")
        message = testing.view_message("totals", "all", [("total", DataType.FLOAT64)])
        message.fields[0].finite = True
        view = (
            await client.stub.RegisterFeatureView(
                pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=message)
            )
        ).view
        await client.feature_set("totals", [testing.reference("totals", "total")])
        error = await testing.error_of(client.write("totals", rows))
        before = await client.online("totals", Columns(1))
        kept = await client.write("totals", rows, keep_good=True)
        after = await client.online("totals", Columns(1))

    assert view.fields[0].finite
    assert error.violations[0].field == "rows.total[1]"
    assert before.values["total"] == [None]
    assert (kept.rows_written, kept.row_errors[0].value) == (1, "nan")
    assert after.values["total"] == [1.0]
