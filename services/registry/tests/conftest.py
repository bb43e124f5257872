from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest

from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint_db import migrate
from setpoint_registry import config, testing, wiring
from setpoint_registry.store import tables
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_testkit.databases import Databases
from setpoint_testkit.serving import Serve

START_US = 1_700_000_000_000_000


@pytest.fixture
def migrated_url(databases: Databases) -> Iterator[str]:
    """The address of a database of this test alone that has the registry's schema."""

    async def migrated(url: str) -> None:
        await migrate.upgrade(url, schema=tables.SCHEMA, package="setpoint_registry")

    name = databases.create(databases.template("registry", migrated))
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
async def registry(
    serve: Serve, migrated_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[testing.Registry]:
    """A registry of this test alone; settings may be changed by an indirect parameter."""
    settings = config.RegistrySettings(
        database_url=migrated_url,
        artifact_url=str(tmp_path / "artifacts"),
        max_artifact_bytes=4 * 1024 * 1024,
        **getattr(request, "param", {}),
    )
    clock = clocks.ManualClock(START_US)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(wiring.build, settings, clock=clock))
        opened: grpc.aio.Channel = await stack.enter_async_context(
            channel.connect(server.address, client="test")
        )
        stub = registry_service_pb2_grpc.RegistryServiceStub(opened)
        yield testing.Registry(stub, clock, tmp_path / "artifacts", migrated_url, server.address)
