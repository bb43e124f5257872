"""One connection to a Valkey server that carries the commands of all callers at once.

Commands go out as they come and replies come back in the same order, so a reply belongs to the command that
has waited longest. Whoever stops waiting leaves its place in the queue, which its reply finds empty; no
reply can reach another caller. This costs a fraction of a pool of connections with one command on each.
"""

import asyncio
import ssl
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import hiredis

SINGLE_SCHEMES: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
CLUSTER_SCHEMES: Final = {f"{scheme}+cluster": tls for scheme, tls in SINGLE_SCHEMES.items()}
_PORT: Final = 6379
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SMALL_BYTES: Final = 8_192
_MORE: Final = object()

ReplyError = hiredis.ReplyError
Command = tuple[str | bytes | int, ...]
pack: Callable[[Command], bytes] = cast(Callable[[Command], bytes], hiredis.pack_command)
"""Returns the bytes of a command; the library's own annotation allows for one word alone."""


def pack_reads(keys: Sequence[bytes], groups: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
    """Returns the bytes of an `MGET`, several times as quick as `pack` where keys of one length share a beginning.

    Args:
        keys: What is read first.
        groups: Beginnings, and how the keys that have them go on.
    """
    listed = list(groups)
    count = 1 + len(keys) + sum(len(rests) for _, rests in listed)
    parts = [b"*%d\r\n$4\r\nMGET\r\n" % count]
    parts += [b"$%d\r\n%s\r\n" % (len(key), key) for key in keys]
    for prefix, rests in listed:
        lengths = set(map(len, rests))
        if len(lengths) == 1:
            head = b"$%d\r\n%s" % (len(prefix) + lengths.pop(), prefix)
            parts += (head, (b"\r\n" + head).join(rests), b"\r\n")
        else:
            size = len(prefix)
            parts += [b"$%d\r\n%s%s\r\n" % (size + len(rest), prefix, rest) for rest in rests]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host and a port, or the path of a socket."""

    host: str
    port: int = _PORT
    path: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What the URL of a store says."""

    addresses: tuple[Address, ...]
    is_cluster: bool = False
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None


def parse(url: str) -> Target:
    """Reads `redis://…`, `rediss://…` (TLS), `unix://…` or, for clusters, `redis+cluster://a:1,b:2`.

    TLS takes `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` from the query, each the path of a file.

    Raises:
        ValueError: The URL says something else; its text is not shown, since it may hold a password.
    """
    parts = urllib.parse.urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = map(urllib.parse.unquote, login.partition(":"))
    query = dict(urllib.parse.parse_qsl(parts.query))
    if parts.scheme == "unix":
        _refuse_unknown(query, {"db"})
        address = Address("", 0, urllib.parse.unquote(parts.path))
        return Target((address,), False, username, password, int(query.get("db", 0)))
    is_cluster = parts.scheme in CLUSTER_SCHEMES
    schemes = CLUSTER_SCHEMES if is_cluster else SINGLE_SCHEMES
    if parts.scheme not in schemes:
        raise ValueError(
            "the URL of the online store must begin with redis://, unix:// or the like"
        )
    with_tls = schemes[parts.scheme]
    _refuse_unknown(query, _TLS_OPTIONS if with_tls else set())
    addresses = tuple(_address(each) for each in hosts.split(","))
    database = int(parts.path.strip("/") or 0)
    if is_cluster and database:
        raise ValueError("a cluster has the database 0 alone")
    if not is_cluster and len(addresses) > 1:
        raise ValueError("several servers are a cluster: redis+cluster://")
    tls = _tls(query) if with_tls else None
    return Target(addresses, is_cluster, username, password, database, tls)


def _refuse_unknown(query: Mapping[str, str], known: frozenset[str] | set[str]) -> None:
    unknown = sorted(set(query) - known)
    if unknown:
        raise ValueError(f"the URL of the online store has no option {unknown[0]!r}")


def _address(text: str) -> Address:
    parts = urllib.parse.urlsplit(f"//{text}")
    return Address(parts.hostname or "127.0.0.1", parts.port or _PORT)


def _tls(query: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
    if "ssl_certfile" in query:
        context.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"))
    return context


class _Wire(asyncio.Protocol):
    """One connection, from its making to its loss; never used again afterwards."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are of asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        # Small commands of one turn of the loop leave together; what is larger leaves at once.
        self._transport.set_write_buffer_limits(high=_SMALL_BYTES)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                future, _ = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            # What comes is no answer to anything; nothing after it can be trusted.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(ConnectionResetError("the connection was lost"))

    def request(self, command: bytes) -> asyncio.Future[Any]:
        """Sends a command and returns its reply to be; an error reply is a value, not an exception."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.is_lost or self._transport is None:
            future.set_exception(ConnectionResetError("the connection was lost"))
            return future
        self._waiting.append((future, self._loop.time()))
        self._transport.write(command)
        return future

    def waits_longer_than(self, seconds: float) -> bool:
        """Tells whether the server owes a reply for so long, whoever still waits for it."""
        return bool(self._waiting) and self._loop.time() - self._waiting[0][1] > seconds

    def abort(self) -> None:
        """Ends the connection at once; all who wait are told."""
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()


class Link:
    """The way to one server; its connection is made when it is needed, and anew when it was lost."""

    def __init__(self, address: Address, target: Target, timeout_seconds: float) -> None:
        """Prepares; nothing is connected yet.

        Args:
            address: The server.
            target: How to log in.
            timeout_seconds: Longest time for a command, connecting included, and longest silence.
        """
        self.address = address
        self._target = target
        self._timeout = timeout_seconds
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[_Wire] | None = None

    async def call(self, *commands: bytes, seconds: float | None = None) -> Any:
        """Sends packed commands in one piece and returns the reply of the last.

        A command whose connection is lost under way is sent once more, on a new one: what is sent here
        can be sent twice.

        Args:
            commands: What `pack` returns.
            seconds: Longest time, where it is shorter than the link's own.

        Raises:
            TimeoutError: There is no reply in time.
            OSError: The server cannot be reached.
        """
        async with asyncio.timeout(shorter(self._timeout, seconds)):
            wire = self._usable() or await self._connected()
            try:
                return await _sent(wire, commands)
            except ConnectionResetError:
                return await _sent(await self._connected(), commands)

    async def call_all(
        self, commands: Sequence[Command], seconds: float | None = None
    ) -> list[Any]:
        """Sends commands, each as soon as it is packed, and returns their replies.

        The server works on the first ones while the others are packed. A connection that is lost under
        way is replaced once, as in `call`.

        Raises:
            TimeoutError: There is no reply in time.
            OSError: The server cannot be reached.
        """
        async with asyncio.timeout(shorter(self._timeout, seconds)):
            wire = self._usable() or await self._connected()
            try:
                return await _all_sent(wire, commands)
            except ConnectionResetError:
                return await _all_sent(await self._connected(), commands)

    async def close(self) -> None:
        """Ends the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._wire is not None:
            self._wire.abort()

    def _usable(self) -> _Wire | None:
        wire = self._wire
        if wire is None or wire.is_lost:
            return None
        if wire.waits_longer_than(self._timeout):
            # Frozen, or the network swallows everything; a new connection may do better.
            wire.abort()
            return None
        return wire

    async def _connected(self) -> _Wire:
        """Returns a new connection; all who need one at the same time share it."""
        wire = self._usable()
        if wire is not None:
            return wire
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="valkey-connect")
            self._connecting.add_done_callback(_heard)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        address, target = self.address, self._target
        async with asyncio.timeout(self._timeout):
            if address.path:
                _, wire = await loop.create_unix_connection(_Wire, address.path)
            else:
                _, wire = await loop.create_connection(
                    _Wire, address.host, address.port, ssl=target.tls
                )
            try:
                await self._log_in(wire)
            except BaseException:
                wire.abort()
                raise
        self._wire = wire
        return wire

    async def _log_in(self, wire: _Wire) -> None:
        target = self._target
        commands: list[Command] = []
        if target.password:
            names = (target.username,) if target.username else ()
            commands.append(("AUTH", *names, target.password))
        if target.database:
            commands.append(("SELECT", str(target.database)))
        for command in commands:
            reply = await wire.request(pack(command))
            if isinstance(reply, ReplyError):
                raise ConnectionRefusedError(f"{command[0]!r} was refused: {kind_of(reply)}")


async def _sent(wire: _Wire, commands: Sequence[bytes]) -> Any:
    for command in commands[:-1]:
        # Nobody waits for the reply.
        wire.request(command).cancel()
    return await wire.request(commands[-1])


async def _all_sent(wire: _Wire, commands: Sequence[Command]) -> list[Any]:
    futures = [wire.request(pack(command)) for command in commands]
    try:
        return [await future for future in futures]
    finally:
        for future in futures:
            # Nobody waits any more for what has not come, nor asks why it has not.
            if not future.cancel() and not future.cancelled():
                future.exception()


def shorter(longest: float, seconds: float | None) -> float:
    """Returns the seconds asked for, bounded."""
    return longest if seconds is None else min(seconds, longest)


def kind_of(reply: hiredis.ReplyError) -> str:
    """Returns the first word of an error reply, such as `MOVED`."""
    return str(reply).partition(" ")[0]


def _heard(task: asyncio.Task[_Wire]) -> None:
    """Takes note of a failure that everybody has stopped waiting for."""
    if not task.cancelled():
        task.exception()
