import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from setpoint_router.domain.outliers import Outliers, Policy, Standing
from setpoint_runtime import clock as clocks

SECOND = 1_000_000


def _pair(policy: Policy) -> tuple[clocks.ManualClock, Outliers, Standing, Standing]:
    clock = clocks.ManualClock()
    both = Outliers(policy, clock.monotonic)
    first, second = both.join(), both.join()
    first.is_up = second.is_up = True
    return clock, both, first, second


def test_ejects_after_consecutive_failures() -> None:
    """Failures count only while no success lies between them."""
    _, both, first, _ = _pair(Policy(failures=3))
    both.fail(first)
    both.fail(first)
    first.failures = 0
    assert [both.fail(first) for _ in range(3)] == [False, False, True]
    assert first.is_out


def test_stays_out_longer_each_time() -> None:
    """Ejections grow to a maximum, and quiet time makes up for earlier ones."""
    clock, both, first, _ = _pair(Policy(base_seconds=10, most_seconds=25))
    lasted = []
    for _ in range(4):
        both.eject(first)
        begun = clock.monotonic()
        while not both.is_due(first):
            clock.advance(SECOND)
        lasted.append(clock.monotonic() - begun)
        both.readmit(first)
    assert lasted == [10, 20, 25, 25]
    clock.advance(100 * SECOND)
    both.eject(first)
    assert first.until == clock.monotonic() + 10


def test_keeps_the_last_one_that_serves() -> None:
    """Nobody is left out while all others are out, or do not serve."""
    _, both, first, second = _pair(Policy(share=1.0))
    second.is_up = False
    assert not both.eject(first)
    second.is_up = True
    assert both.eject(first)
    assert not both.eject(second)


def test_alone_is_never_out() -> None:
    """One replica is kept whatever it does."""
    alone = Outliers(Policy(failures=1, share=1.0), clocks.ManualClock().monotonic)
    only = alone.join()
    only.is_up = True
    assert not any(alone.fail(only) for _ in range(20))


class Ejections(RuleBasedStateMachine):
    """Replicas that fail, recover, come and go as they like."""

    @initialize(share=st.floats(0, 1), number=st.integers(1, 8))
    def begin(self, share: float, number: int) -> None:
        """Starts with some replicas that serve."""
        self.clock = clocks.ManualClock()
        self.share = share
        self.all = Outliers(Policy(failures=2, base_seconds=5, share=share), self.clock.monotonic)
        self.standings = [self.all.join() for _ in range(number)]
        for each in self.standings:
            each.is_up = True

    def _one(self, number: int) -> Standing:
        return self.standings[number % len(self.standings)]

    @rule(number=st.integers(0, 7))
    def fail(self, number: int) -> None:
        """Fails once; whoever is out of it by that leaves somebody who serves."""
        if self.all.fail(self._one(number)):
            assert any(each.is_up and not each.is_out for each in self.standings)
            out = sum(each.is_out for each in self.standings)
            assert out <= max(1, int(self.share * len(self.standings)))

    @rule(number=st.integers(0, 7))
    def succeed(self, number: int) -> None:
        """Answers well."""
        self._one(number).failures = 0

    @rule(number=st.integers(0, 7), is_up=st.booleans())
    def turn(self, number: int, is_up: bool) -> None:
        """Says that it serves, or not."""
        self._one(number).is_up = is_up

    @rule()
    def join(self) -> None:
        """Makes one more."""
        self.standings.append(self.all.join())

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        """Lets time pass, and those back whose time is over."""
        self.clock.advance(seconds * SECOND)
        for each in self.standings:
            if self.all.is_due(each):
                self.all.readmit(each)

    @invariant()
    def ejections_end(self) -> None:
        """Nobody is out for longer than the policy says."""
        for each in getattr(self, "standings", ()):
            if each.is_out:
                assert each.until - self.clock.monotonic() <= 300


TestEjections = Ejections.TestCase
TestEjections.settings = settings(max_examples=40, stateful_step_count=30)


@given(st.integers(2, 40), st.floats(0, 1))
def test_share_is_respected_when_all_fail(number: int, share: float) -> None:
    """However many fail, no more than the share is out, and one always serves."""
    everyone = Outliers(Policy(failures=1, share=share), clocks.ManualClock().monotonic)
    standings = [everyone.join() for _ in range(number)]
    for each in standings:
        each.is_up = True
    for each in standings:
        everyone.fail(each)
    out = sum(each.is_out for each in standings)
    assert out == min(max(1, int(share * number)), number - 1)
