"""Metrics and probes over HTTP, answered by the loop that serves.

A server in a thread of its own would go on saying "alive" while the serving loop is stuck.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_HEAD_BYTES = 8192
_HEAD_SECONDS = 5.0
_TEXT = "text/plain; charset=utf-8"
_LAG_PERIOD_SECONDS = 0.25
MAXIMUM_LAG_SECONDS = 2.0
"""A loop that is later than this does not count as alive."""


class LoopLag:
    """Measures how late the loop runs what is due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._due = self._loop.time()
        self._tick()

    def stop(self) -> None:
        """End measuring."""
        if self._timer is not None:
            self._timer.cancel()

    def seconds(self) -> float:
        """Return the last lag, or the present one when that is greater."""
        return max(self._last, self._loop.time() - self._due, 0.0)

    def is_alive(self) -> bool:
        """Say whether the loop keeps up."""
        return self.seconds() < MAXIMUM_LAG_SECONDS

    def _tick(self) -> None:
        now = self._loop.time()
        self._last = max(0.0, now - self._due)
        self._due = now + _LAG_PERIOD_SECONDS
        self._timer = self._loop.call_at(self._due, self._tick)


class ProbeServer:
    """Answers GET of /metrics, /livez and /readyz."""

    def __init__(
        self,
        registries: tuple[CollectorRegistry, ...],
        is_alive: Callable[[], bool],
        is_ready: Callable[[], bool],
    ) -> None:
        self._registries = registries
        self._is_alive = is_alive
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: The port is taken or the address is not of this machine.
        """
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=_HEAD_BYTES, reuse_port=False
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head)
                writer.write(_response(status, kind, body))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            # Whoever asked is gone or speaks no HTTP; there is nobody to tell.
            return
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> tuple[HTTPStatus, str, bytes]:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"
        if path == b"/livez":
            return _probe(self._is_alive())
        if path == b"/readyz":
            return _probe(self._is_ready())
        if path == b"/metrics":
            # Collecting reads files of /proc and may meet a slow collector; calls go on meanwhile.
            body = await asyncio.to_thread(self._metrics)
            return HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, body
        return HTTPStatus.NOT_FOUND, _TEXT, b"/metrics /livez /readyz\n"

    def _metrics(self) -> bytes:
        return b"".join(generate_latest(registry) for registry in self._registries)


def _probe(is_good: bool) -> tuple[HTTPStatus, str, bytes]:
    if is_good:
        return HTTPStatus.OK, _TEXT, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"no\n"


def _response(status: HTTPStatus, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
