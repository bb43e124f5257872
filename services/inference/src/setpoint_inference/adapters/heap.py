"""How much this process has allocated, where the C library can say."""

import ctypes
from collections.abc import Callable


class _Information(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _reader() -> Callable[[], int] | None:
    try:
        read = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return None
    read.restype = _Information

    def allocated() -> int:
        found = read()
        # What lies in the arenas, and what is mapped by itself.
        return int(found.uordblks + found.hblkhd)

    return allocated


_READER = _reader()


def allocated() -> int:
    """Return the bytes in use by the C heap, 0 where nobody can say (other than glibc)."""
    return 0 if _READER is None else _READER()
