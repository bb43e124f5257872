"""A canary that cannot answer, behind a fallback that always can: the gate sees it all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest_asyncio

from setpoint.monitoring.v1 import monitoring_service_pb2, monitoring_service_pb2_grpc
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_db import engine
from setpoint_monitoring import config as monitoring_config
from setpoint_monitoring import wiring as monitoring_wiring
from setpoint_retraining import testing as retraining_testing
from setpoint_retraining.adapters import peers as retraining_peers
from setpoint_retraining.domain.run import Run, RunState
from setpoint_retraining.service.rollout import Rollout
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_router import config as router_config
from setpoint_router import testing as router_testing
from setpoint_router import wiring as router_wiring
from setpoint_rpc import channel
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import ManualClock
from setpoint_testkit import serving

ROUTE, MODEL = "flights", "delays"
BEGIN = retraining_testing.KNOWN_AT
STEP = retraining_testing.DAY
QUESTIONS = 300


@dataclass
class World:
    """A router and monitoring as they run, among small doubles of the others, and a rollout."""

    router: Any
    monitoring: Any
    peers: router_testing.Peers
    routes: retraining_peers.RoutesClient
    store: SQLStore
    rollout: Rollout

    async def ask(self, time: int) -> set[int]:
        """Asks for many callers; returns which versions answered, once monitoring knows."""
        rows = Columns.from_dict(
            {
                "user": (DataType.STRING, [f"user-{number}" for number in range(QUESTIONS)]),
                "share": (DataType.FLOAT64, [0.5] * QUESTIONS),
                "delay": (DataType.FLOAT64, [2.0] * QUESTIONS),
                "hour": (DataType.INT64, [8] * QUESTIONS),
                "origin": (DataType.STRING, ["JFK"] * QUESTIONS),
            }
        )
        answer = await self.router.PredictBatch(
            router_service_pb2.PredictBatchRequest(
                route=ROUTE,
                rows=columns_proto.to_proto(rows),
                assignment_key_column="user",
                event_time=time,
            ),
            timeout=30,
        )
        results = columns_proto.from_proto(answer.results)
        assert set(results["status"].to_list()) == {0}
        request = monitoring_service_pb2.ListPredictionsRequest(model=MODEL, page_size=1)
        while (await self.monitoring.ListPredictions(request)).total_size < QUESTIONS:
            await asyncio.sleep(0.02)
        return set(results["version"].to_list())


@pytest_asyncio.fixture
async def world(migrated_url: Callable[[str], str], tmp_path: Path) -> AsyncIterator[World]:
    """Version 1 serves, and is the fallback."""
    peers = await router_testing.start_peers()
    monitoring_settings = monitoring_config.MonitoringSettings(
        database_url=migrated_url("monitoring"), registry_address=peers.address
    )
    database = engine.create_engine(
        migrated_url("retraining"), application_name="test", schema="retraining"
    )
    async with serving.serve(monitoring_wiring.build, monitoring_settings) as monitoring:
        router_settings = router_config.RouterSettings(
            feature_address=peers.address,
            inference_address=peers.address,
            validation_address=peers.address,
            registry_address=peers.address,
            monitoring_address=monitoring.address,
            database_url=migrated_url("router"),
            spool_directory=str(tmp_path / "spool"),
            ship_interval_seconds=0.01,
        )
        async with (
            serving.serve(router_wiring.build, router_settings) as router,
            channel.connect(router.address, client="test") as to_router,
            channel.connect(monitoring.address, client="test") as to_monitoring,
        ):
            store, routes = SQLStore(database), retraining_peers.RoutesClient(to_router)
            rollout = Rollout(
                store,
                routes,
                retraining_testing.FakeRegistry(),
                retraining_peers.MonitoringClient(to_monitoring),
                ManualClock(BEGIN),
            )
            yield World(
                router_service_pb2_grpc.RouterServiceStub(to_router),
                monitoring_service_pb2_grpc.MonitoringServiceStub(to_monitoring),
                peers,
                routes,
                store,
                rollout,
            )
    await database.dispose()
    await peers.server.stop(0)


async def canary(world: World, layer: route_pb2.Layer | None = None) -> Run:
    """Gives version 2 a tenth of a route whose fallback is version 1."""
    route = route_pb2.Route(
        name=ROUTE,
        model=MODEL,
        weights=[route_pb2.VersionWeight(version=1, basis_points=10_000)],
        fallback_version=1,
        valid_from=BEGIN - STEP,
        layer=layer,
    )
    await world.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route)
    )
    plan = retraining_testing.policy(model=MODEL, route=ROUTE)
    run, _ = await world.store.add_run(
        ids.uuid7(), b"", replace(retraining_testing.rolling_out(), plan=plan)
    )
    return (await world.rollout.advance(run.run_id, BEGIN)).run


async def test_canary_behind_fallback_is_rolled_back(world: World) -> None:
    """Proves that answers of the fallback are failures of the version that was to give them."""
    run = await canary(world)
    gone = errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "broken")
    world.peers.inference.version_errors = {2: gone}
    assert await world.ask(BEGIN + 1) == {1}
    advance = await world.rollout.advance(run.run_id, BEGIN + STEP)
    assert advance.run.state is RunState.ROLLED_BACK
    assert "fails more often" in advance.explanation
    request = router_service_pb2.GetRouteRequest(name=ROUTE)
    weights = (await world.router.GetRoute(request)).route.weights
    assert [(each.version, each.basis_points) for each in weights] == [(1, 10_000)]


async def test_canary_that_answers_goes_on(world: World) -> None:
    """Proves that the same canary passes the same gate when it answers."""
    run = await canary(world)
    assert await world.ask(BEGIN + 1) == {1, 2}
    advance = await world.rollout.advance(run.run_id, BEGIN + STEP)
    assert (advance.run.state, advance.run.rollout_step) == (RunState.ROLLING_OUT, 1)


async def test_promotion_reaches_keys_outside_the_layer(world: World) -> None:
    """Proves that a canary stays within its route's part of a layer, and a promotion does not."""
    part = route_pb2.Layer(name="prices", first_slot=0, end_slot=5_000, baseline_version=1)
    run = await canary(world, part)
    state = await world.routes.current(ROUTE)
    assert state is not None
    assert (state.weights, state.taking_part) == ({1: 9_000, 2: 1_000}, 5_000)
    await world.routes.set_weights(run, "finish", {2: 10_000}, BEGIN + 1, "done")
    assert await world.ask(BEGIN + 2) == {2}
