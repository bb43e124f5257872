"""A running feature service on real PostgreSQL and Valkey."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from setpoint.feature.v1 import feature_service_pb2_grpc
from setpoint_feature import config, testing, wiring
from setpoint_rpc import channel as channels
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_testkit import serving


@dataclass
class Running:
    """A service that runs, and what it runs on."""

    client: testing.Client
    server: servers.Server
    clock: clocks.ManualClock


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(database_url: str, valkey_url: str, serve: serving.Serve) -> Start:
    """Starts a feature service; several in one test share database and Valkey."""

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Running]:
        clock = clocks.ManualClock(testing.NOW)
        known: Mapping[str, Any] = {
            "database_url": database_url,
            "valkey_url": valkey_url,
            "poll_seconds": 0.05,
        }
        made = config.FeatureSettings(**{**known, **settings})
        async with (
            serve(wiring.build, made, clock=clock) as server,
            channels.connect(server.address, client="test") as channel,
        ):
            stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
            yield Running(testing.Client(stub), server, clock)

    return run


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Running]:
    """One feature service."""
    async with start() as found:
        yield found


@pytest.fixture
def client(running: Running) -> testing.Client:
    """Calls of one feature service."""
    return running.client
