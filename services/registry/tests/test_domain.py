import dataclasses

import pytest

from setpoint_registry import domain
from setpoint_runtime import errors

PENDING = domain.ApprovalState.PENDING
MOVE = domain.Alias("late", "champion", 2, 0, "alice", "")


def last(valid_from: int) -> domain.Alias:
    return dataclasses.replace(MOVE, version=1, valid_from=valid_from)


def test_settled_first() -> None:
    """The first event may have any time, and none means now."""
    assert domain.settled(None, MOVE, PENDING, 500).valid_from == 500
    given = dataclasses.replace(MOVE, valid_from=3)
    assert domain.settled(None, given, PENDING, 500).valid_from == 3


def test_settled_skewed_clocks() -> None:
    """A move now is not refused because another replica's clock is a little ahead."""
    ahead = 500 + domain.CLOCK_SKEW_US
    assert domain.settled(last(ahead), MOVE, PENDING, 500).valid_from == ahead


def test_settled_planned_ahead() -> None:
    """A move now cannot come before one that is planned for later."""
    with pytest.raises(errors.InvalidArgumentError, match="valid_from"):
        domain.settled(last(501 + domain.CLOCK_SKEW_US), MOVE, PENDING, 500)


def test_settled_given_time_goes_back() -> None:
    """A time that the caller chose is never bent."""
    given = dataclasses.replace(MOVE, valid_from=999)
    with pytest.raises(errors.InvalidArgumentError, match="valid_from"):
        domain.settled(last(1000), given, PENDING, 500)
    assert domain.settled(last(999), given, PENDING, 500) == given


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_check_text_required(value: str) -> None:
    """Blank is not given."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        domain.check_text("actor", value, 10, is_required=True)
    assert caught.value.reason == errors.Reason.MISSING_FIELD
