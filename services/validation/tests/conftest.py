from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc.aio
import pytest

from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_testkit.serving import Serve
from setpoint_validation import config, testing, wiring

START_US = 1_700_000_000_000_000


@pytest.fixture
async def validation(
    serve: Serve, migrated_url: Callable[[str], str]
) -> AsyncIterator[testing.Validation]:
    url = migrated_url("validation")
    settings = config.ValidationSettings(
        database_url=url, max_rows=1000, max_table_bytes=100_000, max_batches=1, piece_seconds=0.5
    )
    clock = clocks.ManualClock(START_US)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(wiring.build, settings, clock=clock))
        opened: grpc.aio.Channel = await stack.enter_async_context(
            channel.connect(server.address, client="test")
        )
        stub = validation_service_pb2_grpc.ValidationServiceStub(opened)
        yield testing.Validation(stub, clock, url)
