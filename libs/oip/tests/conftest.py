from collections.abc import AsyncIterator

import grpc.aio
import pytest

from setpoint_oip import servicer, testing
from setpoint_rpc import channel
from setpoint_rpc import server as servers


@pytest.fixture
async def peer() -> AsyncIterator[tuple[testing.FakePeer, grpc.aio.Channel]]:
    """A server of the protocol, and a channel to it."""
    made = testing.FakePeer()
    server = servers.Server("peer")
    server.add(servicer.add_to_server, made, servicer.SERVICE)
    await server.start()
    await server.set_ready(True)
    try:
        async with channel.connect(server.address, client="test") as opened:
            yield made, opened
    finally:
        await server.stop(0)
