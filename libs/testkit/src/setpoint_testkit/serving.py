"""A service inside the test's own process, behind a real gRPC server on loopback."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from setpoint_runtime import clock as clocks
from setpoint_runtime import settings as service_settings

if TYPE_CHECKING:
    from setpoint_rpc import server as rpc_server

SettingsT = TypeVar("SettingsT", bound=service_settings.ServiceSettings)
Build = Callable[
    [SettingsT, "rpc_server.Server", clocks.Clock], contextlib.AbstractAsyncContextManager[None]
]


class Serve(Protocol):
    """The type of the `serve` fixture."""

    def __call__(
        self,
        build: Build[SettingsT],
        settings: SettingsT,
        *,
        clock: clocks.Clock | None = None,
    ) -> contextlib.AbstractAsyncContextManager["rpc_server.Server"]:
        """Runs a service for the length of a block."""


@contextlib.asynccontextmanager
async def serve(
    build: Build[SettingsT],
    settings: SettingsT,
    *,
    clock: clocks.Clock | None = None,
    grace_seconds: float = 1.0,
) -> AsyncIterator["rpc_server.Server"]:
    """Runs a service's wiring behind a server on a free port, ready when the block begins.

    Args:
        build: the service's `wiring.build`.
        settings: its settings; host and ports are replaced.
        clock: the service's clock; the system's by default.
        grace_seconds: how long calls in flight may take when the block ends.
    """
    # Imported here, so that members that know nothing of gRPC can be tested without it.
    from setpoint_rpc import server as rpc_server

    clock = clock or clocks.SystemClock()
    server = rpc_server.Server(
        type(settings).__module__.split(".")[0],
        rpc_server.ServerOptions(host="127.0.0.1", port=0, metrics_port=None),
        clock,
    )
    async with build(settings, server, clock):
        await server.start()
        try:
            await server.set_ready(True)
            yield server
        finally:
            await server.stop(grace_seconds)
