"""The owned task that forgets what has outlived its use: some rows at once, and never in a hurry."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, Generic, TypeVar

from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

ROWS_AT_ONCE: Final = 5_000
"""Rows of one transaction, which takes some 25 milliseconds."""
REST: Final = 9.0
"""After a transaction the task rests this many times as long: it takes a tenth of a connection at most."""
LOOK_SECONDS: Final = 600.0

_LOGGER = logging.getLogger(__name__)
_KindT = TypeVar("_KindT", bound=Hashable)


class Forgetting(Generic[_KindT]):
    """Keeps things of several kinds for as long as they are wanted."""

    def __init__(
        self,
        forget: Callable[[_KindT, int, int], Awaitable[int]],
        clock: clocks.Clock,
        lives: Mapping[_KindT, float],
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        """Prepares; `run` does the work.

        Args:
            forget: Deletes things of a kind from before a time in microseconds, at most so many;
                returns how many, less than the most when none is left.
            clock: Tells how old they are.
            lives: For how many seconds each kind is kept; 0 is for ever.
            rows_at_once: Most rows of one transaction.
        """
        self._delete = forget
        self._clock = clock
        self._lives = {kind: seconds for kind, seconds in lives.items() if seconds}
        self._rows_at_once = rows_at_once
        self._is_failing = False
        self.counts: Counter[_KindT] = Counter()

    async def run(self) -> None:
        """Looks again and again for as long as the process lives, unless all is kept for ever."""
        while self._lives:
            try:
                await self.tick()
                self._is_failing = False
            except errors.UnavailableError as error:
                if not self._is_failing:
                    _LOGGER.info("what is old is kept for now: %s", error)
                self._is_failing = True
            await asyncio.sleep(LOOK_SECONDS)

    async def tick(self) -> None:
        """Forgets all that is due.

        Raises:
            UnavailableError: The store is away; the rest is forgotten later.
        """
        for kind, seconds in self._lives.items():
            await self._forget(kind, self._clock.now_us() - int(seconds * 1_000_000))

    async def _forget(self, kind: _KindT, before: int) -> None:
        while True:
            started = self._clock.monotonic()
            gone = await self._delete(kind, before, self._rows_at_once)
            self.counts[kind] += gone
            if gone < self._rows_at_once:
                return
            await asyncio.sleep((self._clock.monotonic() - started) * REST)
