"""Two real processes of inference behind a router, under load, while one of them is mistreated."""

import asyncio
import contextlib
import os
import pathlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest_asyncio

from setpoint.common.v1 import value_pb2
from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_devstack import catalogue, health, ports, process
from setpoint_registry import config as registry_config
from setpoint_registry import testing as registry_testing
from setpoint_registry import wiring as registry_wiring
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_rpc import channel
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import ids
from setpoint_testkit import databases as database_pool
from setpoint_testkit import serving

CALLERS = 30
DEADLINE_SECONDS = 20.0
"""Of a prediction; nothing takes nearly as long unless it is lost."""

PAUSE_SECONDS = 0.03
"""Of a caller; the load is steady, and leaves the machine room to start processes."""

PATIENCE_SECONDS = 40.0
NOBODY = "127.0.0.1:1"


class Replica:
    """A process of inference that always comes back to its port."""

    def __init__(self, number: int, folder: pathlib.Path, registry: str) -> None:
        service = catalogue.replicated(_INFERENCE, number)[-1]
        port = ports.free_port()
        own = catalogue.environment(
            service, folder, {"registry": registry}, (port, ports.free_port()), {}
        )
        self.address = f"{ports.LOOPBACK}:{port}"
        self.child = process.GuardedProcess(
            service.name,
            service.argv,
            folder / f"{service.name}.log",
            environment={**os.environ, **own},
        )

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        await process.in_thread(self.child.start)
        while not await health.is_serving(self.address):
            assert self.child.running
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Ends it as a crash would."""
        self.child.signal(signal.SIGKILL)
        await self.child.wait(PATIENCE_SECONDS)


_INFERENCE = next(each for each in catalogue.ALL if each.name == "inference")


class Cluster:
    """A router in this process, with two replicas."""

    def __init__(self, replicas: list[Replica], router: servers.Server, stub: Any) -> None:
        self.replicas = replicas
        self.stub = stub
        self._registry = router.metrics_registry

    def calls(self, replica: Replica) -> float:
        """Returns how many calls of a replica have ended, well or not."""
        return self._sample("replica_calls", replica) - self._sample("replica_failures", replica)

    def retries(self) -> float:
        """Returns how many calls were repeated."""
        return self._registry.get_sample_value("setpoint_router_inference_retries_total") or 0.0

    def is_out(self, replica: Replica) -> bool:
        """Says whether the router leaves a replica out."""
        return self._sample("replica_ejected", replica, "") == 1

    def is_whole(self) -> bool:
        """Says whether every replica may get calls."""
        return all(
            self._sample("replica_versions", each, "") == 1 and not self.is_out(each)
            for each in self.replicas
        )

    def _sample(self, name: str, replica: Replica, suffix: str = "_total") -> float:
        found = self._registry.get_sample_value(
            f"setpoint_router_{name}{suffix}", {"replica": replica.address}
        )
        assert found is not None
        return found

    async def busiest(self, load: "Load") -> Replica:
        """Returns the replica that gets most calls, while it gets them."""
        before = [self.calls(each) for each in self.replicas]
        await load.more(100)
        shares = [self.calls(each) - old for each, old in zip(self.replicas, before, strict=True)]
        return self.replicas[shares.index(max(shares))]

    async def gets_calls(self, replica: Replica) -> None:
        """Waits until a replica answers calls again."""
        before = self.calls(replica)

        await until(lambda: self.calls(replica) > before)


class Load:
    """Callers who ask one question after the other, each with numbers of its own."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.answered = 0
        self.wrong: list[Any] = []
        """Errors, and answers to other questions."""

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def more(self, number: int) -> None:
        """Waits for so many more answers."""
        goal = self.answered + number

        await until(lambda: self.answered >= goal or self.wrong)

    async def _ask(self, number: int) -> None:
        for count in range(1_000_000):
            if self._is_over:
                return
            a, b = float(number), float(count % 1000)
            try:
                answer = await self._stub.Predict(question(a, b), timeout=DEADLINE_SECONDS)
            except grpc.aio.AioRpcError as error:
                self.wrong.append((error.code(), error.details()))
                continue
            if answer.outputs["score"].double_value != a + 2 * b + 0.5:
                self.wrong.append((a, b, answer.outputs))
            self.answered += 1
            await asyncio.sleep(PAUSE_SECONDS)


