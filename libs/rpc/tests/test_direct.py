"""Calls through a connection of our own, beside the same calls through gRPC core."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from libs.rpc.tests import test_tls

from setpoint_rpc import channel, context, server, testing
from setpoint_runtime import errors

SERVICE = "setpoint.inference.v1.InferenceService"
PATH = f"/{SERVICE}/Predict"
WAIT_SECONDS = 20.0


@contextlib.asynccontextmanager
async def connected(
    behaviour: Any, options: server.ServerOptions | None = None, **asked: Any
) -> AsyncIterator[tuple[Any, channel.Channel, server.Server]]:
    """Serves the method and yields its callable once our own connection stands."""
    handlers = testing.unary("Predict", behaviour)
    async with (
        testing.serve(handlers, options, service=SERVICE) as served,
        channel.connect(served.address, client="tester", **asked) as opened,
    ):
        call = opened.unary_unary(PATH)
        await stands(opened, call)
        yield call, opened, served


async def stands(opened: channel.Channel, call: Any) -> None:
    """Waits until calls go through our own connection."""
    assert opened._direct is not None
    async with asyncio.timeout(WAIT_SECONDS):
        while opened._direct._connection is None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call(b"first", timeout=5)
            await asyncio.sleep(0.001)


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def test_answers_whatever_fits() -> None:
    """Small and large messages come back as they were, many at once and in any order."""

    async def echo(request: bytes, _: Any) -> bytes:
        await asyncio.sleep(len(request) % 7 / 1000)
        return request

    async with connected(echo) as (call, _, _):
        sent = [bytes((size % 251,)) * size for size in (0, 1, 7, 16_384, 70_000, 200_000) * 20]
        assert await asyncio.gather(*(call(each, timeout=20) for each in sent)) == sent
        largest = b"x" * (4 * 1024 * 1024 - 1)
        assert await call(largest, timeout=20) == largest


async def test_header_blocks_of_many_methods() -> None:
    """The table that both sides share stays right while new methods come to it."""
    seen: list[str] = []

    async def note(request: bytes, call: Any) -> bytes:
        seen.append(dict(call.invocation_metadata())["x-number"])
        return request

    async with connected(note) as (_, opened, _):
        connection = opened._direct and opened._direct._connection
        assert connection is not None
        seen.clear()
        known = 0
        for number in range(60):
            extra = (("x-number", str(number)),)
            path = PATH if number % 3 else f"/{SERVICE}/Unknown{number}"
            answer = connection.ask(path, b"", 5.0, extra, bytes)
            assert answer is not None
            if number % 3:
                known += 1
                assert await answer == b""
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await answer
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert seen == [str(number) for number in range(60) if number % 3]


async def test_errors_are_those_of_core() -> None:
    """Code, text, details and metadata are the same through both."""

    async def fail(request: bytes, _: Any) -> bytes:
        raise errors.InvalidArgumentError(
            errors.Reason.WRONG_TYPE,
            "naïve 100 %",
            violations=[errors.FieldViolation("rows.x", "must be a number")],
            metadata={"a": "b"},
        )

    async with connected(fail) as (call, opened, _):
        through_core: Any = opened._inner.unary_unary(PATH)
        told = []
        for each in (call, through_core):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await each(b"x", timeout=5)
            error = channel.from_rpc_error(caught.value)
            trailing = dict(caught.value.trailing_metadata() or ())
            told.append((caught.value.code(), caught.value.details(), trailing, error.violations))
        assert told[0] == told[1]


async def test_context_travels() -> None:
    """Caller, trace, metadata and deadline arrive; a trace that is given is kept."""
    seen: list[tuple[str | None, str | None, float | None, Mapping[str, Any]]] = []

    async def note(request: bytes, call: Any) -> bytes:
        found = dict(call.invocation_metadata())
        remaining = context.remaining_seconds()
        seen.append((context.caller(), context.traceparent(), remaining, found))
        return request

    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with connected(note) as (call, _, _):
        seen.clear()
        await call(b"", timeout=7, metadata=(("traceparent", trace), ("raw-bin", b"\0\xff")))
    caller, traceparent, remaining, found = seen[0]
    assert (caller, traceparent, found["raw-bin"]) == ("tester", trace, b"\0\xff")
    assert remaining is not None
    assert 5 < remaining <= 7


async def test_deadline_and_cancel_end_the_handler() -> None:
    """Whoever stops waiting, by time or by will, is not worked for any longer."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def hang(request: bytes, _: Any) -> bytes:
        if request == b"first":
            return request
        begun.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait(None)
        return request

    async with connected(hang) as (call, _, _), asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"x", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended.get()
        await begun.get()
        waiting = asyncio.ensure_future(call(b"x", timeout=60))
        await begun.get()
        waiting.cancel()
        await ended.get()
        assert await call(b"first", timeout=5) == b"first"


