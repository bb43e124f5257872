import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # no annotations
    reflection_pb2,
    reflection_pb2_grpc,
)

from setpoint_rpc import channel, server, testing
from setpoint_runtime import errors, tasks
from setpoint_runtime import settings as runtime_settings


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def test_taken_port_names_setting() -> None:
    """A second server on the same port fails and says which setting to change."""
    async with testing.serve(testing.unary("Echo", _echo)) as first:
        second = server.Server("router", server.ServerOptions(port=first.port))
        with pytest.raises(server.StartError, match=rf"{first.port}.*SETPOINT_ROUTER_PORT"):
            await second.start()
        await second.stop(0)


async def test_taken_metrics_port_names_setting() -> None:
    """The same for the port of metrics and probes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = server.Server("router", server.ServerOptions(metrics_port=port))
        with pytest.raises(server.StartError, match=rf"{port}.*SETPOINT_ROUTER_METRICS_PORT"):
            await second.start()
        await second.stop(0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
async def test_beyond_loopback_without_tls_is_refused(host: str) -> None:
    """A server that others can reach is not started in the clear by accident."""
    with pytest.raises(server.StartError, match="SETPOINT_ROUTER_ALLOW_INSECURE_REMOTE"):
        server.Server("router", server.ServerOptions(host=host))


async def test_beyond_loopback_when_told_so() -> None:
    """Where the network is trusted, one setting permits it."""
    options = server.ServerOptions(host="0.0.0.0", allow_insecure_remote=True)
    built = server.Server("router", options)
    await built.start()
    assert built.port > 0
    await built.stop(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
async def test_loopback_needs_no_permission(host: str) -> None:
    """All spellings of this machine are this machine."""
    built = server.Server("router", server.ServerOptions(host=host))
    await built.start()
    assert built.address == f"{host}:{built.port}"
    await built.stop(0)


async def test_reflection_is_off_by_default() -> None:
    """Outside development the names inside are not told."""
    async with (
        testing.serve(testing.unary("Echo", _echo)) as served,
        grpc.aio.insecure_channel(served.address) as bare,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(bare)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.ServerReflectionInfo(iter((request,))):
                pass

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_lists_services_in_development() -> None:
    """With the switch a generic client finds what is served."""
    async with (
        testing.serve(testing.unary("Echo", _echo), server.ServerOptions(dev=True)) as served,
        grpc.aio.insecure_channel(served.address) as bare,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(bare)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter((request,)))]

    names = {service.name for service in answers[0].list_services_response.service}
    assert {testing.SERVICE, "grpc.health.v1.Health"} <= names


async def test_unknown_method_is_unimplemented() -> None:
    """A method that is not there is UNIMPLEMENTED, and typed so."""
    async with testing.serve_and_connect(testing.unary("Echo", _echo)) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(testing.path("Nothing"))(b"")

    assert channel.from_rpc_error(caught.value).reason is errors.Reason.UNIMPLEMENTED


async def test_generic_handlers_alone_are_found() -> None:
    """Older generated code, which only hands over a generic handler, is served and wrapped."""

    async def fail(request: bytes, _: Any) -> bytes:
        raise errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, "no run")

    def add(_: object, registrar: Any) -> None:
        made = testing.unary("Fail", fail)
        generic = grpc.method_handlers_generic_handler(testing.SERVICE, dict(made))
        registrar.add_generic_rpc_handlers((generic,))

    built = server.Server("example")
    built.add(add, object(), testing.SERVICE)
    await built.start()
    await built.set_ready(True)
    async with channel.connect(built.address, client="tester") as opened:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await opened.unary_unary(testing.path("Fail"))(b"")
            assert channel.from_rpc_error(caught.value).reason is errors.Reason.RUN_NOT_FOUND
    await built.stop(0)


async def test_stop_answers_calls_in_flight() -> None:
    """A call that began before the stop gets its answer; one that comes later does not."""
    begun = asyncio.Event()

    async def slow(request: bytes, _: Any) -> bytes:
        begun.set()
        await asyncio.sleep(0.3)
        return b"done"

    built = server.Server("example")
    built.add(testing.registering(testing.unary("Slow", slow)), object(), testing.SERVICE)
    await built.start()
    await built.set_ready(True)
    async with channel.connect(built.address, client="tester") as opened:
        multicallable = opened.unary_unary(testing.path("Slow"))
        early = asyncio.ensure_future(multicallable(b"", timeout=5))
        await begun.wait()
        stopping = asyncio.ensure_future(built.stop(5))
        await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multicallable(b"", timeout=30)
        assert await early == b"done"
        await stopping

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_cancels_what_outlasts_its_grace() -> None:
    """A call that does not end is cancelled when the grace is over, typed for its caller."""
    reached = asyncio.Event()

    async def hang(request: bytes, _: Any) -> bytes:
        reached.set()
        await asyncio.Event().wait()
        return request

    built = server.Server("example")
    built.add(testing.registering(testing.unary("Hang", hang)), object(), testing.SERVICE)
    await built.start()
    await built.set_ready(True)
    async with channel.connect(built.address, client="tester") as opened:
        call = asyncio.ensure_future(opened.unary_unary(testing.path("Hang"))(b"", timeout=300))
        await reached.wait()
        async with asyncio.timeout(30):
            await built.stop(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call

    assert type(channel.from_rpc_error(caught.value)) is errors.UnavailableError


async def test_second_stop_shortens_first() -> None:
    """A shorter grace given later holds."""
    reached = asyncio.Event()

    async def hang(request: bytes, _: Any) -> bytes:
        reached.set()
        await asyncio.Event().wait()
        return request

    built = server.Server("example")
    built.add(testing.registering(testing.unary("Hang", hang)), object(), testing.SERVICE)
    await built.start()
    await built.set_ready(True)
    async with channel.connect(built.address, client="tester") as opened:
        call = asyncio.ensure_future(opened.unary_unary(testing.path("Hang"))(b"", timeout=300))
        await reached.wait()
        async with asyncio.timeout(30):
            long = asyncio.ensure_future(built.stop(60))
            await asyncio.sleep(0.05)
            await built.stop(0.1)
            await long
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_drain_ends_watches_and_leaves_streams() -> None:
    """An endless stream is told to go elsewhere; one that will end is let end."""

    async def watch(request: bytes, _: Any) -> AsyncIterator[bytes]:
        yield b"now"
        await asyncio.Event().wait()

    async def finite(request: bytes, _: Any) -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.3)
        yield b"two"

    made = {**testing.streaming("Watch", watch), **testing.streaming("Finite", finite)}
    async with (
        testing.serve(made, watch_methods=frozenset({"Watch"})) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        watching = opened.unary_stream(testing.path("Watch"))(b"")
        assert await watching.read() == b"now"
        reading = opened.unary_stream(testing.path("Finite"))(b"")
        assert await reading.read() == b"one"
        async with asyncio.timeout(30):
            await served.drain()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watching.read()
        assert await reading.read() == b"two"

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert served.draining.is_set()


async def test_failed_task_asks_for_the_end() -> None:
    """A background task that dies is known to the server, by name and without its text."""

    async def die() -> None:
        raise RuntimeError("secret")

    built = server.Server("example")
    async with tasks.TaskOwner(built.task_failed) as owner:
        _ = owner.start("shipper", die())
        async with asyncio.timeout(30):
            await built.failed.wait()

    assert built.failure == "background task shipper died: RuntimeError"


async def test_bind_gives_address_before_start() -> None:
    """Wiring can tell others where this process will serve."""
    built = server.Server("example")
    await built.bind()
    port = built.port
    assert port > 0
    await built.start()
    assert built.port == port
    await built.stop(0)


async def test_stop_without_start_is_quiet() -> None:
    """A process that fails while wiring can stop what it has."""
    await server.Server("example").stop(0)
    bound = server.Server("example")
    await bound.bind()
    await bound.stop(0)


async def test_stream_outlives_age_of_its_connection() -> None:
    """What streams when its connection has reached its age goes on, as long as the settings say."""

    async def slowly(request: bytes, _: Any) -> AsyncIterator[bytes]:
        yield request
        await asyncio.sleep(0.5)
        yield request

    options = server.ServerOptions(
        metrics_port=None,
        maximum_connection_age_seconds=0.1,
        maximum_connection_age_grace_seconds=30.0,
    )
    async with testing.serve_and_connect(testing.streaming("Slowly", slowly), options) as opened:
        call = opened.unary_stream(f"/{testing.SERVICE}/Slowly")
        assert [answer async for answer in call(b"row")] == [b"row", b"row"]


def test_options_take_time_of_streams_from_settings() -> None:
    """A service whose calls take long says so in its settings."""
    settings = runtime_settings.ServiceSettings(port=0, stream_seconds=3_600.0)
    options = server.ServerOptions.from_settings(settings)
    assert options.maximum_connection_age_grace_seconds == 3_600.0
