"""The online store in Valkey (or Redis).

One string for each view version and entity, and one for each view version that says up to which
sequence of its history the copies are complete. Both are changed by one script, so whatever
Valkey loses, in a crash, a failover or a wipe, the watermark tells what is missing.

In a cluster the copies of a view are divided into parts by a hash of the entity's key. A part lies in one
hash slot, has a watermark of its own, and is read and changed by commands of its own.
"""

import asyncio
import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import xxhash

import setpoint_telemetry
from setpoint_feature import ports
from setpoint_feature.adapters import valkey_client, valkey_link
from setpoint_runtime import errors

CHUNK: Final = 500
"""Values of one script call; other clients wait while it runs, about a millisecond."""
READ_KEYS: Final = 1_000
"""Keys of one command to a single server; other clients wait while it is answered, under a millisecond."""
_TOKEN_BITS: Final = 48
_INFO: Final = valkey_link.pack(("INFO", "replication"))
_WRITES: Final = "master_replid:"
_NOTHING: Final = ports.Begun("", "")
_CHUNKS_AT_ONCE: Final = 4
"""Script calls on their way; more would only wait in the server."""

# Timestamps use all 64 bits, more than the numbers of Lua hold exactly, and its comparison of strings
# depends on the server's locale. So each is compared as a signed high and an unsigned low half.
# What is known up to the watermark joins on to everything that begins at or below it. While copies are filled
# from the beginning the watermark is a token, a negative number: if it is still there at the end, the store has
# forgotten nothing meanwhile. A server that came back from an older state, or took over from another one,
# may have kept the token and lost what came after it; then the name of its history of writes is another one.
_SCRIPT: Final = b"""
local unpack = struct.unpack
local function is_older(stored, new)
  for position = 1, 17, 8 do
    local stored_low, stored_high = unpack('<I4i4', stored, position)
    local new_low, new_high = unpack('<I4i4', new, position)
    if stored_high ~= new_high then return stored_high < new_high end
    if stored_low ~= new_low then return stored_low < new_low end
  end
  return false
end
local call = redis.call
local replaced = 0
for index = 2, #KEYS do
  local key, new = KEYS[index], ARGV[index + 3]
  local stored = call('GETRANGE', key, 0, 23)
  if stored == '' or is_older(stored, new) then
    call('SET', key, new)
    replaced = replaced + 1
  end
end
if ARGV[2] ~= '' then
  local mark = call('GET', KEYS[1])
  local known = tonumber(mark or '0')
  local joins = ARGV[1] ~= '' and tonumber(ARGV[1]) <= known
  if ARGV[3] ~= '' and mark == ARGV[3] then joins = true end
  if joins and ARGV[4] ~= '' then
    joins = string.find(call('INFO', 'replication'), ARGV[4], 1, true) ~= nil
  end
  if joins and known < tonumber(ARGV[2]) then call('SET', KEYS[1], ARGV[2]) end
end
return replaced
"""
_DIGEST: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

_LOGGER = setpoint_telemetry.get_logger(__name__)


class _Part:
    """One hash slot's share of the copies of a view version."""

    __slots__ = ("mark", "prefix", "slot")

    def __init__(self, tag: str, *, is_tagged: bool) -> None:
        name = f"{{{tag}}}" if is_tagged else tag
        self.prefix = f"setpoint:{name}:".encode("ascii")
        # Keys of entities begin with their format's number, so no entity has this key.
        self.mark = self.prefix + b"watermark"
        self.slot = valkey_client.slot_of(tag.encode("ascii")) if is_tagged else 0


