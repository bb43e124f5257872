"""The rules in force, for everybody who watches them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from setpoint_runtime import errors
from setpoint_validation import ports
from setpoint_validation.domain.suite import Snapshot

_LOGGER = logging.getLogger(__name__)


class RuleFeed:
    """Holds the last snapshot and tells its watchers of each new one.

    One reader for all watchers: it looks for a new revision at intervals, which finds the changes of other replicas,
    and at once when this process changed something. While the store is away the last snapshot stays.
    """

    def __init__(self, source: ports.RuleSource, poll_seconds: float) -> None:
        """Connect the feed.

        Args:
            source: Where the rules are.
            poll_seconds: Time between two looks.
        """
        self._source = source
        self._poll_seconds = poll_seconds
        self._snapshot: Snapshot | None = None
        self._changed = asyncio.Condition()
        self._poked = asyncio.Event()
        self._is_failing = False

    def poke(self) -> None:
        """Look for a change at once."""
        self._poked.set()

    async def run(self) -> None:
        """Keep the snapshot up to date until cancelled."""
        while True:
            self._poked.clear()
            await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._poked.wait()

    async def _look(self) -> None:
        try:
            await self.refresh()
        except errors.SetpointError as error:
            # Also a rule that only a newer release understands: the last snapshot is the safe one.
            if not self._is_failing:
                _LOGGER.warning("the rules cannot be read, the last ones stay in force: %s", error)
            self._is_failing = True
        else:
            if self._is_failing:
                _LOGGER.info("the rules can be read again")
            self._is_failing = False

    async def refresh(self) -> None:
        """Take the newest snapshot if there is a new one.

        Raises:
            SetpointError: The store is away.
        """
        revision = await self._source.get_revision()
        # Not "greater than": a restored database may have gone back.
        if self._snapshot is not None and self._snapshot.revision == revision:
            return
        snapshot = await self._source.get_snapshot()
        async with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        """Yield the snapshot and each new one; who is slow gets the newest and misses those between."""
        seen: Snapshot | None = None
        while True:
            async with self._changed:
                while self._snapshot is None or self._snapshot is seen:
                    await self._changed.wait()
                seen = self._snapshot
            yield seen
