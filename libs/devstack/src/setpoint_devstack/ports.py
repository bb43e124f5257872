"""TCP ports on loopback that nobody else on this machine is about to take.

Asking the system for port 0 answers from the ephemeral range, where any outgoing
connection may take the port again before a server binds it. Ports here come from below
that range, and a lock file per port keeps parallel processes of one user apart for as
long as they live.
"""

import fcntl
import os
import pathlib
import random
import socket
import tempfile

from setpoint_devstack import errors

FIRST_PORT = 15_000
LAST_PORT = 31_000
"""Leaves room for the metrics of a service, 1000 above, outside the ephemeral range."""
ATTEMPTS = 500
LOOPBACK = "127.0.0.1"

_held: dict[int, int] = {}
"""Port to the descriptor of its lock; open until the process ends, which is the point."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Says whether a server could listen on the port at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set the same option; without it a port in TIME_WAIT would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _lock_folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.gettempdir()) / f"setpoint-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _reserve(port: int) -> bool:
    if port in _held:
        return False
    descriptor = os.open(_lock_folder() / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held[port] = descriptor
    return True


def release(port: int) -> None:
    """Gives a reserved port back; a port that was not reserved is ignored."""
    descriptor = _held.pop(port, None)
    if descriptor is not None:
        os.close(descriptor)


def free_port() -> int:
    """Reserves a free port for the life of this process.

    Raises:
        DevstackError: if no port was free in a long series of attempts.
    """
    # The operating system's randomness, so that a seeded test does not make every
    # process on the machine try the same ports in the same order.
    source = random.SystemRandom()
    for _ in range(ATTEMPTS):
        port = source.randint(FIRST_PORT, LAST_PORT)
        if not is_free(port) or not _reserve(port):
            continue
        if is_free(port):
            return port
        release(port)
    raise errors.DevstackError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def prefer(port: int) -> int:
    """Returns the wanted port when it is free for us, else another one."""
    if is_free(port) and _reserve(port):
        return port
    return free_port()
