"""A service inside the test's own process, behind a real gRPC server on loopback."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from unittest import mock

from setpoint_runtime import clock as clocks
from setpoint_runtime import settings as service_settings

if TYPE_CHECKING:
    from setpoint_rpc import server as rpc_server

SettingsT = TypeVar("SettingsT", bound=service_settings.ServiceSettings)
SettingsContraT = TypeVar(
    "SettingsContraT", bound=service_settings.ServiceSettings, contravariant=True
)
GRACE_SECONDS = 1.0
CALL_SECONDS = 30.0
"""Time of calls that name none while anything is served: how long a busy machine takes is no matter
of tests, and those of deadlines name one."""


class Build(Protocol[SettingsContraT]):
    """The type of a service's `wiring.build`."""

    def __call__(
        self,
        settings: SettingsContraT,
        server: "rpc_server.Server",
        clock: clocks.Clock,
        /,
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Builds the service for the length of a block."""


class Serve(Protocol):
    """The type of the `serve` fixture."""

    def __call__(
        self, build: Build[SettingsT], settings: SettingsT, *, clock: clocks.Clock | None = None
    ) -> contextlib.AbstractAsyncContextManager["rpc_server.Server"]:
        """Runs a service for the length of a block."""


@contextlib.asynccontextmanager
async def serve(
    build: Build[SettingsT], settings: SettingsT, *, clock: clocks.Clock | None = None
) -> AsyncIterator["rpc_server.Server"]:
    """Runs a service's wiring behind a server on a free port, ready when the block begins.

    Args:
        build: the service's `wiring.build`.
        settings: its settings; host, ports and the times of stopping are replaced.
        clock: the service's clock; the system's by default.
    """
    # Imported here, so that members that know nothing of gRPC are tested without it.
    from setpoint_rpc import run

    local = settings.model_copy(
        update={
            "host": "127.0.0.1",
            "port": 0,
            "metrics_port": 0,
            "drain_seconds": 0.0,
            "grace_seconds": GRACE_SECONDS,
        }
    )
    with _PATIENCE:
        async with run.serving(_name(settings), local, build, clock) as server:
            yield server


class _Patience:
    """Replaces the default times of calls for as long as anything is served, whatever ends first."""

    def __init__(self) -> None:
        self._served = 0
        self._replaced = contextlib.ExitStack()

    def __enter__(self) -> None:
        from setpoint_rpc import channel

        if not self._served:
            times: dict[str, Any] = {"METHOD_SECONDS": {}, "SERVICE_SECONDS": {}}
            times["DEFAULT_SECONDS"] = CALL_SECONDS
            self._replaced.enter_context(mock.patch.multiple(channel, **times))
        self._served += 1

    def __exit__(self, *_: object) -> None:
        self._served -= 1
        if not self._served:
            self._replaced.close()


_PATIENCE = _Patience()


def _name(settings: service_settings.ServiceSettings) -> str:
    """Returns the service's short name, by the package of its settings."""
    package = type(settings).__module__.partition(".")[0]
    return package.removeprefix("setpoint_")
