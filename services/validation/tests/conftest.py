from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_testkit.serving import Serve
from setpoint_validation import config, testing, wiring

START_US = 1_700_000_000_000_000


StartValidation = Callable[..., AbstractAsyncContextManager[testing.Validation]]


@pytest.fixture
def start_validation(serve: Serve, migrated_url: Callable[[str], str]) -> StartValidation:
    """Starts services with small limits, and with times that do not come in a good run."""
    url = migrated_url("validation")

    @asynccontextmanager
    async def start(**changes: float) -> AsyncIterator[testing.Validation]:
        fields: dict[str, Any] = {"max_rows": 1000, "max_table_bytes": 100_000, "max_batches": 1}
        fields |= {"piece_seconds": 60, "poll_seconds": 60}
        settings = config.ValidationSettings(database_url=url, **(fields | changes))
        clock = clocks.ManualClock(START_US)
        async with (
            serve(wiring.build, settings, clock=clock) as server,
            channel.connect(server.address, client="test") as opened,
        ):
            stub = validation_service_pb2_grpc.ValidationServiceStub(opened)
            yield testing.Validation(stub, clock, url)

    return start


@pytest.fixture
async def validation(start_validation: StartValidation) -> AsyncIterator[testing.Validation]:
    async with start_validation() as running:
        yield running
