"""A running feature service on real PostgreSQL and Valkey."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from setpoint.feature.v1 import feature_service_pb2_grpc
from setpoint_feature import config, testing, wiring
from setpoint_rpc import channel as channels
from setpoint_runtime import clock as clocks
from setpoint_testkit import serving


@pytest.fixture
def start(database_url: str, valkey_url: str, serve: serving.Serve) -> testing.Start:
    """Starts a feature service; several in one test share database and Valkey."""

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[testing.Running]:
        clock = clocks.ManualClock(testing.NOW)
        common: Mapping[str, Any] = {
            "database_url": database_url,
            "valkey_url": valkey_url,
            "poll_seconds": 0.05,
        }
        made = config.FeatureSettings(**{**common, **settings})
        async with (
            serve(wiring.build, made, clock=clock) as server,
            channels.connect(server.address, client="test") as channel,
        ):
            stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
            yield testing.Running(testing.Client(stub), clock)

    return run


@pytest.fixture
async def client(start: testing.Start) -> AsyncIterator[testing.Client]:
    """Calls of one feature service."""
    async with start() as found:
        yield found.client
