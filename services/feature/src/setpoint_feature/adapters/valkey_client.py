"""Ways to Valkey: a single server, or a cluster whose servers each hold some of the hash slots."""

import asyncio
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from setpoint_feature.adapters import valkey_link
from setpoint_feature.adapters.valkey_link import Address, Command, Link, ReplyError, Target

SLOTS: Final = 16_384
_HOPS: Final = 5
"""A command follows so many redirections; more mean that the cluster does not know itself."""
_SURVEY_PAUSE_SECONDS: Final = 0.2
"""A cluster in trouble is not asked more often where its slots are."""
_ASKING: Final = valkey_link.pack(("ASKING",))
_WHERE: Final = valkey_link.pack(("CLUSTER", "SLOTS"))


class Client(Protocol):
    """Sends commands to whichever server holds a slot."""

    is_cluster: bool

    async def call(self, slot: int, command: bytes, seconds: float | None = None) -> Any:
        """Returns the reply to a packed command; an error reply is a value, not an exception.

        Raises:
            OSError: The server cannot be reached, or does not answer in time.
        """
        ...

    async def call_all(
        self, commands: Sequence[tuple[int, Command]], seconds: float | None = None
    ) -> list[Any]:
        """Returns the replies to commands that are sent without waiting for each other, each with its slot."""
        ...

    async def close(self) -> None:
        """Ends all connections."""
        ...


def connect(url: str, *, timeout_seconds: float) -> Client:
    """Returns a client; nothing is connected yet.

    Args:
        url: As `valkey_link.parse` reads it.
        timeout_seconds: Longest time for each command.

    Raises:
        ValueError: The URL cannot be read.
    """
    target = valkey_link.parse(url)
    if target.is_cluster:
        return Cluster(target, timeout_seconds)
    return Single(target, timeout_seconds)


def slot_of(tag: bytes) -> int:
    """Returns the hash slot of all keys with a hash tag."""
    return binascii.crc_hqx(tag, 0) % SLOTS


class Single:
    """One server, which holds everything."""

    is_cluster = False

    def __init__(self, target: Target, timeout_seconds: float) -> None:
        """Prepares."""
        self._link = Link(target.addresses[0], target, timeout_seconds)

    async def call(self, slot: int, command: bytes, seconds: float | None = None) -> Any:
        """Returns the reply to a packed command."""
        return await self._link.call(command, seconds=seconds)

    async def call_all(
        self, commands: Sequence[tuple[int, Command]], seconds: float | None = None
    ) -> list[Any]:
        """Returns the replies to commands that are sent without waiting for each other."""
        return await self._link.call_all([command for _, command in commands], seconds)

    async def close(self) -> None:
        """Ends the connection."""
        await self._link.close()


class Cluster:
    """Servers that divide the hash slots among themselves and may move them at any time."""

    is_cluster = True

    def __init__(self, target: Target, timeout_seconds: float) -> None:
        """Prepares; the target's addresses are where to ask first."""
        self._target = target
        self._timeout = timeout_seconds
        self._links: dict[Address, Link] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._survey = asyncio.Lock()
        self._surveyed = -_SURVEY_PAUSE_SECONDS

    async def call(self, slot: int, command: bytes, seconds: float | None = None) -> Any:
        """Returns the reply to a packed command whose keys all lie in one slot."""
        async with asyncio.timeout(valkey_link.shorter(self._timeout, seconds)):
            return await self._call(slot, command)

    async def call_all(
        self, commands: Sequence[tuple[int, Command]], seconds: float | None = None
    ) -> list[Any]:
        """Returns the replies to commands that are sent without waiting for each other."""
        calls = [self.call(slot, valkey_link.pack(command), seconds) for slot, command in commands]
        return await asyncio.gather(*calls)

    async def _call(self, slot: int, command: bytes) -> Any:
        owner = self._owners[slot] or await self._find(slot, None)
        reply: Any = None
        for _ in range(_HOPS):
            try:
                reply = await self._link(owner).call(command)
            except OSError:
                # Perhaps another server has taken over what this one held.
                successor = await self._find(slot, owner)
                if successor == owner:
                    raise
                owner = successor
                continue
            if not isinstance(reply, ReplyError):
                return reply
            kind = valkey_link.kind_of(reply)
            if kind == "MOVED":
                owner = self._owners[slot] = _redirected(reply, owner)
            elif kind == "ASK":
                return await self._link(_redirected(reply, owner)).call(_ASKING, command)
            else:
                return reply
        return reply

    async def close(self) -> None:
        """Ends all connections."""
        for link in self._links.values():
            await link.close()

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._target, self._timeout)
        return link

    async def _find(self, slot: int, known: Address | None) -> Address:
        """Returns the server of a slot, having asked the others when it is not another one already.

        Raises:
            OSError: Nobody says where the slot is.
        """
        async with self._survey:
            loop = asyncio.get_running_loop()
            if self._owners[slot] == known and loop.time() - self._surveyed > _SURVEY_PAUSE_SECONDS:
                await self._look_around(known)
                self._surveyed = loop.time()
        owner = self._owners[slot]
        if owner is None:
            raise ConnectionRefusedError("no server of the cluster holds this slot")
        return owner

    async def _look_around(self, suspect: Address | None) -> None:
        """Asks one server after the other which one holds which slots, until one answers.

        Raises:
            OSError: None does.
        """
        known = dict.fromkeys((*filter(None, self._owners), *self._target.addresses))
        # The one that does not answer is asked last.
        asked = sorted(known, key=lambda address: address == suspect)
        for address in asked:
            try:
                reply = await self._link(address).call(_WHERE, seconds=self._timeout / len(asked))
            except OSError:
                continue
            if not isinstance(reply, ReplyError):
                self._owners = _owners(reply, address.host)
                return
        raise ConnectionRefusedError("no server of the cluster answers")


def _owners(reply: Iterable[Any], asked: str) -> list[Address | None]:
    owners: list[Address | None] = [None] * SLOTS
    for first, last, server, *_ in reply:
        # A server that does not know its own name is the one that was asked.
        host = server[0].decode("ascii") if server[0] else asked
        address = Address(host, int(server[1]))
        owners[first : last + 1] = [address] * (last + 1 - first)
    return owners


def _redirected(reply: ReplyError, sender: Address) -> Address:
    """Reads `MOVED 3999 127.0.0.1:6381`; without a host the server that says so is meant."""
    host, _, port = str(reply).split(" ")[2].rpartition(":")
    return Address(host or sender.host, int(port))
