"""The question `grpc.health.v1` answers: is this server ready?"""

import asyncio
import contextlib

import grpc.aio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # ships no annotations.
    health_pb2,
    health_pb2_grpc,
)

from setpoint_rpc import channel

ASK_SECONDS = 2.0
CONNECT_SECONDS = 1.0


async def is_serving(address: str) -> bool:
    """Says whether the server at the address answers SERVING for itself as a whole."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # TimeoutError is one too.
        # Asking gRPC before anything listens would begin its back-off.
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    # A channel per question: one that has seen the server fail waits before it tries again.
    async with channel.connect(address, client="devstack") as connection:
        try:
            answer = await health_pb2_grpc.HealthStub(connection).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=ASK_SECONDS
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
