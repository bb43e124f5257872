"""Whether something that failed is worth asking again."""

import time
from collections.abc import Callable
from typing import Final

PAUSE_SECONDS: Final = 0.25
"""How long the rest of the callers are spared the wait for something that does not answer."""


class Breaker:
    """After a failure one caller in each pause tries again, and the others do without."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts in good faith; `clock` gives seconds."""
        self._clock = clock
        self._retry_at: float | None = None

    def may_try(self) -> bool:
        """Tells whether to ask; a caller who is told so after a failure tries for all."""
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE_SECONDS
        return True

    def failed(self) -> bool:
        """Notes that there was no answer; tells whether that is news."""
        is_news = self._retry_at is None
        self._retry_at = self._clock() + PAUSE_SECONDS
        return is_news

    def succeeded(self) -> bool:
        """Notes an answer; tells whether that is news."""
        is_news = self._retry_at is not None
        self._retry_at = None
        return is_news
