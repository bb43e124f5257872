from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_client.options import RetryPolicy
from setpoint_client.retry import Deadline, Retrier
from setpoint_runtime import errors


class _Error(grpc.RpcError):
    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


def _unavailable(retry_after: float | None = None) -> errors.UnavailableError:
    return errors.UnavailableError(
        errors.Reason.UNAVAILABLE, "away", retry_after_seconds=retry_after
    )


@settings(deadline=None)
@given(st.integers(1, 10), st.floats(0, 1), st.floats(0, 5))
def test_pause_stays_within_policy_and_deadline(
    attempt: int, drawn: float, remaining: float
) -> None:
    """A pause is never longer than the policy's longest or than the time left."""
    policy = RetryPolicy(max_attempts=20, initial_seconds=0.1, multiplier=2, max_seconds=0.5)
    pause = Retrier(policy, lambda: drawn).pause(_Error(), _unavailable(), attempt, remaining)
    if pause is not None:
        assert 0 <= pause <= min(0.5, 0.1 * 2 ** (attempt - 1))
        assert pause < remaining


def test_pause_grows_and_ends() -> None:
    """Pauses double up to the longest and stop with the last attempt."""
    policy = RetryPolicy(max_attempts=4, initial_seconds=0.1, multiplier=2, max_seconds=0.3)
    retrier = Retrier(policy, lambda: 1.0)
    pauses = [retrier.pause(_Error(), _unavailable(), attempt, 60) for attempt in (1, 2, 3, 4)]
    assert pauses == [0.1, 0.2, 0.3, None]


def test_pause_honours_the_server() -> None:
    """A server that says when to come back is not asked before."""
    retrier = Retrier(RetryPolicy(), lambda: 0.0)
    assert retrier.pause(_Error(), _unavailable(1.5), 1, 60) == 1.5
    assert retrier.pause(_Error(), _unavailable(1.5), 1, 1.0) is None


def test_budget_stops_repeats_and_refills() -> None:
    """A server in trouble is not hammered; successes earn the right to repeat again."""
    retrier = Retrier(RetryPolicy(), lambda: 0.0)
    allowed = [retrier.pause(_Error(), _unavailable(), 1, 60) is not None for _ in range(20)]
    assert allowed == [True] * 4 + [False] * 16
    for _ in range(70):
        retrier.succeeded()
    assert retrier.pause(_Error(), _unavailable(), 1, 60) is not None


@pytest.mark.parametrize("kind", [errors.InternalError, errors.ResourceExhaustedError])
def test_other_kinds_cost_nothing(kind: type[errors.SetpointError]) -> None:
    """Errors that are never repeated do not spend the budget."""
    retrier = Retrier(RetryPolicy(), lambda: 0.0)
    for _ in range(20):
        assert retrier.pause(_Error(), kind(errors.Reason.INTERNAL, "no"), 1, 60) is None
    assert retrier.pause(_Error(), _unavailable(), 1, 60) is not None


def test_deadline_counts_down() -> None:
    """Time passes by the given clock and never becomes negative."""
    now = [10.0]
    deadline = Deadline(2.0, lambda: now[0])
    assert deadline.remaining() == 2.0
    now[0] = 11.5
    assert deadline.remaining() == 0.5
    now[0] = 99.0
    assert deadline.remaining() == 0.0
