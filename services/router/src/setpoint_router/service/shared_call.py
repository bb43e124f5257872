"""A call that several predictions share, given up when nobody waits for any of them."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from setpoint_router.domain.work import Job

T = TypeVar("T")


class AbandonedError(Exception):
    """All who waited for the call have left."""


class SharedCall:
    """Counts who waits. It holds no predictions, so that none outlives its answer because of it."""

    __slots__ = ("_is_abandoned", "_task", "_waiting")

    def __init__(self, jobs: Iterable[Job]) -> None:
        """Let predictions wait for one call."""
        self._task: asyncio.Task[None] | None = None
        self._is_abandoned = False
        self._waiting = 0
        for job in jobs:
            # Who has left already will not say so again, or only to the call of before.
            if job.is_left:
                job.call = None
            else:
                job.call = self
                self._waiting += 1

    async def run(self, call: Awaitable[T]) -> T:
        """Return what a call comes to, in the task that works for those who wait.

        Raises:
            AbandonedError: Nobody waits any more, and the call was cancelled.
        """
        task = self._task = asyncio.current_task()
        try:
            return await call
        except asyncio.CancelledError:
            if task is None or not self._is_abandoned or task.uncancel():
                # The task itself is being ended.
                raise
            raise AbandonedError from None
        finally:
            self._task = None

    def leave(self) -> None:
        """Take note that one of them has left."""
        self._waiting -= 1
        if not self._waiting and self._task is not None:
            self._is_abandoned = True
            self._task.cancel()
