"""How many predictions may be on their way, found from how long they take.

Requests that share calls take longer the more of them there are, long before anything is wrong: with
a no-load latency `a` and a peak rate `m`, `n` predictions on their way take about `a + n/m`. Letting
latency grow to `T` times `a` reaches `(T - 1) / T` of the peak rate; beyond that there is little to
win but waiting. So the limit grows while latency stays below that, and is cut back in proportion
when it does not.

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

LEAST_LATENCY_SECONDS = 0.002
"""Shorter latencies are taken for this one: a pause of the machine is no queue."""

LARGEST_CUT = 0.1
INTERVALS_TO_RECOVER = 30
"""From the least limit to the greatest."""

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

    def stretch(self, seconds: float, in_flight: int, now: float) -> float:
        """Note a latency; return how many times the no-load latency it is.

        Args:
            seconds: The latency.
            in_flight: Predictions on their way at the time. Under load a latency says nothing about
                the one without, except that it is not longer.
            now: In seconds of a monotonic clock.
        """
        if in_flight <= QUIET and now - self._since > FORGET_SECONDS:
            self._before, self._least, self._since = self._least, seconds, now
        elif seconds < self._least:
            self._least = seconds
        shortest = LEAST_LATENCY_SECONDS
        return max(seconds, shortest) / max(self.seconds, shortest)


class AdaptiveLimit:
    """The limit of a process."""

    __slots__ = (
        "_admitted",
        "_changed_at",
        "_clock",
        "_fastest",
        "_highest",
        "_least",
        "_most",
        "_opened_at",
        "_refused",
        "_seen_at",
        "_step",
        "_tolerance",
        "current",
        "retry_step",
    )

    def __init__(self, clock: clocks.Clock, *, least: int, most: int, tolerance: float) -> None:
        """Begin with the greatest limit.

        Args:
            clock: Time.
            least: The limit never falls below; some full calls, so that batches can grow.
            most: The limit never rises above.
            tolerance: How many times the no-load latency the fastest prediction may take.
        """
        self._clock = clock
        self._least = min(least, most)
        self._most = most
        self._tolerance = tolerance
        self._step = max(1, (most - self._least) // INTERVALS_TO_RECOVER)
        self.current = most
        """Predictions that may be on their way."""
        self.retry_step = 0
        """Position in `RETRY_SECONDS` of when those who are turned away may come back."""
        self._changed_at = -math.inf
        self._seen_at = clock.monotonic()
        self._open()

    def _open(self) -> None:
        self._opened_at: float | None = None
        self._fastest = math.inf
        self._highest = 0
        self._admitted = self._refused = 0

    def admits(self, in_flight: int) -> bool:
        """Say whether one more may come, beside those on their way."""
        if not in_flight and self.current < self._most:
            self._recover(self._clock.monotonic())
        if in_flight < self.current:
            return True
        self._refused += 1
        return False

    def observe(self, stretch: float, arrived: float, rows: int, in_flight: int) -> None:
        """Note predictions that have been answered together.

        Args:
            stretch: How many times its no-load latency the youngest of them took.
            arrived: When that one came, in seconds of the monotonic clock.
            rows: How many they are.
            in_flight: Predictions on their way, those included.
        """
        now = self._clock.monotonic()
        self._seen_at = now
        self._admitted += rows
        if arrived < self._changed_at:
            # It waited in a queue from before the last cut, which says nothing about the limit now.
            return
        if self._opened_at is None:
            self._opened_at = now
        self._fastest = min(self._fastest, stretch)
        self._highest = max(self._highest, in_flight)
        if now - self._opened_at >= INTERVAL_SECONDS:
            self._judge(now)

    def _judge(self, now: float) -> None:
        if self._fastest > self._tolerance:
            used = min(self.current, self._highest)
            factor = max(self._tolerance / self._fastest, LARGEST_CUT)
            self.current = max(self._least, int(used * factor))
            self._changed_at = now
        else:
            self.current = min(self._most, self.current + self._step)
        # The more are turned away, the later they should come again.
        load = 1 + self._refused / max(1, self._admitted)
        self.retry_step = min(len(RETRY_SECONDS) - 1, int(math.log2(load)))
        self._open()

    def _recover(self, now: float) -> None:
        """Forget what load there was before a rest."""
        rested = int((now - self._seen_at) / INTERVAL_SECONDS)
        if rested > 0:
            self.current = min(self._most, self.current + rested * self._step)
            self._seen_at = now
            self._open()