async def test_lost_connection_is_told_to_replicas_and_repeated_for_others() -> None:
    """A channel among replicas hears UNAVAILABLE; one that stands alone makes the call again."""
    begun = asyncio.Event()
    calls = 0

    async def hang_once(request: bytes, _: Any) -> bytes:
        nonlocal calls
        if request == b"first":
            return request
        calls += 1
        if calls == 1:
            begun.set()
            await asyncio.Event().wait()
        return request

    for is_replica in (True, False):
        begun.clear()
        calls = 0
        async with connected(hang_once, is_replica=is_replica) as (call, opened, _):
            waiting = asyncio.ensure_future(call(b"x", timeout=20))
            await begun.wait()
            assert opened._direct is not None
            connection = opened._direct._connection
            assert connection is not None
            assert connection._transport is not None
            connection._transport.abort()
            if is_replica:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await waiting
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            else:
                assert await waiting == b"x"
            assert await call(b"again", timeout=20) == b"again"
            await stands(opened, call)


async def test_handlers_unavailable_is_not_repeated() -> None:
    """A handler that says UNAVAILABLE has tried; the call is made once."""
    calls = 0

    async def fail(request: bytes, _: Any) -> bytes:
        nonlocal calls
        if request == b"first":
            return request
        calls += 1
        raise errors.UnavailableError(errors.Reason.UNAVAILABLE, "no")

    async with connected(fail) as (call, _, _):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"x", timeout=5)
    assert calls == 1


async def test_renewed_connections_lose_no_call() -> None:
    """Calls go on while the server lets every connection reach its age at once."""
    options = server.ServerOptions(maximum_connection_age_seconds=0.05)
    async with connected(_echo, options) as (call, _, _):

        async def caller() -> None:
            for number in range(150):
                assert await call(b"%d" % number, timeout=20) == b"%d" % number

        await asyncio.gather(*(caller() for _ in range(8)))


async def test_stopped_server_is_unavailable_and_found_again() -> None:
    """Without a server calls fail as core has it; with one on the same port they go through again."""
    handlers = testing.unary("Predict", _echo)
    async with testing.serve(handlers, service=SERVICE) as first:
        port = first.port
        opened = channel.connect(first.address, client="tester")
        call = opened.unary_unary(PATH)
        await stands(opened, call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"x", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with testing.serve(handlers, server.ServerOptions(port=port), service=SERVICE):
        await stands(opened, call)
        assert await call(b"x", timeout=5) == b"x"
    await opened.close()


async def test_server_of_others_is_called_as_well() -> None:
    """The rules are those of HTTP/2, not of our own server."""
    served = grpc.aio.server()
    generic = grpc.method_handlers_generic_handler(SERVICE, dict(testing.unary("Predict", _echo)))
    served.add_generic_rpc_handlers((generic,))
    port = served.add_insecure_port("127.0.0.1:0")
    await served.start()
    async with channel.connect(f"127.0.0.1:{port}", client="tester", is_replica=True) as opened:
        call = opened.unary_unary(PATH)
        await stands(opened, call)
        for size in (0, 10, 60_000, 300_000):
            assert await call(b"x" * size, timeout=10) == b"x" * size
    await served.stop(0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates need openssl")
async def test_over_tls(tmp_path: Path) -> None:
    """With certificates the connection is as secret as core's, and the server knows who calls."""

    async def whom(request: bytes, call: Any) -> bytes:
        names: list[bytes] = call.auth_context()["x509_common_name"]
        return b",".join(names)

    authority = test_tls.Authority(tmp_path / "authority")
    options = server.ServerOptions(identity=authority.issue("router", "DNS:router.example"))
    asked = {"identity": authority.issue("caller"), "authority": "router.example"}
    async with connected(whom, options, **asked) as (call, _, _):
        assert await call(b"", timeout=5) == b"caller"


@pytest.mark.parametrize(
    ("target", "is_direct"),
    [
        ("127.0.0.1:7400", True),
        ("[::1]:7400", True),
        ("localhost:7400", True),
        ("feature:7400", False),
        ("dns:///feature:7400", False),
        ("127.0.0.1:7400,127.0.0.1:7401", False),
        ("unix:/tmp/socket", False),
    ],
)
async def test_only_one_address_is_called_directly(target: str, *, is_direct: bool) -> None:
    """Names may stand for several servers, among which core divides the calls."""
    async with channel.connect(target, client="tester") as opened:
        assert (opened._direct is not None) is is_direct


async def test_close_gives_calls_their_grace() -> None:
    """Calls in flight end well within the grace, and at once without one."""
    release = asyncio.Event()
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def wait(request: bytes, _: Any) -> bytes:
        if request != b"first":
            begun.put_nowait(None)
            await release.wait()
        return request

    async with connected(wait) as (call, opened, served):
        waiting = asyncio.ensure_future(call(b"x", timeout=20))
        await begun.get()
        closing = asyncio.ensure_future(opened.close(10))
        await asyncio.sleep(0)
        release.set()
        assert await waiting == b"x"
        await closing
        release.clear()
        async with channel.connect(served.address, client="tester", is_replica=True) as other:
            call = other.unary_unary(PATH)
            await stands(other, call)
            waiting = asyncio.ensure_future(call(b"x", timeout=20))
            await begun.get()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.CANCELLED
