"""Takes away from this process what running somebody else's estimator does not need. Linux, no root.

- No network: a network namespace of its own, without devices; besides, a filter refuses sockets, and
  Landlock TCP. One of the three is enough.
- No files: Landlock lets it read Python and its libraries, and nothing else; no file can grow.
- No secrets: it is started with an environment of its own and without other open files.
- No more memory than allowed, no processes (but for root), and it dies with its parent.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from setpoint_inference.adapters import seccomp

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

# The same numbers on every architecture.
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_PATH_BENEATH: Final = 1
_FILE_ACCESSES: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many kinds of access to files each version of Landlock knows."""
_READ: Final = 0b1101
"""Execute (as libraries are mapped), read files, read folders."""
_TCP: Final = 0b11
_TCP_VERSION: Final = 4
_SCOPES: Final = 0b11
"""Abstract sockets and signals outside."""
_SCOPES_VERSION: Final = 6
_OPEN_FILES: Final = 64


class Held(NamedTuple):
    """What the system could take away."""

    network: bool
    files: bool

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.network and self.files


def leave_network() -> bool:
    """Go where there is no network, for good, and die with the parent; return whether it is so.

    The system lets a process do so only while it has one thread, so before anything is imported
    that starts others.
    """
    if sys.platform != "linux":
        return False
    library = _library()
    for option, value in (
        (_PR_SET_PDEATHSIG, signal.SIGKILL),
        (_PR_SET_NO_NEW_PRIVS, 1),
    ):
        library.prctl(option, int(value), 0, 0, 0)
    return bool(library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def enter(memory_bytes: int, *, has_left_network: bool) -> Held:
    """Give up what is not needed, for good; everything that will be imported lies on `sys.path`.

    Args:
        memory_bytes: Address space that this process may have.
        has_left_network: What `leave_network` said.
    """
    _limit(memory_bytes)
    if sys.platform != "linux":
        return Held(network=False, files=False)
    version = _restrict(_library(), _readable())
    has_no_sockets = seccomp.refuse_calls(_library())
    return Held(has_left_network or has_no_sockets or version >= _TCP_VERSION, version > 0)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _limit(memory_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (least, least))


def _readable() -> list[str]:
    """Return the folders of Python, its packages and the system's libraries."""
    found = {sys.prefix, sys.base_prefix, *sys.path, "/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    # Members that are installed editable lie elsewhere.
    for module in list(sys.modules.values()):
        found.update(getattr(module, "__path__", ()))
    return sorted(each for each in found if each and Path(each).is_dir() and each != "/")


def _restrict(library: ctypes.CDLL, folders: Iterable[str]) -> int:
    """Let Landlock refuse all files but those below some folders; return its version, 0 without."""
    version = library.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return 0
    files = (1 << _FILE_ACCESSES.get(version, 16)) - 1
    rules = struct.pack("<Q", files)
    if version >= _TCP_VERSION:
        rules += struct.pack("<Q", _TCP)
    if version >= _SCOPES_VERSION:
        rules += struct.pack("<Q", _SCOPES)
    ruleset = library.syscall(_LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return 0
    try:
        for folder in folders:
            _allow(library, ruleset, folder)
        return int(version) if library.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(library: ctypes.CDLL, ruleset: int, folder: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("<Qi", _READ, descriptor)
            library.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
        finally:
            os.close(descriptor)
