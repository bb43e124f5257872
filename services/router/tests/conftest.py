import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_router import config, testing, wiring
from setpoint_rpc import channel

Value = value_pb2.Value
ENTITIES = {"carrier": Value(string_value="UA")}
REQUESTED = {"hour": Value(int_value=8), "origin": Value(string_value="JFK")}
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


@dataclass
class Router:
    """A running router and what surrounds it."""

    stub: Any
    peers: testing.Peers
    server: Any
    spool: Path
    settings: config.RouterSettings
    to_router: grpc.aio.Channel

    async def create(self, name: str = "flights", **fields: Any) -> route_pb2.Route:
        """Creates a route, by default with version 1 alone."""
        fields.setdefault("weights", {1: 10_000})
        weights = [
            route_pb2.VersionWeight(version=version, basis_points=share)
            for version, share in fields.pop("weights").items()
        ]
        answer = await self.stub.CreateRoute(
            router_service_pb2.CreateRouteRequest(
                request_id=str(uuid.uuid4()),
                route=route_pb2.Route(name=name, model="delays", weights=weights, **fields),
            ),
            timeout=20,
        )
        route: route_pb2.Route = answer.route
        return route

    async def predict(self, route: str = "flights", **fields: Any) -> Any:
        """Asks for one prediction, by default with an entity."""
        if not {"entities", "inputs"} & fields.keys():
            fields |= {"entities": ENTITIES, "inputs": REQUESTED}
        timeout = fields.pop("timeout", 20)
        metadata = fields.pop("metadata", None)
        return await self.stub.Predict(
            router_service_pb2.PredictRequest(route=route, **fields),
            timeout=timeout,
            metadata=metadata,
        )


StartRouter = Callable[..., contextlib.AbstractAsyncContextManager[Router]]


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[testing.Peers]:
    """The services around the router."""
    made = await testing.start_peers()
    yield made
    await made.server.stop(0)


@pytest.fixture
def start_router(
    peers: testing.Peers,
    migrated_url: Callable[[str], str],
    serve: Any,
    tmp_path: Path,
) -> StartRouter:
    """Starts routers among the doubles; they share spool and database within a test."""
    url = migrated_url("router")

    @contextlib.asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[Router]:
        fields: dict[str, Any] = {
            f"{name}_address": peers.address
            for name in ("feature", "inference", "validation", "monitoring", "registry")
        }
        fields |= {
            "database_url": url,
            "spool_directory": str(tmp_path / "spool"),
            "ship_interval_seconds": 0.01,
            "poll_seconds": 0.1,
            # A pause of the machine is no failure of the features, and no overload; tests of these
            # limits set them.
            "features_seconds": 10,
            "latency_tolerance_seconds": 10,
        }
        settings = config.RouterSettings(**(fields | changes))
        async with (
            serve(wiring.build, settings) as server,
            channel.connect(server.address, client="test") as to_router,
        ):
            await to_router.channel_ready()
            stub = router_service_pb2_grpc.RouterServiceStub(to_router)
            yield Router(stub, peers, server, tmp_path / "spool", settings, to_router)

    return start


@pytest_asyncio.fixture
async def router(start_router: StartRouter) -> AsyncIterator[Router]:
    """A router with a route `flights` whose version 1 gets everything."""
    async with start_router() as running:
        await running.create()
        yield running
