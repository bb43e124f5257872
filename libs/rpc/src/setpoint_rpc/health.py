"""The standard health service, answered by the serving loop.

Written anew rather than taken from grpcio-health-checking, whose servicer says SERVING from the
start, lets one slow watcher hold up every change, and whose watches never end, so that a graceful
stop would wait for them until its grace is over.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no annotations

from setpoint_runtime import errors

SERVICE = "grpc.health.v1.Health"
LIVENESS = "liveness"
READINESS = "readiness"
STARTUP = "startup"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# Liveness changes without an event when the loop lags, and parts change by themselves; watchers look
# again this often.
_LOOK_SECONDS = 1.0


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the base is untyped
    """Says whether the process lives, has started, and may be given work.

    The empty name and the name of every service mirror readiness, because clients that balance
    load ask for those.
    """

    def __init__(self, is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._services = {"", READINESS}
        self._find: Callable[[str], bool | None] = lambda _: None
        self._has_started = False
        self._is_closed = False
        self.is_ready = False
        self._changed = asyncio.Event()

    def add(self, service: str) -> None:
        """Answer for a further service."""
        self._services.add(service)

    def add_parts(self, find: Callable[[str], bool | None]) -> None:
        """Answer for parts of the server that come and go under names of their own.

        Args:
            find: Says of a name whether that part may be given work, None when there is no such part.
        """
        self._find = find

    def set_ready(self, is_ready: bool) -> None:
        """Say whether work may be given; once closed it stays refused."""
        self.is_ready = is_ready and not self._is_closed
        self._has_started = self._has_started or self.is_ready
        self._notify()

    def close(self) -> None:
        """Refuse work for good; watchers are told so and their streams end."""
        self._is_closed = True
        self.is_ready = False
        self._notify()

    async def Check(self, request: Any, context: Any) -> Any:
        """Answer once; an unknown service is NOT_FOUND."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise errors.NotFoundError(
                errors.Reason.UNKNOWN_FIELD, "the server has no such service"
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer now and after each change, until the server stops."""
        last: int | None = None
        while True:
            # Both are read before the answer is sent, which takes as long as its receiver likes.
            changed, is_last = self._changed, self._is_closed
            status = self._status(request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            if is_last:
                return
            await self._next_change(changed)

    async def _next_change(self, changed: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await changed.wait()
        except TimeoutError:
            return

    def _status(self, service: str) -> int:
        if service in self._services:
            return int(_SERVING if self.is_ready else _NOT_SERVING)
        if service == LIVENESS:
            return int(_SERVING if self._is_alive() else _NOT_SERVING)
        if service == STARTUP:
            return int(_SERVING if self._has_started else _NOT_SERVING)
        found = self._find(service)
        if found is None:
            return int(_UNKNOWN)
        return int(_SERVING if found and self.is_ready else _NOT_SERVING)

    def _notify(self) -> None:
        # Each change has an event of its own, so that a watcher that is slow misses none.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
