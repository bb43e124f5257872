import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint_rpc import channel, context, handlers, server, testing
from setpoint_runtime import errors


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def test_call_with_too_little_time_is_refused() -> None:
    """A call that has less than 20 ms left never reaches its handler."""
    reached = False

    async def work(request: bytes, _: Any) -> bytes:
        nonlocal reached
        reached = True
        return request

    async with testing.serve_and_connect(testing.unary("Work", work)) as opened:
        multicallable = opened.unary_unary(testing.path("Work"))
        await multicallable(b"")
        reached = False
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallable(b"", timeout=handlers.MINIMUM_SECONDS * 0.9)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not reached


async def test_expired_deadline_is_typed() -> None:
    """However a deadline ends a call, its caller gets the same type and reason."""

    async def slow(request: bytes, _: Any) -> bytes:
        await asyncio.sleep(5)
        return request

    async with testing.serve_and_connect(testing.unary("Slow", slow)) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(testing.path("Slow"))(b"", timeout=0.1)

    error = channel.from_rpc_error(caught.value)
    assert type(error) is errors.DeadlineExceededError
    assert error.reason is errors.Reason.DEADLINE_EXCEEDED


async def test_call_without_deadline_gets_default() -> None:
    """A caller that would wait for ever is answered when the default time is over."""
    cancelled = asyncio.Event()

    async def hang(request: bytes, _: Any) -> bytes:
        assert context.remaining_seconds() is not None
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return request

    options = server.ServerOptions(default_deadline_seconds=0.1)
    async with (
        testing.serve(testing.unary("Hang", hang), options) as served,
        grpc.aio.insecure_channel(served.address) as bare,
    ):
        multicallable: Any = bare.unary_unary(testing.path("Hang"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallable(b"")

    assert channel.from_rpc_error(caught.value).reason is errors.Reason.DEADLINE_EXCEEDED
    assert "0.1 s" in (caught.value.details() or "")
    assert cancelled.is_set()


async def test_timeout_of_handler_is_no_deadline() -> None:
    """A TimeoutError from inside a handler is not mistaken for the call's own deadline."""

    async def fail(request: bytes, _: Any) -> bytes:
        raise TimeoutError("database")

    async with (
        testing.serve(testing.unary("Fail", fail)) as served,
        grpc.aio.insecure_channel(served.address) as bare,
    ):
        multicallable: Any = bare.unary_unary(testing.path("Fail"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallable(b"")

    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_stream_without_deadline_has_none() -> None:
    """A stream of answers may take as long as its receiver likes."""
    seen: list[float | None] = []

    async def stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        seen.append(context.remaining_seconds())
        await asyncio.sleep(0.2)
        yield request

    options = server.ServerOptions(default_deadline_seconds=0.05)
    async with (
        testing.serve(testing.streaming("Stream", stream), options) as served,
        grpc.aio.insecure_channel(served.address) as bare,
    ):
        multicallable: Any = bare.unary_stream(testing.path("Stream"))
        assert [answer async for answer in multicallable(b"x")] == [b"x"]

    assert seen == [None]


async def test_deadline_travels_and_shrinks() -> None:
    """Through two hops each server has at least 20 ms less than the one before."""
    seen: dict[str, float] = {}

    def note(name: str) -> None:
        remaining = context.remaining_seconds()
        assert remaining is not None
        seen[name] = remaining

    async def last(request: bytes, _: Any) -> bytes:
        note("last")
        return request

    async with testing.serve_and_connect(testing.unary("Last", last)) as to_last:

        async def middle(request: bytes, _: Any) -> bytes:
            note("middle")
            answer: bytes = await to_last.unary_unary(testing.path("Last"))(request, timeout=60)
            return answer

        async with testing.serve_and_connect(testing.unary("Middle", middle)) as to_middle:

            async def first(request: bytes, _: Any) -> bytes:
                note("first")
                answer: bytes = await to_middle.unary_unary(testing.path("Middle"))(request)
                return answer

            async with testing.serve_and_connect(testing.unary("First", first)) as opened:
                await opened.unary_unary(testing.path("First"))(b"", timeout=1)

    assert seen["first"] <= 1.01
    assert seen["middle"] <= seen["first"] - 0.015
    assert seen["last"] <= seen["middle"] - 0.015
    assert seen["last"] > 0.5


async def test_call_on_spent_time_fails_without_waiting() -> None:
    """When less than 20 ms are left, the next hop is not tried at all."""
    inner_calls = 0

    async def inner(request: bytes, _: Any) -> bytes:
        nonlocal inner_calls
        inner_calls += 1
        return request

    async with testing.serve_and_connect(testing.unary("Inner", inner)) as to_inner:
        await to_inner.unary_unary(testing.path("Inner"))(b"")

        async def outer(request: bytes, _: Any) -> bytes:
            remaining = context.remaining_seconds()
            assert remaining is not None
            await asyncio.sleep(max(0.0, remaining - 0.015))
            answer: bytes = await to_inner.unary_unary(testing.path("Inner"))(request)
            return answer

        async with testing.serve_and_connect(testing.unary("Outer", outer)) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await opened.unary_unary(testing.path("Outer"))(b"", timeout=0.2)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert inner_calls == 1
