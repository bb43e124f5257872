"""What is computed of stored rows is replayed like what is stored: windows over events, transformations."""

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import redis

from setpoint.feature.v1 import aggregation_pb2, audit_service_pb2, definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint.monitoring.v1 import ingest_service_pb2, monitoring_service_pb2, prediction_pb2
from setpoint_client import AsyncClient
from setpoint_columns import Column, Columns, DataType, proto
from setpoint_devstack import valkey as valkey_server
from setpoint_feature import config as feature_config
from setpoint_feature import testing
from setpoint_feature import wiring as feature_wiring
from setpoint_monitoring import config as monitoring_config
from setpoint_monitoring import wiring as monitoring_wiring
from setpoint_runtime import clock as clocks
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool
from setpoint_testkit import serving

pytestmark = pytest.mark.timeout(300)

MODULE = "made_up_paces"
SOURCE = """
from setpoint_features import DataType, transformation


@transformation(DataType.FLOAT64)
def pace(delay, distance):
    return delay / distance
"""
MINUTE = 60_000_000
NOW = 1_700_000_000_000_000
PLANES = 4
FEATURES = ("delay", "landings", "mean")


@dataclass
class World:
    """Two services, and what a router would do with them."""

    client: AsyncClient

    async def write(self, minutes: int, delay: float) -> None:
        """Writes a landing of each plane, some minutes ago, known at once."""
        times = [NOW - minutes * MINUTE] * PLANES
        table: testing.Table = {
            "plane": (DataType.INT64, list(range(PLANES))),
            "event_time": (DataType.TIMESTAMP, times),
            "created_time": (DataType.TIMESTAMP, times),
            "delay": (DataType.FLOAT64, [delay + plane for plane in range(PLANES)]),
        }
        await self.client.write_features("landed", Columns.from_dict(table))

    async def ask(self, **changes: float) -> None:
        """Asks online about every plane, and ships the record of the answer, as a router does.

        Values that the record shall hold instead of the answer's can be named.
        """
        asked = Columns.from_dict(
            {
                "plane": (DataType.INT64, list(range(PLANES))),
                "distance": (DataType.FLOAT64, [10.0] * PLANES),
            }
        )
        request = pb.GetOnlineFeaturesRequest(entities=proto.to_proto(asked), as_of_times=[NOW])
        request.feature_set.name = "set"
        answer = await self.client.stubs.feature.GetOnlineFeatures(request, timeout=30)
        features = proto.from_proto(answer.features)
        columns = [
            Column(name, column.dtype, np.full(PLANES, changes[name]))
            if (name := column.name) in changes
            else column
            for column in features.columns
        ]
        predictions: testing.Table = {
            "prediction_id": (DataType.STRING, [ids.uuid7() for _ in range(PLANES)]),
            "event_time": (DataType.TIMESTAMP, [NOW] * PLANES),
            # By the clock on the wall, as routers write it.
            "reply_time": (DataType.TIMESTAMP, [clocks.SystemClock().now_us()] * PLANES),
            "status": (DataType.INT32, [0] * PLANES),
        }
        record = prediction_pb2.PredictionRecords(
            route="route",
            feature_set=answer.feature_set,
            predictions=proto.to_proto(Columns.from_dict(predictions)),
            entities=proto.to_proto(asked.select(["plane"])),
            inputs=proto.to_proto(Columns(PLANES, [*columns, asked["distance"]])),
            input_statuses=[*answer.statuses, b"\x05" * PLANES],
            input_event_times=[*answer.event_times, b"\xff" * 8 * PLANES],
        )
        await self.client.stubs.ingest.IngestPredictions(
            ingest_service_pb2.IngestPredictionsRequest(records=[record]), timeout=30
        )

    async def last(self) -> int:
        """Returns the number of the newest record."""
        answer = await self.client.stubs.monitoring.SampleRecords(
            monitoring_service_pb2.SampleRecordsRequest(), timeout=30
        )
        return answer.newest_record_id

    async def causes(self, after: int) -> dict[str, dict[str, int]]:
        """Replays the records after one; returns differing values by cause and feature."""
        answer = await self.client.stubs.audit.ReplayPredictions(
            audit_service_pb2.ReplayPredictionsRequest(after_record_id=after), timeout=60
        )
        [found] = answer.feature_sets
        assert found.predictions == PLANES
        assert found.values == PLANES * (len(FEATURES) + 1)
        causes: dict[str, dict[str, int]] = {}
        for each in found.differences:
            name = audit_service_pb2.SkewCause.Name(each.cause).removeprefix("SKEW_CAUSE_")
            causes.setdefault(name, {})[each.feature] = each.values
        return causes


