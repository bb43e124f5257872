"""The alert's states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_monitoring.domain import alerting
from setpoint_monitoring.domain.alerting import Progress, Reading, State

BREACH, CALM, WARNING, NO_DATA = Reading.BREACH, Reading.CALM, Reading.WARNING, Reading.NO_DATA


def _after(*readings: Reading) -> State:
    progress = Progress()
    for reading in readings:
        progress = alerting.step(progress, reading)
    return progress.state


@pytest.mark.parametrize(
    ("readings", "state"),
    [
        ((CALM,), State.OK),
        ((BREACH,), State.PENDING),
        ((BREACH, BREACH), State.FIRING),
        ((BREACH, CALM, BREACH), State.FIRING),
        ((BREACH, CALM, CALM), State.OK),
        ((BREACH, CALM, CALM, BREACH), State.PENDING),
        ((BREACH, NO_DATA, BREACH), State.FIRING),
        ((BREACH, BREACH, CALM, CALM), State.FIRING),
        ((BREACH, BREACH, CALM, CALM, CALM), State.RESOLVED),
        ((BREACH, BREACH, CALM, CALM, WARNING, CALM), State.FIRING),
        ((BREACH, BREACH, CALM, NO_DATA, CALM, NO_DATA, CALM), State.RESOLVED),
        ((BREACH, BREACH, CALM, CALM, CALM, BREACH), State.PENDING),
    ],
)
def test_step_sequences(readings: tuple[Reading, ...], state: State) -> None:
    """Windows lead to the states of the table."""
    assert _after(*readings) is state


@given(st.lists(st.sampled_from([CALM, WARNING, BREACH])), st.lists(st.booleans()))
def test_step_ignores_windows_without_data(readings: list[Reading], gaps: list[bool]) -> None:
    """Windows without data anywhere change nothing."""
    spread: list[Reading] = []
    for number, reading in enumerate(readings):
        if number < len(gaps) and gaps[number]:
            spread.append(NO_DATA)
        spread.append(reading)
    assert _after(*spread) is _after(*readings)