def question(a: float, b: float) -> router_service_pb2.PredictRequest:
    """Returns a request with every input given."""
    inputs = {"a": value_pb2.Value(double_value=a), "b": value_pb2.Value(double_value=b)}
    return router_service_pb2.PredictRequest(route="late", inputs=inputs)


async def until(condition: Callable[[], Any]) -> None:
    """Asks again and again until the answer is yes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module")
async def cluster(
    databases: database_pool.Databases, run_folder: pathlib.Path
) -> AsyncIterator[Cluster]:
    """A route whose version lives on both replicas."""
    folder = run_folder / "replicas"
    folder.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            serving.serve(
                registry_wiring.build,
                registry_config.RegistrySettings(
                    database_url=databases.url(databases.create()),
                    artifact_url=str(folder / "artifacts"),
                ),
            )
        )
        replicas = [Replica(number, folder, registry.address) for number in (1, 2)]
        for each in replicas:
            stack.push_async_callback(each.child.stop)
        await asyncio.gather(*(each.start() for each in replicas))
        settings = _settings(databases, folder, registry, replicas)
        router = await stack.enter_async_context(serving.serve(router_wiring.build, settings))
        to_router = await stack.enter_async_context(channel.connect(router.address, client="test"))
        stub = router_service_pb2_grpc.RouterServiceStub(to_router)
        await _create_route(stub, registry)
        made = Cluster(replicas, router, stub)
        await until(made.is_whole)
        yield made


def _settings(
    databases: database_pool.Databases,
    folder: pathlib.Path,
    registry: servers.Server,
    replicas: list[Replica],
) -> router_config.RouterSettings:
    return router_config.RouterSettings(
        database_url=databases.url(databases.create()),
        spool_directory=str(folder / "spool"),
        inference_address=",".join(each.address for each in replicas),
        registry_address=registry.address,
        feature_address=NOBODY,
        monitoring_address=NOBODY,
        validation_address="",
        inference_seconds=DEADLINE_SECONDS,
        inference_ejection_seconds=0.5,
        flush_seconds=0.0,
    )


async def _create_route(stub: Any, served: servers.Server) -> None:
    async with channel.connect(served.address, client="test") as opened:
        registry = registry_testing.Registry(
            registry_service_pb2_grpc.RegistryServiceStub(opened),
            clocks.ManualClock(),
            pathlib.Path(),
            "",
            served.address,
        )
        await registry.with_model()
        manifest = registry_testing.manifest()
        manifest.ClearField("feature_set")
        version = await registry.with_version(described=manifest)
        await registry.decide(version)
    weights = [route_pb2.VersionWeight(version=version.version, basis_points=10_000)]
    await stub.CreateRoute(
        router_service_pb2.CreateRouteRequest(
            request_id=ids.uuid7(),
            route=route_pb2.Route(name="late", model="late", weights=weights),
        ),
        timeout=DEADLINE_SECONDS,
    )


async def test_killing_a_replica_loses_no_request(cluster: Cluster) -> None:
    """A replica killed under load costs no answer, and gets calls again when it is back."""
    async with Load(cluster.stub) as load:
        victim = await cluster.busiest(load)
        await victim.kill()
        await load.more(300)
        await victim.start()
        await cluster.gets_calls(victim)
        await load.more(100)
    assert load.wrong == []


async def test_frozen_replica_is_left_out(cluster: Cluster) -> None:
    """Calls that a frozen process holds are answered elsewhere within their time."""
    async with Load(cluster.stub) as load:
        victim = await cluster.busiest(load)
        retries = cluster.retries()
        victim.child.signal(signal.SIGSTOP)
        try:
            await until(lambda: cluster.is_out(victim))
            await load.more(300)
            assert cluster.retries() > retries
        finally:
            victim.child.signal(signal.SIGCONT)
        await cluster.gets_calls(victim)
    assert load.wrong == []


async def test_replicas_are_renewed_one_after_the_other(cluster: Cluster) -> None:
    """A rolling restart with SIGTERM costs no answer, and calls move to whoever is back."""
    async with Load(cluster.stub) as load:
        for each in cluster.replicas:
            assert await each.child.stop() == 0
            await load.more(100)
            await each.start()
            await cluster.gets_calls(each)
    assert load.wrong == []
