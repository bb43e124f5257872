"""The adaptive limit, against a simulated server that answers in batches as the router does."""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

import hypothesis
import pytest
from hypothesis import strategies

from setpoint_router.domain import limit
from setpoint_runtime import clock as clocks


@dataclass
class Server:
    """Runs `calls` batches at once; `n` rows take `fixed + n * each` seconds of its one processor."""

    fixed: float
    each: float
    least: int
    most: int = 4_096
    tolerance: float = 0.1
    rows: int = 256
    deadline: float = math.inf
    clock: clocks.ManualClock = field(default_factory=lambda: clocks.ManualClock(0))
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.limit = limit.AdaptiveLimit(
            self.clock, least=self.least, most=self.most, tolerance=self.tolerance
        )
        self.pace = limit.Pace()
        self.queue: deque[tuple[float, int]] = deque()
        self.running: list[tuple[float, int]] = []
        self.ends = math.inf

    @property
    def peak(self) -> float:
        """Answers a second when every batch is full."""
        return self.rows / (self.fixed + self.each * self.rows)

    @property
    def in_flight(self) -> int:
        """Predictions on their way."""
        return len(self.queue) + len(self.running)

    def go_to(self, time: float) -> None:
        """Lets time pass."""
        while self.ends <= time:
            self._set(self.ends)
            batch, self.running, self.ends = self.running, [], math.inf
            arrived, ahead = batch[-1]
            stretch = self.pace.stretch(self.now - arrived, ahead, self.now, self.limit.tolerance)
            self.limit.observe(stretch, ahead, len(batch))
            self.latencies += [self.now - arrived for arrived, _ in batch]
            self._start()
        self._set(time)

    def arrive(self) -> bool:
        """Lets one caller come; says whether he may stay."""
        if not self.limit.admits(self.in_flight):
            self.refused += 1
            return False
        calls = len(self.queue) // self.rows
        if calls and (1 + calls) * (self.fixed + self.each * self.rows) > self.deadline:
            # The queue knows by itself that this one would come too late.
            self.refused += 1
            return False
        self.queue.append((self.now, self.in_flight + 1))
        self._start()
        return True

    def _start(self) -> None:
        if not self.running and self.queue:
            count = min(len(self.queue), self.rows)
            self.running = [self.queue.popleft() for _ in range(count)]
            self.ends = self.now + self.fixed + self.each * count

    def _set(self, time: float) -> None:
        self.clock.advance(round((time - self.now) * 1e6))
        self.now = time


def open_loop(server: Server, rate: float, seconds: float, seed: int = 3) -> None:
    """Lets callers come at random moments, whatever becomes of the others."""
    chance, time = random.Random(seed), server.now
    end = time + seconds
    while (time := time + chance.expovariate(rate)) < end:
        server.go_to(time)
        server.arrive()
    server.go_to(end)


def closed_loop(server: Server, callers: int, seconds: float, pause: float) -> None:
    """Lets so many callers ask, one question after the other."""
    end = server.now + seconds
    asking = [server.now + number * 1e-4 for number in range(callers)]
    heapq.heapify(asking)
    answered = len(server.latencies)
    while min(asking[0] if asking else math.inf, server.ends) < end:
        if asking and asking[0] <= server.ends:
            server.go_to(heapq.heappop(asking))
            if not server.arrive():
                heapq.heappush(asking, server.now + pause)
        else:
            server.go_to(server.ends)
        for _ in range(len(server.latencies) - answered):
            heapq.heappush(asking, server.now + pause)
        answered = len(server.latencies)


@pytest.mark.parametrize("times", [2, 10])
def test_overload_keeps_goodput(times: int) -> None:
    """Shows that at 2 and 10 times capacity most of the peak is answered, and quickly."""
    server = Server(fixed=0.002, each=0.0002, least=8)
    open_loop(server, times * server.peak, 2.0)
    server.latencies.clear()
    open_loop(server, times * server.peak, 3.0, seed=4)
    good = sum(each < 0.25 for each in server.latencies)
    assert good / 3.0 > 0.8 * server.peak
    assert sorted(server.latencies)[int(len(server.latencies) * 0.99)] < 0.25
    assert limit.RETRY_SECONDS[server.limit.retry_step] >= 0.02 * times


