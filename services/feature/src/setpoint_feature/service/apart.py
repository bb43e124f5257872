"""Functions of others on threads of their own: one that never returns takes nothing else along.

A thread cannot be ended from outside. Those whose callers have left are counted until they end, and
beyond a limit no further one is begun. They share no pool with anything else, and a process that stops
does not wait for them.
"""

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from setpoint_feature.domain import derivation
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

LOST_OF_ONE: Final = 2
"""So many calls of one set's transformations may go on without their callers."""
LOST: Final = 16
"""The same for all sets together."""
_RETRY_SECONDS: Final = 1.0

T = TypeVar("T")


class Threads:
    """Runs transformations."""

    def __init__(self, at_once: int = 0) -> None:
        """Prepares; so many calls whose callers wait run at once, 0 means a few for each core."""
        self._turns = asyncio.Semaphore(at_once or (os.cpu_count() or 1) + 4)
        self._lost_of: weakref.WeakKeyDictionary[derivation.Derivation, int] = (
            weakref.WeakKeyDictionary()
        )
        self.lost = 0
        """Calls that go on although their callers have left."""

    async def run(self, recipe: derivation.Derivation, work: Callable[[], T]) -> T:
        """Returns what the transformations of a set do on a thread.

        Raises:
            UnavailableError: TRANSFORMATION_STUCK, when too many of their calls have not returned.
        """
        async with self._turns:
            self._refuse_stuck(recipe)
            call = _Call(work, functools.partial(self._returned, recipe))
            try:
                return await call.answer
            except asyncio.CancelledError:
                if call.leave():
                    self._note(recipe, 1)
                    _LOGGER.warning(
                        "transformations %s go on although their caller has left, as %d calls do",
                        _names(recipe),
                        self.lost,
                    )
                raise

    def _refuse_stuck(self, recipe: derivation.Derivation) -> None:
        own = self._lost_of.get(recipe, 0)
        if own < LOST_OF_ONE and self.lost < LOST:
            return
        raise errors.UnavailableError(
            errors.Reason.TRANSFORMATION_STUCK,
            f"{self.lost} calls of transformations have not returned since their callers left, "
            f"{own} of them of {_names(recipe)}",
            retry_after_seconds=_RETRY_SECONDS,
        )

    def _returned(self, recipe: derivation.Derivation) -> None:
        self._note(recipe, -1)
        _LOGGER.info("transformations %s have returned after all", _names(recipe))

    def _note(self, recipe: derivation.Derivation, change: int) -> None:
        self._lost_of[recipe] = self._lost_of.get(recipe, 0) + change
        self.lost += change


class _Call(Generic[T]):
    """One call on a thread of its own."""

    def __init__(self, work: Callable[[], T], returned: Callable[[], None]) -> None:
        """Begins; `returned` hears of its end when its caller has left before."""
        self._loop = asyncio.get_running_loop()
        self._returned = returned
        self._is_over = self._is_left = False
        self.answer: asyncio.Future[T] = self._loop.create_future()
        run = contextvars.copy_context().run
        # No process waits for a daemon when it stops.
        threading.Thread(
            target=self._work, args=(lambda: run(work),), name="transformation", daemon=True
        ).start()

    def leave(self) -> bool:
        """Says whether the call goes on without its caller."""
        self._is_left = not self._is_over
        return self._is_left

    def _work(self, work: Callable[[], T]) -> None:
        try:
            outcome = work()
        except BaseException as error:
            self._tell(self.answer.set_exception, error)
        else:
            self._tell(self.answer.set_result, outcome)

    def _tell(self, settle: Callable[[Any], None], outcome: Any) -> None:
        # The loop may be closed long before a function of somebody else's returns.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, settle, outcome)

    def _end(self, settle: Callable[[Any], None], outcome: Any) -> None:
        self._is_over = True
        if self._is_left:
            self._returned()
        elif not self.answer.done():
            settle(outcome)


def _names(recipe: derivation.Derivation) -> str:
    return ", ".join(step.name for step in recipe.steps)
