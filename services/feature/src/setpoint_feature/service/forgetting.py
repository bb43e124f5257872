"""The owned task that forgets results whose time is over: some rows at once, and never in a hurry."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from setpoint_feature import ports
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

ROWS_AT_ONCE: Final = 5_000
"""Rows of one transaction, which takes some 25 milliseconds."""
REST: Final = 9.0
"""After a transaction the task rests this many times as long: it takes a tenth of a connection at most."""
LOOK_SECONDS: Final = 600.0

_LOGGER = logging.getLogger(__name__)


class Forgetting:
    """Keeps results for as long as they are wanted."""

    def __init__(
        self,
        store: ports.ResultStore,
        clock: clocks.Clock,
        lives: Mapping[ports.Results, float],
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        """Prepares; `run` does the work.

        Args:
            store: Deletes results.
            clock: Tells how old they are.
            lives: For how many seconds each kind is kept; 0 is for ever.
            rows_at_once: Most rows of one transaction.
        """
        self._store = store
        self._clock = clock
        self._lives = lives
        self._rows_at_once = rows_at_once
        self._is_failing = False
        self.counts: Counter[ports.Results] = Counter()

    async def run(self) -> None:
        """Looks again and again, for as long as the process lives."""
        while True:
            try:
                await self.tick()
                self._is_failing = False
            except errors.UnavailableError as error:
                if not self._is_failing:
                    _LOGGER.info("old results are kept for now: %s", error)
                self._is_failing = True
            await asyncio.sleep(LOOK_SECONDS)

    async def tick(self) -> None:
        """Forgets all that is due.

        Raises:
            UnavailableError: The database is away; the rest is forgotten later.
        """
        for what, seconds in self._lives.items():
            if seconds:
                await self._forget(what, self._clock.now_us() - int(seconds * 1_000_000))

    async def _forget(self, what: ports.Results, before: int) -> None:
        while True:
            started = self._clock.monotonic()
            gone = await self._store.forget(what, before, self._rows_at_once)
            self.counts[what] += gone
            if gone < self._rows_at_once:
                return
            await asyncio.sleep((self._clock.monotonic() - started) * REST)
