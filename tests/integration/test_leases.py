"""Two routers that do not know of each other, and one real inference that both of them lease versions at."""

import asyncio
import contextlib
import pathlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from setpoint.common.v1 import value_pb2
from setpoint.inference.v1 import inference_service_pb2 as inference_pb
from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_inference import config as inference_config
from setpoint_inference import wiring as inference_wiring
from setpoint_inference.service import models
from setpoint_registry import config as registry_config
from setpoint_registry import testing as registry_testing
from setpoint_registry import wiring as registry_wiring
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool
from setpoint_testkit import serving

MODEL = "late"
SECONDS = 30.0
"""Far more than anything here takes."""

LEASE_SECONDS = 1.0
"""By the clock of inference, which moves only when the test says so; routers renew by the real one."""

STEP_US = 700_000
"""Less than a lease, so that a version which is renewed after each step stays."""

NOBODY = "127.0.0.1:1"


class Leases:
    """What inference is told, and the time that it believes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clocks.ManualClock()
        self.renewed: Counter[int] = Counter()
        """How often each version was."""
        self.released = 0
        """How often inference has looked for what nobody needs."""
        renew, release = models.Models.renew, models.Models.release

        def counted(table: models.Models, keys: Iterable[Any], lease_seconds: float) -> Any:
            kept = list(keys)
            self.renewed.update(key.version for key in kept)
            return renew(table, kept, lease_seconds)

        def looked(table: models.Models) -> None:
            release(table)
            self.released += 1

        monkeypatch.setattr(models.Models, "renew", counted)
        monkeypatch.setattr(models.Models, "release", looked)
        monkeypatch.setattr(inference_wiring, "RELEASE_SECONDS", 0.005)

    async def pass_on(self, *renewed: int) -> None:
        """Lets two leases go by in steps, waiting each time until some versions are renewed."""
        for _ in range(3):
            self.clock.advance(STEP_US)
            before = self.renewed.copy()
            await until(lambda: all(self.renewed[each] > before[each] for each in renewed))  # noqa: B023 — it ends before the next step.
        looked = self.released
        await until(lambda: self.released > looked + 1)


async def until(is_so: Callable[..., object]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.005)


class House:
    """The registry and inference, and routers on demand."""

    def __init__(
        self,
        databases: database_pool.Databases,
        folder: pathlib.Path,
        registry: str,
        inference: str,
        stub: Any,
    ) -> None:
        self._databases = databases
        self._folder = folder
        self._registry = registry
        self._inference = inference
        self._stub = stub

    @contextlib.asynccontextmanager
    async def router(self, name: str) -> AsyncIterator[Any]:
        """A router with routes and a spool of its own."""
        settings = router_config.RouterSettings(
            database_url=self._databases.url(self._databases.create()),
            spool_directory=str(self._folder / name),
            inference_address=self._inference,
            registry_address=self._registry,
            feature_address=NOBODY,
            monitoring_address=NOBODY,
            validation_address="",
            inference_lease_seconds=LEASE_SECONDS,
            inference_seconds=SECONDS,
            flush_seconds=0.0,
        )
        async with (
            serving.serve(router_wiring.build, settings) as server,
            channel.connect(server.address, client="test") as opened,
        ):
            yield router_service_pb2_grpc.RouterServiceStub(opened)

    async def here(self) -> dict[int, int]:
        """Returns when each version that is in memory was loaded."""
        request = inference_pb.ListLoadedModelsRequest()
        listed = await self._stub.ListLoadedModels(request, timeout=SECONDS)
        return {each.model_version.version: each.ready_time for each in listed.models}


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Leases:
    """Watches what is leased."""
    return Leases(monkeypatch)


@pytest.fixture
async def house(
    leases: Leases, databases: database_pool.Databases, tmp_path: pathlib.Path
) -> AsyncIterator[House]:
    """A registry with two approved versions of a model, and inference."""
    registry_settings = registry_config.RegistrySettings(
        database_url=databases.url(databases.create()), artifact_url=str(tmp_path / "artifacts")
    )
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            serving.serve(registry_wiring.build, registry_settings)
        )
        await add_versions(registry.address, 2)
        inference = await stack.enter_async_context(
            serving.serve(
                inference_wiring.build,
                inference_config.InferenceSettings(
                    registry_address=registry.address, cache_directory=str(tmp_path / "cache")
                ),
                clock=leases.clock,
            )
        )
        opened = await stack.enter_async_context(channel.connect(inference.address, client="test"))
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        yield House(databases, tmp_path, registry.address, inference.address, stub)


async def add_versions(address: str, count: int) -> None:
    """Registers and approves versions of one model."""
    async with channel.connect(address, client="test") as opened:
        stub = registry_service_pb2_grpc.RegistryServiceStub(opened)
        registry = registry_testing.Registry(
            stub, clocks.ManualClock(), pathlib.Path(), "", address
        )
        await registry.with_model()
        for _ in range(count):
            manifest = registry_testing.manifest()
            manifest.ClearField("feature_set")
            await registry.decide(await registry.with_version(described=manifest))


async def put(router: Any, version: int, *, over: int = 0) -> None:
    """Has the route of a router served by a version, from its first revision on or over another one."""
    weights = [route_pb2.VersionWeight(version=version, basis_points=10_000)]
    route = route_pb2.Route(name=MODEL, model=MODEL, weights=weights)
    if over:
        update = router_service_pb2.UpdateRouteRequest(
            request_id=ids.uuid7(), route=route, expected_revision=over
        )
        await router.UpdateRoute(update, timeout=SECONDS)
    else:
        create = router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route)
        await router.CreateRoute(create, timeout=SECONDS)


async def answering(router: Any) -> int:
    """Asks a router, and returns which version answered."""
    inputs = {name: value_pb2.Value(double_value=1.0) for name in ("a", "b")}
    request = router_service_pb2.PredictRequest(route=MODEL, inputs=inputs)
    answer = await router.Predict(request, timeout=SECONDS)
    return int(answer.assignment.model_version.version)


async def test_no_router_ends_what_another_one_needs(house: House, leases: Leases) -> None:
    """A version stays for as long as one of the routers renews it, and goes when the last one is gone."""
    async with house.router("a") as first:
        async with house.router("b") as second:
            await put(first, 1)
            await put(second, 1)
            loaded = (await house.here())[1]
            await leases.pass_on(1)

            # The first one goes on to another version, and does not renew the old one any more.
            await put(first, 2, over=1)
            await leases.pass_on(1, 2)
            assert (await house.here())[1] == loaded
            assert (await answering(first), await answering(second)) == (2, 1)
            newer = (await house.here())[2]
        # The second one is gone without a word.
        await leases.pass_on(2)
        assert await house.here() == {2: newer}
        assert await answering(first) == 2
