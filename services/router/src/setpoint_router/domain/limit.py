"""How many predictions may be on their way, found from how long they take.

Requests that share calls take longer the more of them there are, long before anything is wrong: with
a no-load latency `a` and a peak rate `m`, `n` predictions on their way take about `a + n/m`. Letting
latency grow to some times `a` reaches nearly all of the peak rate; beyond that there is nothing to win
but waiting. So the limit grows while predictions take no longer than is tolerated: a stated time, or
twice the no-load latency where that is longer. When they do it is cut to what fits.

What is looked at is the fastest prediction of an interval, relative to the no-load latency of its own
version. A burst has fast ones among it, and so has a slow version beside others; only a queue that
stands makes all of them slow. A prediction that fails quickly says nothing; one that failed slowly, or
whose caller did not wait for its end, was slow.

A version may become slower for good while load goes on, which looks the same as a queue: the limit
falls to its least, and nothing is seen without load from which the new latency could be learned. So
while callers are turned away there, twice the least is let in now and then. If that takes hardly longer
it was no queue: the intercept of the line through both is the new no-load latency.
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

PROBE_SECONDS = 15.0
"""At the least limit with callers turned away, until more are let in to see what happens."""

PROBE_MOST_SECONDS = 10.0
"""A probe has ended after this time."""

PROBE_LOOKS = 8
"""Or when so much was seen: whoever comes just before a call begins waits least for it."""

PROBE_FACTOR = 2
"""Times the least limit."""

PROBE_SPAN = 1.5
"""So many times as many on their way tell a line."""

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
        return self.of(seconds, tolerance)

    def of(self, seconds: float, tolerance: float) -> float:
        """Return a time in parts of what is tolerated, without learning from it."""
        alone = self.seconds
        return seconds / (
            max(tolerance, LEAST_TOLERANCE * alone) if alone < math.inf else tolerance
        )


class _Stuck:
    """What was seen at the least limit, and what at twice of it: the fastest of each."""

    __slots__ = ("_ahead", "_more_ahead", "_more_stretch", "_stretch", "looks", "until")

    def __init__(self, ahead: int, stretch: float, until: float) -> None:
        """Begin at the least limit; until then more is seen there, afterwards a probe may begin."""
        self._ahead, self._stretch = ahead, stretch
        self._more_ahead, self._more_stretch = 0, math.inf
        self.looks = 0
        """What was seen with enough more on their way."""
        self.until = until

    def see(self, ahead: int, stretch: float) -> None:
        """Take note of the least limit."""
        if stretch < self._stretch:
            self._ahead, self._stretch = ahead, stretch

    def see_more(self, ahead: int, stretch: float) -> None:
        """Take note of a probe."""
        if ahead <= PROBE_SPAN * self._ahead:
            return
        self.looks += 1
        if stretch < self._more_stretch:
            self._more_ahead, self._more_stretch = ahead, stretch

    @property
    def alone(self) -> float:
        """What a prediction takes without load, by the line through both; 0 where load is most of it."""
        if not self.looks:
            return 0.0
        slope = (self._more_stretch - self._stretch) / (self._more_ahead - self._ahead)
        found = self._stretch - max(0.0, slope) * self._ahead
        return found if found > self._stretch / 2 else 0.0


class AdaptiveLimit:
    """The limit of a process."""

    __slots__ = (
        "_admitted",
        "_ahead",
        "_clock",
        "_ease",
        "_fastest",
        "_is_probing",
        "_least",
        "_most",
        "_opened_at",
        "_refused",
        "_seen_at",
        "_stuck",
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
        self._ease = 1.0
        """What all stretches are divided by, since the versions' no-load latencies are so old."""
        self._stuck: _Stuck | None = None
        """While callers are turned away at the least limit."""
        self._is_probing = False
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
        if ahead <= QUIET and stretch <= 1.0:
            # Without load they are as they are known to be.
            self._ease = 1.0
        stretch /= self._ease
        if self._is_probing and self._stuck is not None:
            self._look(self._stuck, stretch, ahead, now)
            return
        if self._opened_at is None:
            self._opened_at = now
        if stretch < self._fastest:
            self._fastest, self._ahead = stretch, ahead
        if now - self._opened_at >= INTERVAL_SECONDS:
            self._judge(now)

    def _judge(self, now: float) -> None:
        if self._fastest <= 1.0:
            self._grow(1)
        elif self._ahead > self._least:
            # With fewer than the least no refusal could have made it quicker. What it took is in
            # proportion to what was ahead of it.
            fitting = max(self._least, int(self._ahead / self._fastest))
            self.current = min(self.current, fitting)
        self._note_stuck(now)
        # The more are turned away, the later they should come again.
        load = 1 + self._refused / max(1, self._admitted)
        self.retry_step = min(len(RETRY_SECONDS) - 1, int(math.log2(load)))
        self._open()

    # Versions that have become slower for good.

    def _note_stuck(self, now: float) -> None:
        """Begin a probe after a while at the least limit in which callers were turned away."""
        is_least = max(self.current, self._ahead) <= self._least
        is_stuck = is_least and self._fastest > 1.0 and self._refused > 0
        if not is_stuck:
            self._stuck = None
        elif self._stuck is None:
            self._stuck = _Stuck(self._ahead, self._fastest, now + PROBE_SECONDS)
        else:
            self._stuck.see(self._ahead, self._fastest)
            if now >= self._stuck.until:
                self._stuck.until = now + PROBE_MOST_SECONDS
                self._is_probing = True
                self.current = min(self._most, PROBE_FACTOR * self._least)

    def _look(self, stuck: _Stuck, stretch: float, ahead: int, now: float) -> None:
        """Take note of what a probe shows, and end it once that is enough."""
        stuck.see_more(ahead, stretch)
        if stuck.looks < PROBE_LOOKS and now < stuck.until:
            return
        slower = LEAST_TOLERANCE * stuck.alone
        if slower > 1.0:
            self._ease *= slower
        else:
            self.current = self._least
        self._end_probe()

    def _end_probe(self) -> None:
        self._stuck = None
        self._is_probing = False
        self._open()

    def _recover(self, now: float) -> None:
        """Forget what load there was before a rest."""
        rested = int((now - self._seen_at) / INTERVAL_SECONDS)
        if rested > 0:
            self._grow(rested)
            self._seen_at = now
            self._end_probe()

    def _grow(self, intervals: int) -> None:
        factor = GROWTH ** min(intervals, MOST_INTERVALS)
        self.current = min(self._most, max(self.current + 1, int(self.current * factor)))