@pytest.mark.parametrize("times", [2, 10])
def test_overload_of_slow_model_keeps_goodput(times: int) -> None:
    """Shows the same of a model that takes 60 ms for up to 32 rows: waiting would win nothing."""
    server = Server(fixed=0.06, each=0.0, least=8, rows=32, deadline=0.5)
    open_loop(server, times * server.peak, 3.0)
    server.latencies.clear()
    open_loop(server, times * server.peak, 5.0, seed=4)
    good = sum(each < 0.5 for each in server.latencies)
    assert good / 5.0 > 0.8 * server.peak
    assert sorted(server.latencies)[len(server.latencies) // 2] < 0.25


def test_overload_without_limit_answers_nobody() -> None:
    """Shows that the simulation is one in which the limit is needed."""
    server = Server(fixed=0.002, each=0.0002, least=1_000_000, most=1_000_000)
    open_loop(server, 2 * server.peak, 2.0)
    assert server.refused == 0
    assert sum(each < 0.25 for each in server.latencies) < 0.5 * server.peak * 2.0


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    strategies.floats(0.0005, 0.2),
    strategies.floats(0.00001, 0.001),
    strategies.floats(0.01, 0.6),
    strategies.integers(0, 1_000),
)
def test_normal_load_is_not_refused(fixed: float, each: float, share: float, seed: int) -> None:
    """Shows that below six tenths of the peak nobody is refused, whatever the model costs."""
    server = Server(fixed=fixed, each=each, least=16)
    open_loop(server, share * server.peak, min(5.0, 3_000 / (share * server.peak)), seed)
    assert server.refused == 0


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(strategies.floats(0.001, 2.0), strategies.integers(1, 16))
def test_few_callers_of_slow_model_are_not_refused(each: float, callers: int) -> None:
    """Shows that callers up to the least limit wait for a slow model, which answers one by one."""
    server = Server(fixed=0.0, each=each, least=16, rows=1)
    closed_loop(server, callers, min(200 * each, 60.0), 0.0)
    assert server.latencies
    assert server.refused == 0


def test_burst_after_rest_is_not_refused() -> None:
    """Shows that after overload a rest is enough for a burst to be taken whole."""
    server = Server(fixed=0.002, each=0.0002, least=8)
    open_loop(server, 4 * server.peak, 3.0)
    assert server.refused > 0
    assert server.limit.current < 1_000
    server.go_to(server.now + 30.0)
    server.refused = 0
    for _ in range(2_000):
        server.arrive()
    assert server.refused == 0
    server.go_to(server.now + 5.0)
    assert server.in_flight == 0


def test_burst_does_not_cut() -> None:
    """Shows that a queue which goes away by itself is no overload."""
    server = Server(fixed=0.002, each=0.0002, least=8)
    for _ in range(20):
        server.go_to(server.now + 0.5)
        for _ in range(1_000):
            server.arrive()
    assert server.refused == 0
    assert server.limit.current == server.most


def test_stall_without_load_does_not_cut() -> None:
    """Shows that a few predictions which took long, with nobody before them, are no overload."""
    server = Server(fixed=0.002, each=0.0002, least=32)
    open_loop(server, 10, 2.0)
    server.fixed = 3.0
    open_loop(server, 1, 20.0)
    server.fixed = 0.002
    for _ in range(1_000):
        server.arrive()
    assert server.refused == 0


def test_recovers_when_load_goes() -> None:
    """Shows that the limit rises again while a normal load goes on."""
    server = Server(fixed=0.002, each=0.0002, least=8)
    open_loop(server, 4 * server.peak, 3.0)
    lowest = server.limit.current
    open_loop(server, 0.3 * server.peak, 3.0)
    assert server.limit.current > 2 * lowest


@pytest.mark.parametrize("slow", [0.3, 1.0, 3.0])
def test_version_that_slows_for_good_is_believed_under_load(slow: float) -> None:
    """Shows that a version which takes longer from now on gets its callers back while load goes on."""
    server = Server(fixed=0.01, each=0.0, least=16)
    open_loop(server, 100, 5.0)
    server.fixed = slow
    open_loop(server, 60 / slow, 40 + 60 * slow)
    assert server.refused > 0, "at first it looks like a queue"
    server.refused = 0
    server.latencies.clear()
    open_loop(server, 60 / slow, 60.0, seed=4)
    assert server.refused == 0
    assert len(server.latencies) > 0.8 * 60 / slow * 60


