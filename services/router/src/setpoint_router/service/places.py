"""A number of places, taken at once or in turn."""

import asyncio
import time
from collections import deque


class Places:
    """Places that whoever comes may take while one is free; who waits gets the next ones first."""

    def __init__(self, count: int) -> None:
        """Begin with every place free."""
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        """Whether none is free."""
        return self._free <= 0

    async def take(self, until: float | None = None) -> bool:
        """Take a place; say whether there was one.

        Args:
            until: How long to wait for it, in seconds of `time.monotonic`; None for not at all.
        """
        if self._free > 0:
            self._free -= 1
            return True
        if until is None:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It came at the very end, and nobody takes it.
                self.give_back()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give_back(self) -> None:
        """Leave a place to whoever waits for longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
