import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import asyncpg
import grpc.aio
import pytest

from setpoint.feature.v1 import aggregation_pb2, feature_service_pb2_grpc
from setpoint_columns import Columns, DataType
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client
from setpoint_rpc import channel as channels

COUNTS = aggregation_pb2.Aggregation(
    source="ages",
    fields=[
        aggregation_pb2.AggregateField(
            name="rows",
            function=aggregation_pb2.AGGREGATE_FUNCTION_COUNT,
            window_microseconds=600_000_000,
        )
    ],
)
T = TypeVar("T")
BATCHES, ACKNOWLEDGED, ROWS = 40, 7, 50
PATIENCE_SECONDS = 140.0


@contextlib.asynccontextmanager
async def process(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs the service as it runs in production; whatever is left at the end is killed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "setpoint_feature", env={**os.environ, **environment}
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call while the service is away."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if error.code() not in away or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.05)


def batch(number: int) -> Columns:
    """Returns rows of which later batches hold the greater ones; values say which batch."""
    return Columns.from_dict(
        {
            "plane": (DataType.INT64, list(range(ROWS))),
            "event_time": (DataType.TIMESTAMP, [NOW + number] * ROWS),
            "created_time": (DataType.TIMESTAMP, [NOW + number] * ROWS),
            "age": (DataType.INT64, [number] * ROWS),
        }
    )


@pytest.mark.timeout(300)  # Two starts of a process take long on a busy machine.
async def test_kill_loses_and_doubles_nothing(
    feature_url: str, valkey_url: str, free_port: Callable[[], int]
) -> None:
    """After kill -9 amid writes, repeated batches are whole and single, and all is online."""
    port = free_port()
    environment = {
        "SETPOINT_FEATURE_DATABASE_URL": feature_url,
        "SETPOINT_FEATURE_VALKEY_URL": valkey_url,
        "SETPOINT_FEATURE_PORT": str(port),
        "SETPOINT_FEATURE_METRICS_PORT": "0",
        "SETPOINT_FEATURE_POLL_SECONDS": "0.05",
        "SETPOINT_FEATURE_LOG_LEVEL": "ERROR",
    }
    batch_ids = [testing.request_id() for _ in range(BATCHES)]
    done = 0
    async with channels.connect(f"127.0.0.1:{port}", client="test") as channel:
        client = Client(feature_service_pb2_grpc.FeatureServiceStub(channel))

        async def write(number: int) -> None:
            nonlocal done
            await patiently(lambda: client.write("ages", batch(number), batch_ids[number]))
            done += 1

        async with process(environment) as first:
            await patiently(lambda: client.entity("plane", plane=DataType.INT64))
            await client.view("ages", "plane", [("age", DataType.INT64)])
            await client.view("counts", "plane", [], aggregation=COUNTS)
            await client.feature_set(
                "planes", [testing.reference("ages", "age"), testing.reference("counts", "rows")]
            )
            writes = [asyncio.create_task(write(number)) for number in range(BATCHES)]
            while done < ACKNOWLEDGED:
                await asyncio.sleep(0)
            first.kill()
            await first.wait()
        async with process(environment):
            await asyncio.gather(*writes)
            await check(client, feature_url)


async def check(client: Client, url: str) -> None:
    connection = await asyncpg.connect(url)
    stored = await connection.fetch(
        "SELECT event_time, count(*) AS rows FROM feature.history GROUP BY 1 ORDER BY 1"
    )
    await connection.close()
    assert [(row["event_time"] - NOW, row["rows"]) for row in stored] == [
        (number, ROWS) for number in range(BATCHES)
    ]
    planes = Columns.from_dict({"plane": (DataType.INT64, list(range(ROWS)))})
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    expected = {"age": [BATCHES - 1] * ROWS, "rows": [BATCHES] * ROWS}
    while True:
        # All may have been written before the kill, and the second process may not be there yet.
        found = await patiently(lambda: client.online("planes", planes, NOW + BATCHES))
        if found.values == expected and not found.history_views:
            break
        assert asyncio.get_running_loop().time() < deadline, "the online copies never caught up"
        await asyncio.sleep(0.05)
