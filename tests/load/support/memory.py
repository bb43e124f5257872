"""The most memory that processes ever had, as the kernel remembers it."""

import contextlib
from pathlib import Path

import psutil

_KIBIBYTE = 1024


def peak(pid: int) -> int:
    """Returns the greatest resident bytes so far of a process and of those that it has started, added up."""
    parent = psutil.Process(pid)
    total = 0
    for each in (parent, *parent.children(recursive=True)):
        # One that has just ended has no file any more, or no such line.
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{each.pid}/status").read_text(encoding="ascii")
            total += high_water(status)
    return total


def high_water(status: str) -> int:
    """Reads the bytes out of `/proc/PID/status`.

    Raises:
        StopIteration: There is no such line, as in that of a process that has ended.
    """
    line = next(each for each in status.splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) * _KIBIBYTE