class ValkeyStore:
    """Keeps the greatest row of each entity."""

    def __init__(self, client: valkey_client.Client, store_id: str, parts: int) -> None:
        """Uses a client.

        Args:
            client: Made by `valkey_client.connect`; it is closed with the store.
            store_id: Keeps the copies of different histories apart.
            parts: Into how many parts a cluster divides the copies of a view version.
        """
        self._client = client
        self._store_id = store_id
        self._is_cluster = client.is_cluster
        self._count = parts if client.is_cluster else 1
        self._known: dict[str, tuple[_Part, ...]] = {}

    async def read(
        self, lookups: Sequence[ports.Lookup], seconds: float | None = None
    ) -> list[ports.Copies]:
        """Reads the copies of some keys of some views in one round trip."""
        if not lookups:
            return []
        if self._is_cluster or sum(len(lookup.keys) for lookup in lookups) > READ_KEYS:
            return await self._read_pieces(lookups, seconds)
        parts = [self._parts(lookup.version)[0] for lookup in lookups]
        pairs = zip(parts, lookups, strict=True)
        command = valkey_link.pack_reads(
            [part.mark for part in parts], ((part.prefix, lookup.keys) for part, lookup in pairs)
        )
        found = await self._sent(0, "MGET", command, seconds)
        copies = []
        first = len(lookups)
        for index, lookup in enumerate(lookups):
            last = first + len(lookup.keys)
            copies.append(ports.Copies(_number(found[index]), found[first:last]))
            first = last
        return copies

    async def apply(
        self, version: str, values: Mapping[bytes, bytes], after: int, upto: int
    ) -> int:
        """Stores the values that are greater than those there and returns how many were."""
        parts = self._parts(version)
        if not self._is_cluster:
            return await self._apply(parts[0], values.items(), after, upto)
        shares: list[list[tuple[bytes, bytes]]] = [[] for _ in parts]
        for item in values.items():
            shares[self._part_of(item[0])].append(item)
        # The watermark of a part without values moves too: nothing of it is missing.
        return sum(
            await asyncio.gather(
                *(
                    self._apply(part, share, after, upto)
                    for part, share in zip(parts, shares, strict=True)
                )
            )
        )

    async def begin(self, version: str) -> tuple[ports.Begun, ...]:
        """Notes that the copies of a view are filled from the beginning; returns what `finish` wants."""
        return tuple(await asyncio.gather(*(self._begin(part) for part in self._parts(version))))

    async def finish(self, version: str, begun: Sequence[ports.Begun], upto: int) -> None:
        """Makes `upto` the watermark of copies that were filled since `begin`."""
        parts = self._parts(version)
        await asyncio.gather(
            *(
                self._run(part, [], "", str(upto), each)
                for part, each in zip(parts, begun, strict=True)
            )
        )
        (mark,) = await self.watermarks([version])
        if mark is None or mark < upto:
            raise _unavailable("EVALSHA", "it lost what it had while it was filled")

    async def watermarks(self, versions: Sequence[str]) -> list[int | None]:
        """Returns up to which sequence each view is complete, None where nothing is known."""
        parts = [part for version in versions for part in self._parts(version)]
        if not parts:
            return []
        if not self._is_cluster:
            return list(map(_number, await self._call(0, ("MGET", *(each.mark for each in parts)))))
        found = await asyncio.gather(*(self._call(each.slot, ("GET", each.mark)) for each in parts))
        marks = list(map(_number, found))
        return [
            _least(marks[first : first + self._count])
            for first in range(0, len(marks), self._count)
        ]

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()

    def _parts(self, version: str) -> tuple[_Part, ...]:
        parts = self._known.get(version)
        if parts is None:
            name = f"{self._store_id}:{version}"
            count = self._count
            parts = self._known[version] = (
                tuple(_Part(f"{name}:{part}/{count}", is_tagged=True) for part in range(count))
                if self._is_cluster
                else (_Part(name, is_tagged=False),)
            )
        return parts

    def _part_of(self, key: bytes) -> int:
        return xxhash.xxh3_64_intdigest(key) % self._count

    async def _read_pieces(
        self, lookups: Sequence[ports.Lookup], seconds: float | None
    ) -> list[ports.Copies]:
        """Reads copies with several commands, each with the watermark of what it reads.

        In a cluster a command reads one part, on a single server so many keys that nobody waits long for them.
        """
        pieces = [
            (index, part, places)
            for index, lookup in enumerate(lookups)
            for part, places in self._pieces(lookup)
        ]
        commands: list[tuple[int, valkey_link.Command]] = []
        for index, part, places in pieces:
            keys, prefix = lookups[index].keys, part.prefix
            commands.append((part.slot, ("MGET", part.mark, *[prefix + keys[at] for at in places])))
        try:
            replies = await self._client.call_all(commands, seconds)
        except OSError as error:
            raise _unavailable("MGET", type(error).__name__) from error
        marks: list[list[int | None]] = [[] for _ in lookups]
        values: list[list[bytes | None]] = [[None] * len(lookup.keys) for lookup in lookups]
        for (index, _, places), reply in zip(pieces, replies, strict=True):
            found = _checked("MGET", reply)
            marks[index].append(_number(found[0]))
            own = values[index]
            for at, value in zip(places, found[1:], strict=True):
                own[at] = value
        # Nothing is missing from a look-up that asks for nothing.
        return [
            ports.Copies(_least(mine) if mine else 0, own)
            for mine, own in zip(marks, values, strict=True)
        ]

    def _pieces(self, lookup: ports.Lookup) -> Iterator[tuple[_Part, Sequence[int]]]:
        """Yields which keys of a look-up are read together."""
        parts = self._parts(lookup.version)
        if not self._is_cluster:
            for first in range(0, len(lookup.keys), READ_KEYS):
                yield parts[0], range(first, min(first + READ_KEYS, len(lookup.keys)))
            return
        places: dict[int, list[int]] = {}
        for place, key in enumerate(lookup.keys):
            places.setdefault(self._part_of(key), []).append(place)
        for number, wanted in places.items():
            yield parts[number], wanted

    async def _apply(
        self, part: _Part, values: Iterable[tuple[bytes, bytes]], after: int, upto: int
    ) -> int:
        items = iter(values)
        chunks = list(iter(lambda: list(itertools.islice(items, CHUNK)), []))
        begun = _NOTHING
        if len(chunks) > 1:
            # Without a watermark to join on to, only a token tells whether the first chunk is still there.
            begun = await (self._begin(part) if after == 0 else self._writes(part))
        replaced = 0
        for first in range(0, len(chunks) - 1, _CHUNKS_AT_ONCE):
            some = chunks[first : min(first + _CHUNKS_AT_ONCE, len(chunks) - 1)]
            replaced += sum(
                await asyncio.gather(*(self._run(part, chunk, "", "") for chunk in some))
            )
        last = chunks[-1] if chunks else []
        start = "" if begun.token else str(after)
        return replaced + await self._run(part, last, start, str(upto), begun)

    async def _writes(self, part: _Part) -> ports.Begun:
        """Returns the name of the history of writes that the server of a part has now.

        It is another one after each restart and each failover. A server that does not tell is trusted.
        """
        try:
            reply = await self._client.call(part.slot, _INFO)
        except OSError as error:
            raise _unavailable("INFO", type(error).__name__) from error
        if isinstance(reply, valkey_link.ReplyError):
            return _NOTHING
        lines = bytes(reply).decode("utf-8", "replace").split()
        return ports.Begun("", next((each for each in lines if each.startswith(_WRITES)), ""))

    async def _begin(self, part: _Part) -> ports.Begun:
        """Puts a token where there is no watermark; returns what is there."""
        writes = (await self._writes(part)).writes
        token = f"-{random.getrandbits(_TOKEN_BITS) + 1}"
        commands: list[tuple[int, valkey_link.Command]] = [
            (part.slot, ("SET", part.mark, token, "NX")),
            (part.slot, ("GET", part.mark)),
        ]
        try:
            replies = await self._client.call_all(commands)
        except OSError as error:
            raise _unavailable("SET", type(error).__name__) from error
        _, found = (_checked("SET", reply) for reply in replies)
        return ports.Begun(token if found is None else bytes(found).decode("ascii"), writes)

    async def _run(
        self,
        part: _Part,
        chunk: Sequence[tuple[bytes, bytes]],
        after: str,
        upto: str,
        begun: ports.Begun = _NOTHING,
    ) -> int:
        prefix = part.prefix
        arguments: valkey_link.Command = (
            len(chunk) + 1,
            part.mark,
            *[prefix + key for key, _ in chunk],
            after,
            upto,
            begun.token,
            begun.writes,
            *[value for _, value in chunk],
        )
        try:
            return int(await self._call(part.slot, ("EVALSHA", _DIGEST, *arguments)))
        except _NoScriptError:
            return int(await self._call(part.slot, ("EVAL", _SCRIPT, *arguments)))

    async def _call(
        self, slot: int, command: valkey_link.Command, seconds: float | None = None
    ) -> Any:
        """Runs a command; whatever is wrong with the store means that it cannot be used now.

        Raises:
            UnavailableError: ONLINE_STORE_UNAVAILABLE.
        """
        return await self._sent(slot, command[0], valkey_link.pack(command), seconds)

    async def _sent(
        self, slot: int, name: object, command: bytes, seconds: float | None = None
    ) -> Any:
        """Runs a packed command, as `_call` does."""
        try:
            reply = await self._client.call(slot, command, seconds)
        except OSError as error:
            raise _unavailable(name, type(error).__name__) from error
        return _checked(name, reply)


class _NoScriptError(Exception):
    """The server has forgotten the script."""


def _checked(command: object, reply: Any) -> Any:
    """Returns a reply that is no error.

    Raises:
        UnavailableError: ONLINE_STORE_UNAVAILABLE.
    """
    if not isinstance(reply, valkey_link.ReplyError):
        return reply
    kind = valkey_link.kind_of(reply)
    if kind == "NOSCRIPT":
        raise _NoScriptError
    raise _unavailable(command, kind) from reply


def _unavailable(command: object, what: str) -> errors.UnavailableError:
    _LOGGER.debug("online store call failed", command=command, error=what)
    return errors.UnavailableError(
        errors.Reason.ONLINE_STORE_UNAVAILABLE,
        f"the online store does not answer: {what}",
        retry_after_seconds=1.0,
    )


def _number(mark: bytes | None) -> int | None:
    """Returns a watermark, None where there is none or a token in its place."""
    number = -1 if mark is None else int(mark)
    return None if number < 0 else number


def _least(marks: Sequence[int | None]) -> int | None:
    """Returns the watermark of a view whose parts have these."""
    known = [mark for mark in marks if mark is not None]
    return min(known) if len(known) == len(marks) else None