def test_queue_at_the_least_limit_is_no_slow_version() -> None:
    """Shows that a model which answers one by one is not believed to be slow because many wait."""
    server = Server(fixed=0.0, each=0.001, least=16, rows=1)
    open_loop(server, 500, 5.0)
    server.each = 0.05
    open_loop(server, 100, 120.0)
    server.latencies.clear()
    open_loop(server, 100, 60.0, seed=4)
    assert server.limit.current <= 32
    assert sorted(server.latencies)[len(server.latencies) // 2] < 20 * 0.05


def test_slow_version_that_recovers_is_known_again() -> None:
    """Shows that a version which is quick again is held to its old latency after a quiet moment."""
    server = Server(fixed=0.01, each=0.0, least=16)
    open_loop(server, 100, 5.0)
    server.fixed = 1.0
    open_loop(server, 60, 60.0)
    server.fixed = 0.01
    server.go_to(server.now + 5.0)
    open_loop(server, 5, 5.0)
    server.each = 0.05
    open_loop(server, 100, 20.0)
    assert server.limit.current <= 32


@pytest.mark.parametrize("ahead", [0, 1, 16, 32])
def test_probe_of_whatever_is_seen(ahead: int) -> None:
    """Shows that a limit which is stuck goes on looking and comes back, whatever it is told."""
    clock = clocks.ManualClock(0)
    kept = limit.AdaptiveLimit(clock, least=16, most=4_096, tolerance=0.1)
    seen = []
    for turn in range(500):
        clock.advance(400_000)
        kept.admits(kept.current)
        # Twice as many take twice as long, which is a queue.
        told = 4_096 if turn < 2 else min(ahead, kept.current)
        kept.observe(5.0 * max(1, told), told, 1)
        seen.append(kept.current)
    assert set(seen[5:]) == {16, 32}
    assert seen.count(32) < len(seen) / 2


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    strategies.integers(1, 600),
    strategies.integers(1, 600),
    strategies.lists(
        strategies.tuples(
            strategies.floats(0.01, 1e6),
            strategies.integers(0, 10_000_000),
            strategies.integers(0, 5_000),
        ),
        max_size=60,
    ),
)
def test_limit_stays_within_bounds(
    least: int, most: int, seen: list[tuple[float, int, int]]
) -> None:
    """Shows that whatever is measured the limit keeps to its bounds, and admits below it."""
    clock = clocks.ManualClock(0)
    kept = limit.AdaptiveLimit(clock, least=least, most=most, tolerance=0.1)
    for stretch, microseconds, ahead in seen:
        clock.advance(microseconds)
        kept.observe(stretch, ahead, 1)
        assert min(least, most) <= kept.current <= most
        assert kept.admits(0)
        assert kept.admits(kept.current - 1)
        assert not kept.admits(kept.current)
        assert 0 <= kept.retry_step < len(limit.RETRY_SECONDS)


def test_pace_is_learned_without_load() -> None:
    """Shows that load never makes a version look slow, and that a slower version is believed."""
    pace = limit.Pace()
    assert pace.stretch(0.5, 1, 0.0, 0.1) == pytest.approx(0.5)
    for second in range(1, 1_000):
        assert pace.stretch(2.0, 500, float(second), 0.1) == pytest.approx(2.0)
    assert pace.seconds == 0.5
    for second in range(1_000, 1_200):
        pace.stretch(0.8, 1, float(second), 0.1)
    assert pace.seconds == 0.8


@pytest.mark.parametrize(("alone", "tolerated"), [(0.0001, 0.1), (0.05, 0.1), (0.1, 0.2), (2, 4)])
def test_pace_tolerates_a_time_or_twice(alone: float, tolerated: float) -> None:
    """Shows that quick versions may take a stated time under load, slow ones twice their own."""
    pace = limit.Pace()
    pace.stretch(alone, 1, 0.0, 0.1)
    assert pace.stretch(tolerated, 500, 1.0, 0.1) == pytest.approx(1.0)


@pytest.mark.parametrize(("alone", "stretch"), [(None, 5.0), (0.01, 5.0), (1.0, 0.25)])
def test_pace_judges_without_learning(alone: float | None, stretch: float) -> None:
    """Shows that what came to nothing is measured by what is known, and changes nothing of it."""
    pace = limit.Pace()
    if alone is not None:
        pace.stretch(alone, 1, 0.0, 0.1)
    before = pace.seconds
    assert pace.of(0.5, 0.1) == pytest.approx(stretch)
    assert pace.seconds == before
