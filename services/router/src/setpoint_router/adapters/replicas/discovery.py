"""From an address setting to the addresses of single replicas."""

import asyncio
import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from setpoint_runtime import errors

RESOLVE_SECONDS = 5.0
_DNS = re.compile(r"dns:(?:///)?(?P<host>\[[^\]]+\]|[^:/]+):(?P<port>\d+)")
_Answer = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
_LOGGER = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where one replica listens."""

    address: str
    """As gRPC takes it."""
    authority: str = ""
    """The name that its certificate has, when the address was found by that name."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a setting names: replicas one by one, and names behind which there may be many."""

    fixed: tuple[Target, ...]
    names: tuple[tuple[str, int], ...]

    async def resolve(self) -> tuple[Target, ...]:
        """Return the replicas that are there now.

        Raises:
            OSError: A name cannot be resolved.
        """
        found = dict.fromkeys(self.fixed)
        loop = asyncio.get_running_loop()
        for host, port in self.names:
            async with asyncio.timeout(RESOLVE_SECONDS):
                answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found |= dict.fromkeys(sorted(Target(_joined(each), host) for each in _once(answers)))
        return tuple(found)


def parse(setting: str) -> Addresses:
    """Return what a setting says: `host:port` or `dns:///name:port`, several with commas.

    Each address behind a DNS name is a replica of its own; a plain `host:port` is one replica.

    Raises:
        InvalidArgumentError: It names nothing.
    """
    fixed, names = [], []
    for part in filter(None, map(str.strip, setting.split(","))):
        found = _DNS.fullmatch(part)
        if found is None:
            fixed.append(Target(part))
        else:
            names.append((found["host"].strip("[]"), int(found["port"])))
    if not fixed and not names:
        raise errors.invalid("inference_address", setting, "must name at least one address")
    return Addresses(tuple(fixed), tuple(names))


async def resolved(addresses: Addresses) -> tuple[Target, ...] | None:
    """Return the replicas that are there now, None when that cannot be learned."""
    try:
        return await addresses.resolve() or None
    except OSError as error:  # TimeoutError is one too.
        _LOGGER.warning("replicas of inference cannot be looked up: %s", error)
        return None


def _once(answers: Sequence[_Answer]) -> list[tuple[object, ...]]:
    """Return addresses of one family: with two of them every replica would be there twice."""
    family = min((each[0] for each in answers), default=socket.AF_INET)
    return [each[4] for each in answers if each[0] == family]


def _joined(address: tuple[object, ...]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
