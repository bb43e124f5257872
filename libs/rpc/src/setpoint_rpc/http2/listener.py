"""Takes connections, serves their calls, and lets both end in order."""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable

from setpoint_rpc.http2 import calling, endpoints, headers
from setpoint_rpc.http2.connection import Connection
from setpoint_rpc.http2.frames import ErrorCode
from setpoint_runtime import errors

MAXIMUM_CONNECTIONS = 1000
"""The protection against floods of connections (CVE-2023-4785)."""

_BACKLOG = 1024
# Read at once from a connection: some hundred small calls. With more of them a turn of the loop would
# take so long that refusals come late.
_READ_BYTES = 16 * 1024
_LOOK_SECONDS = 1.0
_HANDSHAKE_SECONDS = 10.0
_AGE_SPREAD = 0.1
# After the grace, for handlers to notice that they are cancelled.
_LAST_SECONDS = 1.0
_STOP_LOOK_SECONDS = 0.01

Find = Callable[[str, int], "endpoints.Endpoint | endpoints.Refusal | None"]


class Listener:
    """All connections of a server."""

    def __init__(
        self,
        find: Find,
        *,
        maximum_message: int,
        maximum_age_seconds: float,
        age_grace_seconds: float,
    ) -> None:
        """Prepare to serve in the running loop.

        Args:
            find: Finds by its path how a method is served, None when there is no such method; told
                how many handlers are about to begin, which nobody but the listener knows of.
            maximum_message: Bytes of the longest message, either way.
            maximum_age_seconds: Connections are renewed this often, give or take a tenth.
            age_grace_seconds: Time for calls on a connection that has reached its age.
        """
        self.loop = asyncio.get_running_loop()
        self.maximum_message = maximum_message
        self.running: set[calling.Call] = set()
        """Calls whose handlers have not ended, also when the calls are over."""
        self.buffer = memoryview(bytearray(_READ_BYTES))
        """Where connections read to, each for one moment."""
        self.beginning = 0
        """Of those, the ones whose handlers have not had their first turn."""
        self.cancelled = 0
        """Of those, the ones that nobody waits for any more."""
        self._find = find
        self._maximum_age_seconds = maximum_age_seconds
        self._age_grace_seconds = age_grace_seconds
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._is_stopping = False
        self._looking: asyncio.TimerHandle | None = None
        self._grace_ends = float("inf")
        self._stopping: asyncio.Task[None] | None = None

    async def bind(self, host: str, port: int) -> int:
        """Take a port of every address of a host; who connects waits until `start`.

        Returns:
            The port, which the system has chosen where 0 was asked for.

        Raises:
            OSError: The port is taken, or the host is not of this machine.
        """
        found = await self.loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        refused: OSError | None = None
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                opened = _listening(family, (address[0], port, *address[2:]))
            except OSError as error:
                if port:
                    # The same port on another address of the host may be somebody else's.
                    self._close_sockets()
                    raise
                refused = error
                continue
            self._sockets.append(opened)
            port = port or opened.getsockname()[1]
        if not self._sockets:
            raise refused or OSError(f"{host} has no address")
        return port

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Begin to serve, over TLS where a context is given."""
        for each in self._sockets:
            self._servers.append(
                await self.loop.create_server(
                    lambda: Connection(self),
                    sock=each,
                    backlog=_BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=None if context is None else _HANDSHAKE_SECONDS,
                )
            )
        self._sockets.clear()
        self._look()

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, wait for those that are here, end what is left after the grace.

        A second call with less grace shortens the wait of the first.
        """
        self._grace_ends = min(self._grace_ends, self.loop.time() + grace_seconds)
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="stop listening")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._is_stopping = True
        self._close_sockets()
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.refuse_calls()
        await self._no_calls()
        for connection in tuple(self._connections):
            connection.end_calls()
        self._grace_ends = self.loop.time() + _LAST_SECONDS
        await self._no_calls()
        for connection in tuple(self._connections):
            connection.close(ErrorCode.NO_ERROR)
        # Clients read what is left before they hang up.
        self._grace_ends = self.loop.time() + _LAST_SECONDS
        await self._until(lambda: not self._connections)
        for connection in tuple(self._connections):
            connection.abort()
        if self._looking is not None:
            self._looking.cancel()

    async def _no_calls(self) -> None:
        """Wait until no handler runs and no answer waits, or the grace is over."""
        await self._until(
            lambda: not self.running and not any(each.calls for each in self._connections)
        )

    async def _until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            left = self._grace_ends - self.loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _STOP_LOOK_SECONDS))

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    # What connections ask.

    def welcome(self, connection: Connection) -> bool:
        """Take in a connection; say whether there is room for it."""
        if self._is_stopping or len(self._connections) >= MAXIMUM_CONNECTIONS:
            return False
        self._connections.add(connection)
        spread = random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311  # no secret
        connection.age(self._maximum_age_seconds * spread, self._age_grace_seconds)
        return True

    def farewell(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)

    def find(self, head: headers.Head) -> "endpoints.Endpoint | endpoints.Refusal":
        """Return how a call is served, or what it is answered at once."""
        if head.http_status != _OK:
            return _plain_refusal(head.http_status)
        if head.is_oversized:
            return _TOO_MUCH_METADATA
        if head.problem:
            problem = errors.InvalidArgumentError(errors.Reason.INVALID_FIELD, head.problem)
            return endpoints.Refusal.of(problem, _unobserved)
        return self._find(head.method, self.beginning) or _NO_METHOD

    def _look(self) -> None:
        now = self.loop.time()
        for connection in tuple(self._connections):
            connection.look(now)
        self._looking = self.loop.call_later(_LOOK_SECONDS, self._look)


def _listening(family: int, address: tuple[object, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        opened.bind(address)
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def _unobserved() -> None:
    """Calls of no method have no statistics."""


def _plain_refusal(http_status: int) -> endpoints.Refusal:
    return endpoints.Refusal(headers.plain_response(http_status), _unobserved)


_OK = 200
_NO_METHOD_ERROR = errors.UnimplementedError(errors.Reason.UNIMPLEMENTED, "Method not found!")
_NO_METHOD = endpoints.Refusal.of(_NO_METHOD_ERROR, _unobserved)
_TOO_MUCH_METADATA = endpoints.Refusal.of(
    errors.ResourceExhaustedError(
        errors.Reason.MESSAGE_TOO_LARGE,
        f"metadata must be at most {headers.MAXIMUM_METADATA_BYTES} bytes",
    ),
    _unobserved,
)
