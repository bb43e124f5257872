import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_runtime import clock


def test_system_clock_tells_utc_microseconds() -> None:
    """The system clock counts microseconds since the epoch."""
    before = time.time()
    now = clock.SystemClock().now_us() / clock.MICROSECONDS_PER_SECOND

    assert before - 0.001 <= now <= time.time() + 0.001


def test_system_clock_monotonic_does_not_go_back() -> None:
    """Durations measured with the system clock are never negative."""
    system = clock.SystemClock()

    assert system.monotonic() <= system.monotonic()


def test_manual_clock_moves_only_when_told() -> None:
    """Reading the clock does not move it; advancing moves time and durations alike."""
    manual = clock.ManualClock(1_000)
    assert manual.now_us() == manual.now_us() == 1_000

    manual.advance(2_500_000)

    assert manual.now_us() == 2_501_000
    assert manual.monotonic() == 2.5


def test_manual_clock_refuses_to_advance_backwards() -> None:
    """A negative step is a mistake of the test, not a way to set the clock back."""
    with pytest.raises(ValueError, match="-1"):
        clock.ManualClock().advance(-1)


@given(st.lists(st.integers(min_value=0, max_value=2**52), max_size=20))
def test_manual_clock_monotonic_never_falls(times: list[int]) -> None:
    """Whatever the wall clock is set to, monotonic seconds never fall."""
    manual = clock.ManualClock(2**51)
    seen = manual.monotonic()
    for moment in times:
        manual.set(moment)
        assert manual.now_us() == moment
        assert manual.monotonic() >= seen
        seen = manual.monotonic()


def test_clocks_fit_port() -> None:
    """Both clocks are clocks to the type checker."""
    clocks: list[clock.Clock] = [clock.SystemClock(), clock.ManualClock()]

    assert all(each.monotonic() >= 0 for each in clocks)
