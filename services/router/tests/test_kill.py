"""A killed router loses no record of an answered prediction."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_router import testing
from setpoint_runtime import errors

CALLERS = 16
GIVEN = {
    "share": value_pb2.Value(double_value=0.5),
    "delay": value_pb2.Value(double_value=2.0),
    "hour": value_pb2.Value(int_value=8),
    "origin": value_pb2.Value(string_value="JFK"),
}
KEYED = router_service_pb2.PredictRequest(
    route="flights",
    entities={"carrier": value_pb2.Value(string_value="UA")},
    inputs={each: GIVEN[each] for each in ("hour", "origin")},
)


@pytest.mark.timeout(120)
async def test_kill_router_loses_nothing(
    peers: testing.Peers,
    migrated_url: Callable[[str], str],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    """Shows that kill -9 under load, with monitoring away, leaves every answered id for later, once."""
    port = free_port()
    environment = _environment(peers, port, migrated_url("router"), tmp_path)
    answered: list[str] = []
    first = subprocess.Popen([sys.executable, "-m", "setpoint_router"], env=environment)
    try:
        backoff = [
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=backoff) as to_router:
            stub = router_service_pb2_grpc.RouterServiceStub(to_router)
            await _create(stub)
            await stub.Predict(KEYED, timeout=10, wait_for_ready=True)
            peers.ingest.behaviour.error = errors.UnavailableError(
                errors.Reason.UNAVAILABLE, "away"
            )
            callers = [
                asyncio.create_task(_ask(stub, answered, kind % 2 == 0)) for kind in range(CALLERS)
            ]
            while len(answered) < 500:
                await asyncio.sleep(0.01)
            first.send_signal(signal.SIGKILL)
            await asyncio.gather(*callers)
    finally:
        first.kill()
        first.wait()
    peers.ingest.behaviour.error = None
    second = subprocess.Popen([sys.executable, "-m", "setpoint_router"], env=environment)
    try:
        for _ in range(1_000):
            if set(answered) <= set(peers.ingest.ids):
                break
            await asyncio.sleep(0.02)
    finally:
        second.terminate()
        await asyncio.to_thread(second.wait)
    assert len(answered) >= 500
    assert set(answered) <= set(peers.ingest.ids)
    assert {peers.ingest.ids[each] for each in answered} == {1}
    assert second.returncode == 0


def _environment(
    peers: testing.Peers, port: int, database_url: str, folder: Path
) -> dict[str, str]:
    found = {
        "DATABASE_URL": database_url,
        "PORT": str(port),
        "METRICS_PORT": "0",
        "SPOOL_DIRECTORY": str(folder / "spool"),
        "LOG_LEVEL": "WARNING",
        "SHIP_INTERVAL_SECONDS": "0.01",
    }
    for peer in ("FEATURE", "INFERENCE", "VALIDATION", "MONITORING", "REGISTRY"):
        found[f"{peer}_ADDRESS"] = peers.address
    return {**os.environ, **{f"SETPOINT_ROUTER_{name}": value for name, value in found.items()}}


async def _create(stub: Any) -> None:
    request = router_service_pb2.CreateRouteRequest(
        request_id=str(uuid.uuid4()),
        route=route_pb2.Route(
            name="flights",
            model="delays",
            weights=[route_pb2.VersionWeight(version=1, basis_points=10_000)],
        ),
    )
    await stub.CreateRoute(request, timeout=45, wait_for_ready=True)


async def _ask(stub: Any, answered: list[str], is_given: bool) -> None:
    """Asks until the router is gone."""
    given = router_service_pb2.PredictRequest(route="flights", inputs=GIVEN)
    with contextlib.suppress(grpc.aio.AioRpcError):
        while True:
            answer = await stub.Predict(given if is_given else KEYED, timeout=5)
            answered.append(answer.prediction_id)
