import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]  # no annotations
    health_pb2,
    health_pb2_grpc,
)

from setpoint_rpc import channel, health, server, testing

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_READINESS_NAMES = ["", "readiness", testing.SERVICE]


async def _echo(request: bytes, _: Any) -> bytes:
    return request


@asynccontextmanager
async def _started() -> AsyncIterator[tuple[server.Server, Any]]:
    """Starts a server that is not ready, with a health stub beside it."""
    built = server.Server("example")
    built.add(testing.registering(testing.unary("Echo", _echo)), object(), testing.SERVICE)
    await built.start()
    try:
        async with grpc.aio.insecure_channel(built.address) as bare:
            yield built, health_pb2_grpc.HealthStub(bare)
    finally:
        await built.stop(0.5)


async def _check(stub: Any, name: str) -> int:
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)
    return int(answer.status)


@pytest.mark.parametrize("name", _READINESS_NAMES)
async def test_readiness_follows_server(name: str) -> None:
    """The empty name and each service say NOT_SERVING until ready and again in the drain."""
    async with _started() as (built, stub):
        assert await _check(stub, name) == _NOT_SERVING
        await built.set_ready(True)
        assert await _check(stub, name) == _SERVING
        await built.set_ready(False)
        assert await _check(stub, name) == _NOT_SERVING
        await built.set_ready(True)
        await built.drain()
        assert await _check(stub, name) == _NOT_SERVING
        await built.set_ready(True)
        assert await _check(stub, name) == _NOT_SERVING


async def test_liveness_needs_no_readiness() -> None:
    """A process that waits for something is alive; restarting it would not help."""
    async with _started() as (_, stub):
        assert await _check(stub, health.LIVENESS) == _SERVING


async def test_startup_stays_after_first_readiness() -> None:
    """Start-up is over once and for all with the first readiness."""
    async with _started() as (built, stub):
        assert await _check(stub, health.STARTUP) == _NOT_SERVING
        await built.set_ready(True)
        await built.set_ready(False)
        assert await _check(stub, health.STARTUP) == _SERVING


async def test_unknown_name_is_not_found() -> None:
    """Asking for a service that is not here is an error, as the protocol wants it."""
    async with _started() as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _check(stub, "setpoint.nothing.v1.NothingService")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_tells_each_change_and_ends_with_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Watchers see every change at once, not at the next look, and do not hold up the stop."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 3_600.0)
    async with _started() as (built, stub):
        call = stub.Watch(health_pb2.HealthCheckRequest(service=testing.SERVICE), timeout=60)
        seen = [(await call.read()).status]
        async with asyncio.timeout(30):
            await built.set_ready(True)
            seen.append((await call.read()).status)
            await built.drain()
            seen.append((await call.read()).status)
            assert await call.read() is grpc.aio.EOF

    assert seen == [_NOT_SERVING, _SERVING, _NOT_SERVING]


async def test_parts_of_the_server_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part that comes and goes is told by its name, and serves only while the server does."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.01)
    parts = {"a/1": True, "b/2": False}
    async with _started() as (built, stub):
        built.health.add_parts(parts.get)
        assert await _check(stub, "a/1") == _NOT_SERVING
        await built.set_ready(True)
        assert await _check(stub, "a/1") == _SERVING
        assert await _check(stub, "b/2") == _NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _check(stub, "c/3")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="b/2"), timeout=20)
        told = [(await watch.read()).status]
        parts["b/2"] = True
        told.append((await watch.read()).status)
        del parts["b/2"]
        told.append((await watch.read()).status)
        assert told == [_NOT_SERVING, _SERVING, _UNKNOWN]
        watch.cancel()


async def test_watch_of_unknown_name_says_so() -> None:
    """The protocol answers a watch of an unknown service instead of refusing it."""
    async with _started() as (_, stub):
        call = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
        assert (await call.read()).status == _UNKNOWN
        call.cancel()


async def test_frozen_watcher_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that does not read delays neither the next change nor the others."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 3_600.0)
    async with _started() as (built, stub):
        request = health_pb2.HealthCheckRequest(service="")
        frozen = stub.Watch(request, timeout=60)
        other = stub.Watch(request, timeout=60)
        await other.read()
        async with asyncio.timeout(30):
            for ready in (True, False, True):
                await built.set_ready(ready)
                await other.read()
        frozen.cancel()
        other.cancel()


async def test_channel_avoids_server_that_is_not_ready() -> None:
    """Calls fail fast while the server says NOT_SERVING and go through once it serves."""
    async with (
        _started() as (built, _),
        channel.connect(built.address, client="tester") as opened,
    ):
        multicallable = opened.unary_unary(testing.path("Echo"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallable(b"x")
        await built.set_ready(True)
        assert await multicallable(b"x", wait_for_ready=True) == b"x"

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_starved_loop_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loop is late by two seconds, liveness says so."""
    async with _started() as (built, stub):
        monkeypatch.setattr(built._lag, "seconds", lambda: 2.0)
        assert await _check(stub, health.LIVENESS) == _NOT_SERVING
