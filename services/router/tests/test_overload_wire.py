"""Overload over the wire: refusals are told at once, before anything is read."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
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
