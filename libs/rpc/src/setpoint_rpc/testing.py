"""For tests of this library: a service without contract, whose messages are bytes."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc

from setpoint_rpc import channel
from setpoint_rpc import server as servers
from setpoint_runtime import errors

SERVICE = "setpoint.test.v1.TestService"

_GRACE_SECONDS = 0.5

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


def path(method: str) -> str:
    """Return the full path of a method of the test service."""
    return f"/{SERVICE}/{method}"


def unary(method: str, behaviour: Callable[[Any, Any], Any]) -> Handlers:
    """Return a method with one request and one answer, as the only one of a service."""
    return {method: grpc.unary_unary_rpc_method_handler(behaviour)}


def streaming(method: str, behaviour: Callable[[Any, Any], Any]) -> Handlers:
    """Return a method with one request and many answers, as the only one of a service."""
    return {method: grpc.unary_stream_rpc_method_handler(behaviour)}


def registering(handlers: Handlers, service: str = SERVICE) -> Callable[[Any, Any], None]:
    """Return what generated code would call `add_TestServiceServicer_to_server`."""

    def add(_: object, server: Any) -> None:
        generic = grpc.method_handlers_generic_handler(service, dict(handlers))
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(service, handlers)

    return add


@contextlib.asynccontextmanager
async def serve(
    handlers: Handlers,
    options: servers.ServerOptions | None = None,
    *,
    service: str = SERVICE,
    watch_methods: frozenset[str] = frozenset(),
    untraced_methods: frozenset[str] = frozenset(),
    doors: Mapping[str, Callable[[int], errors.SetpointError | None]] = MappingProxyType({}),
) -> AsyncIterator[servers.Server]:
    """Serve handlers on a free port, ready when the block begins."""
    server = servers.Server("example", options)
    server.add(
        registering(handlers, service),
        object(),
        service,
        watch_methods=watch_methods,
        untraced_methods=untraced_methods,
        doors=doors,
    )
    await server.start()
    try:
        await server.set_ready(True)
        yield server
    finally:
        await server.stop(_GRACE_SECONDS)


@contextlib.asynccontextmanager
async def serve_and_connect(
    handlers: Handlers, options: servers.ServerOptions | None = None
) -> AsyncIterator[channel.Channel]:
    """Serve handlers and open a channel of this library to them."""
    async with (
        serve(handlers, options) as server,
        channel.connect(server.address, client="tester") as opened,
    ):
        yield opened
