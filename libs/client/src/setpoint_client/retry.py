"""When a failed call is repeated, and after which pause. The only layer of retries in the client."""

import random
import threading
import time
from collections.abc import Callable
from typing import Final

import grpc

from setpoint_client import failures
from setpoint_client.options import RetryPolicy
from setpoint_runtime import errors

_FULL: Final = 10.0
_REFUND: Final = 0.1
_USEFUL_SECONDS: Final = 0.01
"""With less time left than this after the pause another attempt is not worth the load."""


class Deadline:
    """A moment by which a call, with all its attempts and pieces, must be over."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Sets the moment, `seconds` from now."""
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Returns the seconds left, at least 0."""
        return max(0.0, self._end - self._clock())


class Retrier:
    """Decides about repeating calls, for all threads of one client.

    All calls share one budget, as gRPC's own retries do: failures spend it, successes earn it back
    slowly, and below half of it nothing is repeated. A server in trouble thus sees little more than the
    normal load.
    """

    def __init__(self, policy: RetryPolicy, draw: Callable[[], float] = random.random) -> None:
        """Starts with a full budget; `draw` gives numbers from 0 to 1."""
        self._policy = policy
        self._draw = draw
        self._tokens = _FULL
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """Notes an answered call."""
        if self._tokens < _FULL:
            with self._lock:
                self._tokens = min(_FULL, self._tokens + _REFUND)

    def pause(
        self, error: grpc.RpcError, known: errors.SetpointError, attempt: int, remaining: float
    ) -> float | None:
        """Returns the seconds to wait before the next attempt, or None to give up.

        Args:
            error: What the call failed with.
            known: The same as a typed error.
            attempt: Number of the attempt that failed, from 1.
            remaining: Seconds until the deadline.
        """
        if not isinstance(known, errors.UnavailableError) or failures.forbids_retry(error):
            return None
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            exhausted = self._tokens <= _FULL / 2
        if exhausted or attempt >= self._policy.max_attempts:
            return None
        longest = self._policy.initial_seconds * self._policy.multiplier ** (attempt - 1)
        pause = self._draw() * min(longest, self._policy.max_seconds)
        pause = max(pause, known.retry_after_seconds or 0.0)
        return pause if pause + _USEFUL_SECONDS < remaining else None
