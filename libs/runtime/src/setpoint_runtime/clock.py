"""Time as a dependency, so that a year of history can be replayed and tests are deterministic."""

import time
from typing import Protocol

MICROSECONDS_PER_SECOND = 1_000_000


class Clock(Protocol):
    """Tells what time it is and measures how long things take."""

    def now_us(self) -> int:
        """Return the time in microseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations only."""
        ...


class SystemClock:
    """The clock of the machine."""

    __slots__ = ()

    def now_us(self) -> int:
        """Return the wall clock in microseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when it is told to."""

    __slots__ = ("_monotonic_us", "_now_us")

    def __init__(self, start_us: int = 0) -> None:
        """Start at `start_us` microseconds since the Unix epoch, UTC."""
        self._now_us = start_us
        self._monotonic_us = 0

    def now_us(self) -> int:
        """Return the time last set."""
        return self._now_us

    def monotonic(self) -> float:
        """Return the seconds advanced so far; setting the time back does not lower them."""
        return self._monotonic_us / MICROSECONDS_PER_SECOND

    def advance(self, microseconds: int) -> None:
        """Move both the time and the monotonic seconds forward.

        Raises:
            ValueError: `microseconds` is negative.
        """
        if microseconds < 0:
            raise ValueError(f"a clock cannot advance by {microseconds} microseconds")
        self._now_us += microseconds
        self._monotonic_us += microseconds

    def set(self, now_us: int) -> None:
        """Set the time; like an adjusted wall clock it may go back, monotonic seconds do not."""
        self._monotonic_us += max(0, now_us - self._now_us)
        self._now_us = now_us
