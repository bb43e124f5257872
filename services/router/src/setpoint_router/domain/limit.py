"""How many predictions may be on their way, found from how long they take.

Requests that share calls take longer the more of them there are, long before anything is wrong: with
a no-load latency `a` and a peak rate `m`, `n` predictions on their way take about `a + n/m`. Letting
latency grow to some times `a` reaches nearly all of the peak rate; beyond that there is nothing to win
but waiting. So the limit grows while predictions take no longer than is tolerated: a stated time, or
twice the no-load latency where that is longer. When they do it is cut to what fits.

What is looked at is the fastest prediction of an interval, relative to the no-load latency of its own
version. A burst has fast ones among it, and so has a slow version beside others; only a queue that
stands makes all of them slow.
"""

import math

from setpoint_runtime import clock as clocks

INTERVAL_SECONDS = 0.3
"""Of one judgement; a burst that is over in this time is no overload."""

QUIET = 8
"""With so few predictions on their way nobody waits for another."""

FORGET_SECONDS = 60.0
"""A no-load latency of before is forgotten so long after it, once there is a newer one."""

LEAST_TOLERANCE = 2.0
"""Whoever comes when a call has just begun waits for its end, whatever the load."""

GROWTH = 1.125
"""Of the limit in an interval in which all is well."""

MOST_INTERVALS = 200
"""Are enough to grow from everywhere to the greatest limit."""

RETRY_SECONDS = tuple(0.05 * 2**step for step in range(7))
"""Times to come back after; few, so that a refusal can be made once and sent often."""


class Pace:
    """The no-load latency of one kind of prediction: the least of the last minutes."""

    __slots__ = ("_before", "_least", "_since")

    def __init__(self) -> None:
        self._least = self._before = math.inf
        self._since = -math.inf

    @property
    def seconds(self) -> float:
        """The no-load latency; infinite before the first prediction."""
        return min(self._least, self._before)

    def stretch(self, seconds: float, ahead: int, now: float, tolerance: float) -> float:
        """Note a latency; return it in parts of what is tolerated, so that 1 is the most.

        Args:
            seconds: The latency.
            ahead: Predictions on their way when it came, itself included. Under load a latency says
                nothing about the one without, except that it is not longer.
            now: In seconds of a monotonic clock.
            tolerance: Seconds that are tolerated of a quick version.
        """
        if ahead <= QUIET and now - self._since > FORGET_SECONDS:
            self._before, self._least, self._since = self._least, seconds, now
        elif seconds < self._least:
            self._least = seconds
        return seconds / max(tolerance, LEAST_TOLERANCE * self.seconds)


class AdaptiveLimit:
    """The limit of a process."""

    __slots__ = (
        "_admitted",
        "_ahead",
        "_clock",
        "_fastest",
        "_least",
        "_most",
        "_opened_at",
        "_refused",
        "_seen_at",
        "current",
        "retry_step",
        "tolerance",
    )

    def __init__(self, clock: clocks.Clock, *, least: int, most: int, tolerance: float) -> None:
        """Begin with the greatest limit.

        Args:
            clock: Time.
            least: The limit never falls below.
            most: The limit never rises above.
            tolerance: Seconds that the fastest predictions of a quick version may take.
        """
        self._clock = clock
        self._least = min(least, most)
        self._most = most
        self.tolerance = tolerance
        """As given, for paces."""
        self.current = most
        """Predictions that may be on their way."""
        self.retry_step = 0
        """Position in `RETRY_SECONDS` of when those who are turned away may come back."""
        self._seen_at = clock.monotonic()
        self._open()

    def _open(self) -> None:
        self._opened_at: float | None = None
        self._fastest = math.inf
        self._ahead = 0
        self._admitted = self._refused = 0

    def admits(self, in_flight: int) -> bool:
        """Say whether one more may come, beside those on their way."""
        if not in_flight and self.current < self._most:
            self._recover(self._clock.monotonic())
        if in_flight < self.current:
            return True
        self._refused += 1
        return False

    def observe(self, stretch: float, ahead: int, rows: int) -> None:
        """Note predictions that have been answered together.

        Args:
            stretch: What the youngest of them took, in parts of what is tolerated.
            ahead: Predictions that were on their way when that one came, itself included.
            rows: How many they are.
        """
        now = self._clock.monotonic()
        self._seen_at = now
        self._admitted += rows
        if self._opened_at is None:
            self._opened_at = now
        if stretch < self._fastest:
            self._fastest, self._ahead = stretch, ahead
        if now - self._opened_at >= INTERVAL_SECONDS:
            self._judge()

    def _judge(self) -> None:
        if self._fastest <= 1.0:
            self._grow(1)
        elif self._ahead > self._least:
            # With fewer than the least no refusal could have made it quicker. What it took is in
            # proportion to what was ahead of it.
            fitting = max(self._least, int(self._ahead / self._fastest))
            self.current = min(self.current, fitting)
        # The more are turned away, the later they should come again.
        load = 1 + self._refused / max(1, self._admitted)
        self.retry_step = min(len(RETRY_SECONDS) - 1, int(math.log2(load)))
        self._open()

    def _recover(self, now: float) -> None:
        """Forget what load there was before a rest."""
        rested = int((now - self._seen_at) / INTERVAL_SECONDS)
        if rested > 0:
            self._grow(rested)
            self._seen_at = now
            self._open()

    def _grow(self, intervals: int) -> None:
        factor = GROWTH ** min(intervals, MOST_INTERVALS)
        self.current = min(self._most, max(self.current + 1, int(self.current * factor)))
