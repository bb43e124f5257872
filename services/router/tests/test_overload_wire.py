"""Overload over the wire: refusals are told at once, before anything is read."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
PREDICT = "/setpoint.router.v1.RouterService/Predict"
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


DROPPED = "setpoint_router_shadow_dropped_total"
REPLICA = "setpoint_router_replica_"


class Gate:
    """Holds the answers of inference back until it is opened."""

    def __init__(self, router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        self.rows = 0
        self._grown = asyncio.Event()

        async def act(rows: int, context: Any) -> None:
            self.rows += rows
            self._grown.set()
            await self.opened.wait()

        monkeypatch.setattr(router.peers.inference.run, "act", act)

    async def holds(self, rows: int) -> None:
        """Waits until so many rows have come."""
        async with asyncio.timeout(20):
            while self.rows < rows:
                self._grown.clear()
                await self._grown.wait()


def sample(router: Any, name: str, *, replica: bool = False, **labels: str) -> float:
    """Returns a metric of a router, of its only replica where that is meant."""
    if replica:
        labels["replica"] = router.peers.address
    return router.server.metrics_registry.get_sample_value(name, labels) or 0


def has_asked(inference: Any, rows: int) -> bool:
    """Says whether version 1 was asked about so many rows."""
    return bool(inference.asked[1] == rows)


async def until(is_so: Callable[[], object]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


async def failure(call: Any) -> errors.SetpointError:
    """Returns the typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value
    return channel.from_rpc_error(caught.value)


async def test_refusal_comes_before_reading(
    start_router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that a full router refuses what it has not even read, with a time to come back."""
    async with start_router(waiting_predictions=3, calls_at_once=3) as router:
        await router.create()
        gate = Gate(router, monkeypatch)
        asks = [
            asyncio.create_task(router.predict(inputs=GIVEN, timeout=30, assignment_key=str(at)))
            for at in range(3)
        ]
        await gate.holds(3)
        raw: Any = router.to_router.unary_unary(PREDICT)
        for body in (b"\xff no message at all", b"x" * 3_000_000):
            error = await failure(raw(body, timeout=30))
            assert error.reason is errors.Reason.OVERLOADED
            assert error.retry_after_seconds
        gate.opened.set()
        assert len({answer.prediction_id for answer in await asyncio.gather(*asks)}) == 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff no message at all", timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        counted = router.server.metrics_registry.get_sample_value(
            "setpoint_router_refused_total", {"reason": "OVERLOADED"}
        )
        assert counted == 2
    assert len(router.peers.ingest.ids) == 3


async def test_predictions_that_all_time_out_are_overload(
    start_router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that callers are turned away where nobody is answered in time, not only where answers are slow."""
    async with start_router(waiting_predictions_least=2, latency_tolerance_seconds=0.01) as router:
        await router.create()
        Gate(router, monkeypatch)
        seen: set[grpc.StatusCode] = set()

        async def ask(at: int) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await router.predict(inputs=GIVEN, timeout=0.2, assignment_key=str(at))
            seen.add(caught.value.code())

        async with asyncio.timeout(30):
            while grpc.StatusCode.RESOURCE_EXHAUSTED not in seen:
                await asyncio.gather(*(ask(at) for at in range(20)))
        assert grpc.StatusCode.DEADLINE_EXCEEDED in seen


async def test_overload_degrades_in_the_stated_order(start_router: Any) -> None:
    """Shows the policy as a whole: copies for shadows go first, then whoever is one too many is turned away
    at once with a time to come back, and whoever was let in is answered whole (ray#55473).
    """
    async with start_router(
        waiting_predictions=6, shadow_yields_to_predictions=3, calls_at_once=6
    ) as router:
        inference = router.peers.inference
        await router.create("slow", weights={4: 10_000})
        await router.create(shadows=[route_pb2.Shadow(version=2, basis_points=10_000)])
        gate = inference.gates.setdefault(4, asyncio.Event())
        held = [asyncio.create_task(router.predict("slow", inputs=GIVEN)) for _ in range(4)]
        await until(lambda: inference.asked[4] == 4)

        # Places are left: callers are answered, and shadows are not asked.
        served = await router.predict(inputs=GIVEN)
        await until(lambda: sample(router, DROPPED, route="flights", version="2", reason="LOADED"))
        assert not served.degradations

        held += [asyncio.create_task(router.predict("slow", inputs=GIVEN)) for _ in range(2)]
        await until(lambda: inference.asked[4] == 6)
        for _ in range(20):
            error = await failure(router.predict(inputs=GIVEN))
            assert error.reason is errors.Reason.OVERLOADED
            assert error.retry_after_seconds
        assert sample(router, "setpoint_router_refused_total", reason="OVERLOADED") == 20

        gate.set()
        for answer in await asyncio.gather(*held):
            assert answer.outputs["score"].double_value == 4e6 + 10.5
            assert not answer.degradations
        assert inference.asked[2] == 0
        await router.predict(inputs=GIVEN)
        await until(lambda: inference.asked[2] == 1)
    assert len(router.peers.ingest.ids) == 6 + 1 + 2


async def test_callers_who_hang_up_cost_no_replica(start_router: Any) -> None:
    """Shows that aborts are held against nobody: the only replica is neither left out nor loaded anew
    (pytorch/serve#1888, #3168, #1815).
    """
    async with start_router(inference_failures=2, calls_at_once=8) as router:
        await router.create()
        inference = router.peers.inference
        gate = inference.gates.setdefault(1, asyncio.Event())
        loaded = list(inference.loaded)
        for number in range(1, 5):
            call = router.stub.Predict(
                router_service_pb2.PredictRequest(route="flights", inputs=GIVEN), timeout=30
            )
            await until(functools.partial(has_asked, inference, number))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await until(lambda: not sample(router, REPLICA + "calls_in_flight", replica=True))
        gate.set()
        assert (await router.predict(inputs=GIVEN)).outputs["score"].double_value == 1e6 + 10.5
        assert sample(router, REPLICA + "ejections_total", replica=True) == 0
        assert sample(router, REPLICA + "failures_total", replica=True) == 0
        assert inference.loaded == loaded
