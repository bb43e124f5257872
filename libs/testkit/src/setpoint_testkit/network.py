"""A guard that lets tests reach loopback and nothing else."""

import ipaddress
import socket
import sys

GUARDED_EVENTS = frozenset({"socket.connect", "socket.sendto"})


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine."""


class NetworkGuard:
    """Refuses connections from Python sockets to anything but this machine.

    It is an audit hook: there is no way around it for code that uses Python's sockets, and
    nothing in the socket module is replaced. Hooks cannot be removed, hence the switch.
    """

    def __init__(self) -> None:
        self.active = False
        self._is_installed = False

    def enable(self) -> None:
        """Starts refusing."""
        if not self._is_installed:
            sys.addaudithook(self._hook)
            self._is_installed = True
        self.active = True

    def disable(self) -> None:
        """Stops refusing."""
        self.active = False

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active or event not in GUARDED_EVENTS:
            return
        endpoint, address = arguments[0], arguments[1]
        if not isinstance(endpoint, socket.socket) or is_local(endpoint.family, address):
            return
        raise NetworkBlockedError(f"tests may only use loopback, not {address!r}")


def is_local(family: int, address: object) -> bool:
    """Says whether an address of a socket family is on this machine."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    if not isinstance(address, tuple) or not address:
        return False
    host = address[0]
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
