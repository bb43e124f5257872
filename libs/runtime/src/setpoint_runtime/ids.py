"""Identifiers: UUID version 7 (RFC 9562), sortable by the time they were made."""

import os
import re
import threading
import time
from array import array

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_COUNTER_BITS = 42
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
# A fresh millisecond starts its counter in the lower half, so at least 2^41 more fit into it.
_COUNTER_SEED_MASK = _COUNTER_MASK >> 1
_VERSION = 0x7000
_VARIANT = 0x8000
_LAST_MILLISECOND = (1 << 48) - 1
_POOL_NUMBERS = 500
"""Of 64 random bits, asked for at once: a call of the system costs more than all the rest here."""
_MOST_DRAWN = 2
"""For one identifier: a seed and what follows the counter."""


class _Generator:
    """Counts identifiers within a millisecond (RFC 9562, section 6.2, method 1)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = -1
        self._prefix = ""
        self._counter = 0
        self._pool = array("Q")

    def next(self, millisecond: int, *, may_run_ahead: bool) -> str:
        """Return the next identifier as text.

        With `may_run_ahead` a millisecond that is not after the last one is replaced by the last
        one, which keeps the identifiers growing; without it the identifier carries its own time.
        """
        with self._lock:
            pool = self._pool
            if len(pool) < _MOST_DRAWN:
                pool.frombytes(os.urandom(_POOL_NUMBERS * pool.itemsize))
            if may_run_ahead and millisecond < self._millisecond:
                millisecond = self._millisecond
            if millisecond == self._millisecond:
                self._counter += 1
            else:
                self._millisecond = millisecond
                self._prefix = f"{millisecond >> 16:08x}-{millisecond & 0xFFFF:04x}"
                self._counter = pool.pop() & _COUNTER_SEED_MASK
            prefix, counter, entropy = self._prefix, self._counter, pool.pop() & 0xFFFFFFFF
        # The counter's bits, around version and variant, and 32 random ones.
        first, second = _VERSION | counter >> 30, _VARIANT | counter >> 16 & 0x3FFF
        return f"{prefix}-{first:04x}-{second:04x}-{(counter & 0xFFFF) << 32 | entropy:012x}"

    def reset(self) -> None:
        """Start anew in a forked child, which must not go on with its parent's state."""
        self._lock = threading.Lock()
        self._millisecond = -1
        self._pool = array("Q")


_live = _Generator()
_replayed = _Generator()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_live.reset)
    os.register_at_fork(after_in_child=_replayed.reset)


def uuid7(now_us: int | None = None) -> str:
    """Return a new UUID version 7 as text.

    Without `now_us` every identifier made by this process is greater than the one before, also
    when the wall clock goes back. With `now_us` the identifier carries exactly that millisecond,
    so that a replay of history gets identifiers of the history's time; they grow as long as the
    given times do not go back.

    Args:
        now_us: Microseconds since the Unix epoch, UTC, or None for the machine's clock.

    Raises:
        ValueError: The time does not fit into the 48 bits of an identifier.
    """
    if now_us is None:
        return _live.next(time.time_ns() // 1_000_000, may_run_ahead=True)
    millisecond = now_us // 1_000
    if not 0 <= millisecond <= _LAST_MILLISECOND:
        raise ValueError(f"an identifier cannot carry the time {now_us} us")
    return _replayed.next(millisecond, may_run_ahead=False)


def is_uuid(text: str) -> bool:
    """Say whether `text` is a UUID of any version in its canonical lower-case form."""
    return _UUID.fullmatch(text) is not None
