"""What reflection shows: the pool that generated code shares, and those of services that keep apart."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import descriptor_pool


class Pools:
    """Several pools of descriptors, asked one after the other, as reflection asks one."""

    def __init__(self, others: Iterable[descriptor_pool.DescriptorPool]) -> None:
        """Ask the shared pool first, then the others."""
        self._pools = (descriptor_pool.Default(), *others)

    def FindFileByName(self, name: str) -> Any:
        """Return a file. Raises KeyError."""
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """Return the file of a name. Raises KeyError."""
        return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Any:
        """Return a message. Raises KeyError."""
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """Return an extension of a message. Raises KeyError."""
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        """Return the extensions of a message."""
        return message.file.pool.FindAllExtensions(message)

    def _first(self, find: Callable[[descriptor_pool.DescriptorPool], Any]) -> Any:
        for pool in self._pools[:-1]:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(self._pools[-1])
