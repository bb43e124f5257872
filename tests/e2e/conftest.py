"""What the stories share beside the running stack."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest_asyncio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # no annotations
    health_pb2,
    health_pb2_grpc,
)
from tests.support import parcels
from tests.support import world as worlds


@pytest_asyncio.fixture(scope="module")
async def still_answering(world: worlds.World) -> AsyncIterator[None]:
    """After all of it each server says that it serves, and a good question is answered."""
    yield
    for name, address in world.stack.addresses.items():
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(
                health_pb2.HealthCheckRequest(), timeout=worlds.CALL_SECONDS
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    await world.predict(parcels.Day(world.days).parcels[0])
