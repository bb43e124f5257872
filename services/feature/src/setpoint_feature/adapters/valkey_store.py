"""The online store in Valkey (or Redis).

One string for each view version and entity, and one for each view version that says up to which
sequence of its history the copies are complete. Both are changed by one script, so whatever
Valkey loses, in a crash, a failover or a wipe, the watermark tells what is missing.
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.exceptions

import setpoint_telemetry
from setpoint_runtime import errors

CHUNK: Final = 500
"""Values of one script call; other clients wait while it runs, about a millisecond."""

# Timestamps use all 64 bits, more than the numbers of Lua hold exactly, and its comparison of strings
# depends on the server's locale. So each is compared as a signed high and an unsigned low half.
_SCRIPT: Final = """
local function is_older(stored, new)
  for position = 1, 17, 8 do
    local stored_low, stored_high = struct.unpack('<I4i4', stored, position)
    local new_low, new_high = struct.unpack('<I4i4', new, position)
    if stored_high ~= new_high then return stored_high < new_high end
    if stored_low ~= new_low then return stored_low < new_low end
  end
  return false
end
local replaced = 0
for index = 2, #KEYS do
  local new = ARGV[index + 1]
  local stored = redis.call('GETRANGE', KEYS[index], 0, 23)
  if stored == '' or is_older(stored, new) then
    redis.call('SET', KEYS[index], new)
    replaced = replaced + 1
  end
end
if ARGV[2] ~= '' and (redis.call('GET', KEYS[1]) or '0') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return replaced
"""

_LOGGER = setpoint_telemetry.get_logger(__name__)


def connect(url: str, *, timeout_seconds: float, connections: int) -> "redis.asyncio.Redis":
    """Returns a client; nothing is connected yet.

    Args:
        url: `redis://…`, `rediss://…` or `unix://…`.
        timeout_seconds: Longest time for connecting, and for getting a connection.
        connections: Most connections at once; further calls wait for one.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_seconds,
        # No time limit of its own: it is kept with asyncio.wait_for, which costs a task for every
        # command and, before Python 3.12, swallows a cancellation that comes with the answer.
        socket_timeout=None,
        socket_connect_timeout=timeout_seconds,
        socket_keepalive=True,
        # One more try at once: a pooled connection may have died with the last server. All that is
        # sent here can be sent twice.
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1),
    )
    return redis.asyncio.Redis(connection_pool=pool)


class ValkeyStore:
    """Keeps the greatest row of each entity."""

    def __init__(
        self, client: "redis.asyncio.Redis", store_id: str, timeout_seconds: float
    ) -> None:
        """Uses a client.

        Args:
            client: Made by `connect`.
            store_id: Keeps the copies of different histories apart.
            timeout_seconds: Longest time for each command, retries included.
        """
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._prefix = f"setpoint:{store_id}:".encode("ascii")
        self._prefixes: dict[str, bytes] = {}
        self._digest: str | None = None

    async def read(
        self, versions: Sequence[str], lookups: Sequence[tuple[str, Sequence[bytes]]]
    ) -> tuple[list[int | None], list[list[bytes | None]]]:
        """Reads watermarks and values in one round trip."""
        keys = [self._watermark(version) for version in versions]
        for version, group in lookups:
            prefix = self._values(version)
            keys.extend([prefix + key for key in group])
        found = await self._call("MGET", *keys) if keys else []
        marks = [None if mark is None else int(mark) for mark in found[: len(versions)]]
        values = []
        position = len(versions)
        for _, group in lookups:
            values.append(found[position : position + len(group)])
            position += len(group)
        return marks, values

    async def apply(
        self, version: str, values: Mapping[bytes, bytes], after: int, upto: int
    ) -> int:
        """Stores the values that are greater than those there and returns how many were."""
        prefix = self._values(version)
        items = iter(values.items())
        chunks = [
            chunk
            for _ in range(0, len(values), CHUNK)
            if (chunk := list(itertools.islice(items, CHUNK)))
        ]
        mark = self._watermark(version)
        replaced = 0
        for chunk in chunks[:-1]:
            replaced += await self._run(mark, prefix, chunk, "", "")
        last = chunks[-1] if chunks else []
        return replaced + await self._run(mark, prefix, last, str(after), str(upto))

    async def watermarks(self, versions: Sequence[str]) -> list[int | None]:
        """Returns up to which sequence each view is complete, None where nothing is known."""
        if not versions:
            return []
        found = await self._call("MGET", *map(self._watermark, versions))
        return [None if mark is None else int(mark) for mark in found]

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _values(self, version: str) -> bytes:
        prefix = self._prefixes.get(version)
        if prefix is None:
            prefix = self._prefix + version.encode("ascii") + b":"
            self._prefixes[version] = prefix
        return prefix

    def _watermark(self, version: str) -> bytes:
        # Keys of entities begin with their format's number, so no entity has this key.
        return self._values(version) + b"watermark"

    async def _run(
        self,
        mark: bytes,
        prefix: bytes,
        chunk: Iterable[tuple[bytes, bytes]],
        after: str,
        upto: str,
    ) -> int:
        pairs = list(chunk)
        keys = [mark, *(prefix + key for key, _ in pairs)]
        arguments: list[str | bytes] = [after, upto, *(value for _, value in pairs)]
        if self._digest is None:
            self._digest = await self._load()
        try:
            replaced = await self._evaluate(self._digest, keys, arguments)
        except redis.exceptions.NoScriptError:
            self._digest = await self._load()
            replaced = await self._evaluate(self._digest, keys, arguments)
        return int(replaced)

    async def _load(self) -> str:
        digest = await self._call("SCRIPT LOAD", _SCRIPT)
        return digest.decode("ascii") if isinstance(digest, bytes) else str(digest)

    async def _evaluate(
        self, digest: str, keys: Sequence[bytes], arguments: Sequence[str | bytes]
    ) -> Any:
        return await self._call("EVALSHA", digest, len(keys), *keys, *arguments)

    async def _call(self, *command: Any) -> Any:
        """Runs a command; whatever is wrong with the store means that it cannot be used now.

        Raises:
            UnavailableError: ONLINE_STORE_UNAVAILABLE.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis leaves it open.
        except redis.exceptions.NoScriptError:
            raise
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            _LOGGER.debug("online store call failed", command=command[0], error=repr(error))
            raise errors.UnavailableError(
                errors.Reason.ONLINE_STORE_UNAVAILABLE,
                f"the online store does not answer: {type(error).__name__}",
                retry_after_seconds=1.0,
            ) from error
