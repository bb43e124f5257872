import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_inference.domain import cost


def test_estimate_line() -> None:
    """One row and 64 rows give the line through both."""
    made = cost.Cost(10.0, 136.0)
    assert made.estimate_us(1) == pytest.approx(10.0)
    assert made.estimate_us(64) == pytest.approx(136.0)
    assert made.estimate_us(1000) == pytest.approx(2008.0)


def test_estimate_falling_line() -> None:
    """A batch that happened to be quicker than one row never makes costs negative."""
    made = cost.Cost(10.0, 5.0)
    assert made.estimate_us(100_000) == pytest.approx(10.0)


def test_observe_follows_calls() -> None:
    """Calls that take ten times longer raise the estimate to that; quick ones lower it again."""
    made = cost.Cost(10.0, 136.0)
    for _ in range(60):
        made.observe(1, 100.0)
    assert 90.0 < made.estimate_us(1) < 120.0
    for _ in range(500):
        made.observe(1, 10.0)
    assert made.estimate_us(1) == pytest.approx(10.0)


def test_observe_outlier() -> None:
    """One call that a busy machine held up for a second hardly changes the estimate."""
    made = cost.Cost(10.0, 136.0)
    made.observe(1, 1e6)
    assert made.estimate_us(1) == pytest.approx(11.0)


@given(
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.lists(st.tuples(st.integers(0, 1 << 24), st.floats(0, 1e9))),
)
def test_estimate_never_below_measured(
    one: float, batch: float, seen: list[tuple[int, float]]
) -> None:
    """Whatever is observed, an estimate stays at least what was measured at load."""
    made = cost.Cost(one, batch)
    measured = made.estimate_us(64)
    for rows, took in seen:
        made.observe(rows, took)
    assert made.estimate_us(64) >= measured


def test_measure_takes_best_of_several() -> None:
    """Disturbed runs do not count, and long ones are not repeated."""
    time, runs = 0.0, 0
    durations = {1: [5e-3, 1e-3, 9e-3, 2e-3, 3e-3, 4e-3], 64: [0.5]}

    def run(start: int, end: int) -> None:
        nonlocal time, runs
        assert 0 <= start < end <= cost.EXAMPLE_ROWS
        time += durations[end - start].pop(0)
        runs += 1

    measured = cost.measure(run, lambda: time)
    assert measured.estimate_us(1) == pytest.approx(1e3)
    assert measured.estimate_us(64) == pytest.approx(0.5e6)
    assert runs == 7
