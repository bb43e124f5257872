"""The C library's memory: kept for the next message instead of given back and asked for again.

Messages and records of a megabyte are made and dropped all day. By default glibc returns such memory to the
system at once, or does when it happens to lie at the end of the heap, and every page of the next message
is then fetched and zeroed anew, which can take longer than everything else that happens to it.
"""

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

KEPT_BYTES: Final = 64 * 1024 * 1024
"""So much that is free may stay with the process."""
LARGEST_BYTES: Final = 16 * 1024 * 1024
"""Larger pieces, such as a model's artifact, come from the system each time and go back to it."""


def keep_freed() -> bool:
    """Have freed memory kept, within bounds, for the rest of the process; say whether it is so.

    Other C libraries than glibc go their own ways and are left alone.
    """
    if sys.platform != "linux":
        return False
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is None:
        return False
    return bool(change(_MMAP_THRESHOLD, LARGEST_BYTES) and change(_TRIM_THRESHOLD, KEPT_BYTES))
