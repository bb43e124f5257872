"""A running feature service on real PostgreSQL and Valkey."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from setpoint.feature.v1 import (
    audit_service_pb2_grpc,
    feature_service_pb2_grpc,
    snapshot_service_pb2_grpc,
)
from setpoint_db import migrate
from setpoint_feature import config, testing, wiring
from setpoint_feature.store import tables
from setpoint_rpc import channel as channels
from setpoint_runtime import clock as clocks
from setpoint_testkit import databases as database_pool
from setpoint_testkit import serving


@pytest.fixture
def feature_url(databases: database_pool.Databases) -> Iterator[str]:
    """The address of a database that has the service's schema already."""

    async def prepare(url: str) -> None:
        await migrate.upgrade(url, schema=tables.SCHEMA, package=wiring.PACKAGE)

    name = databases.create(databases.template("feature", prepare))
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def start(
    feature_url: str, valkey_url: str, serve: serving.Serve, tmp_path: pathlib.Path
) -> testing.Start:
    """Starts a feature service; several in one test share database and Valkey."""

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[testing.Running]:
        clock = clocks.ManualClock(testing.NOW)
        common: Mapping[str, Any] = {
            "database_url": feature_url,
            "valkey_url": valkey_url,
            "poll_seconds": 0.05,
            # A pause of the machine is no silence of the store; tests of that set it.
            "online_read_timeout_seconds": 20.0,
            "online_write_timeout_seconds": 20.0,
            "segment_url": str(tmp_path / "segments"),
        }
        made = config.FeatureSettings(**{**common, **settings})
        async with (
            serve(wiring.build, made, clock=clock) as server,
            channels.connect(server.address, client="test") as channel,
        ):
            stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
            audit = audit_service_pb2_grpc.AuditServiceStub(channel)
            snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
            yield testing.Running(testing.Client(stub), clock, server, audit, snapshots)

    return run


@pytest.fixture
async def client(start: testing.Start) -> AsyncIterator[testing.Client]:
    """Calls of one feature service."""
    async with start() as found:
        yield found.client
