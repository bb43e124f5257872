"""Whether something that failed is worth asking again."""

import time
from collections.abc import Callable
from typing import Final

PAUSE_SECONDS: Final = 0.25
"""How long the rest of the callers are spared the wait for something that does not answer."""


class Breaker:
    """After a failure one caller in each pause tries again, and the others do without.

    Calls that fail together may do so because this process stood still for a moment. So a failure counts
    once a call that began after another one's failure fails, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts in good faith; `clock` gives seconds."""
        self._clock = clock
        self._suspected_at: float | None = None
        self._retry_at: float | None = None

    def may_try(self) -> bool:
        """Tells whether to ask; a caller who is told so while it is open tries for all."""
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE_SECONDS
        return True

    def failed(self, began: float) -> bool:
        """Notes that a call that began then had no answer; tells whether that is news."""
        now = self._clock()
        if self._retry_at is not None:
            self._retry_at = now + PAUSE_SECONDS
            return False
        if self._suspected_at is None or began < self._suspected_at:
            self._suspected_at = self._suspected_at or now
            return False
        self._retry_at = now + PAUSE_SECONDS
        return True

    def succeeded(self) -> bool:
        """Notes an answer; tells whether that is news."""
        was_open = self._retry_at is not None
        self._suspected_at = self._retry_at = None
        return was_open