@pytest_asyncio.fixture(scope="module")
async def world(
    databases: database_pool.Databases,
    valkey: valkey_server.ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    """A feature service with windows and a transformation, and the monitoring that it replays."""
    folder: Path = tmp_path_factory.mktemp("paces")
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    online = f"{valkey.url().rsplit('/', 1)[0]}/3"
    with redis.Redis.from_url(online) as store:
        store.flushdb()
    name = databases.create()
    url = databases.url(name)
    monitoring = monitoring_config.MonitoringSettings(database_url=url, evaluate_seconds=0.0)
    try:
        async with serving.serve(monitoring_wiring.build, monitoring) as told:
            feature = feature_config.FeatureSettings(
                database_url=url,
                valkey_url=online,
                modules=MODULE,
                monitoring_address=told.address,
                skew_share=0.0,
            )
            async with (
                serving.serve(feature_wiring.build, feature) as server,
                AsyncClient(
                    feature_address=server.address, monitoring_address=told.address
                ) as client,
            ):
                found = World(client)
                await _register(client)
                await found.write(90, 1.0)
                await found.write(30, 2.0)
                await found.write(10, 4.0)
                yield found
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(MODULE, None)
        databases.drop(name)


async def _register(client: AsyncClient) -> None:
    made = testing.Client(client.stubs.feature)
    await made.entity("plane", plane=DataType.INT64)
    await made.view("landed", "plane", [("delay", DataType.FLOAT64)])
    functions = aggregation_pb2.AggregateFunction
    fields = [
        aggregation_pb2.AggregateField(
            name=name,
            function=functions.Value(f"AGGREGATE_FUNCTION_{function}"),
            window_microseconds=60 * MINUTE,
            field=field,
        )
        for name, function, field in (("landings", "COUNT", ""), ("mean", "MEAN", "delay"))
    ]
    aggregation = aggregation_pb2.Aggregation(source="landed", fields=fields)
    await made.view("lately", "plane", [], aggregation=aggregation)
    await made.feature_set(
        "set",
        [
            testing.reference("landed", "delay"),
            testing.reference("lately", "landings"),
            testing.reference("lately", "mean"),
        ],
        request_fields=[testing.spec("distance", DataType.FLOAT64)],
        transformations=[definition_pb2.Transformation(name="pace", function=f"{MODULE}:pace")],
    )


async def test_computed_values_are_replayed_without_a_difference(world: World) -> None:
    """Proves that windows and transformations come out of history as they came out online."""
    before = await world.last()
    await world.ask()
    assert await world.causes(before) == {}


async def test_changed_result_is_told_from_a_changed_input(world: World) -> None:
    """Proves that a result of other code is told as such where all that it was computed of is the same."""
    before = await world.last()
    await world.ask(pace=70.0)
    assert await world.causes(before) == {"TRANSFORMATION": {"pace": PLANES}}
    before = await world.last()
    await world.ask(mean=70.0)
    assert await world.causes(before) == {"AGGREGATE": {"mean": PLANES}}
    before = await world.last()
    await world.ask(delay=70.0, pace=7.5)
    assert await world.causes(before) == {"VALUE": {"delay": PLANES, "pace": PLANES}}


async def test_late_event_is_the_cause_of_all_that_follows_from_it(world: World) -> None:
    """Proves that one late row is told as the cause of its value, of the windows and of what is computed."""
    before = await world.last()
    await world.ask()
    await world.write(5, 8.0)
    features = {*FEATURES, "pace"}
    assert await world.causes(before) == {"LATE_WRITE": dict.fromkeys(features, PLANES)}
