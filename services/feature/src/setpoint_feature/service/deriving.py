"""Transformations of online reads, kept off the event loop when they take long."""

import dataclasses
import functools
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from setpoint_columns import Columns
from setpoint_feature.domain import assemble, derivation, derived
from setpoint_feature.service import apart
from setpoint_features import evaluation
from setpoint_runtime import errors

INLINE_SECONDS: Final = 0.0005
"""Handing work to a thread and back costs about a fifth of this; the loop stands still no longer."""
CHECKED_FIRST: Final = 16
"""So many calls prove that no row depends on the others; the rows of one alone may be alike by chance."""
CHECK_EVERY: Final = 256
"""After those, one in so many proves it again."""
_FEW_ROWS: Final = 64
"""Fewer rows hardly take less time: calling a function costs as much as computing so many values."""
_WEIGHT: Final = 0.2
_REMEMBERED: Final = 16
"""Calls of which the quickest tells how long a function waits: all of them were hindered hardly ever."""


@dataclass(slots=True)
class _Course:
    """What the calls of one derivation have been like."""

    calls: int = 0
    """Of more than one row."""
    pace: float | None = None
    """Seconds of work for a row; unknown at first, so the first call is taken for a long one."""
    waits: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """How long the last calls took by the clock: a function that sleeps or reads works little."""
    refusal: Callable[[], errors.InternalError] | None = None
    """Set for good when its function was found to mix rows."""

    def is_quick(self, rows: int) -> bool:
        """Tells whether a call is over so soon that the event loop can wait for it."""
        if self.pace is None or _size(rows) * self.pace >= INLINE_SECONDS:
            return False
        return min(list(self.waits)) < INLINE_SECONDS


class Deriver:
    """Runs derivations, and learns how long each takes."""

    def __init__(self, threads: apart.Threads) -> None:
        """Knows of none yet; those that take long run on threads."""
        self._threads = threads
        self._courses: weakref.WeakKeyDictionary[derivation.Derivation, _Course] = (
            weakref.WeakKeyDictionary()
        )

    async def derive(
        self, recipe: derivation.Derivation, served: assemble.Served, given: Columns
    ) -> assemble.Served:
        """Returns an answer with the transformations' columns behind the features.

        Raises:
            InternalError: TRANSFORMATION_FAILED, naming the transformation. One that has mixed rows once is
                refused from then on, single rows too: a caller who asks again for fewer would get its answers.
            UnavailableError: TRANSFORMATION_STUCK, when too many calls have not returned.
        """
        course = self._courses.setdefault(recipe, _Course())
        rows = served.features.rows
        is_checked = False
        if rows > 1:
            is_checked = course.calls < CHECKED_FIRST or course.calls % CHECK_EVERY == 0
            course.calls += 1
        if course.refusal is not None:
            raise course.refusal()
        try:
            if course.is_quick(rows):
                return _timed(course, recipe, served, given, is_checked)
            work = functools.partial(_timed, course, recipe, served, given, is_checked)
            return await self._threads.run(recipe, work)
        except evaluation.MixedRowsError as error:
            # By its words alone, not with its frames and the rows in them.
            course.refusal = functools.partial(
                errors.InternalError, error.reason, error.message, metadata=error.metadata
            )
            raise


def _timed(
    course: _Course,
    recipe: derivation.Derivation,
    served: assemble.Served,
    given: Columns,
    is_checked: bool,
) -> assemble.Served:
    started, began = time.thread_time(), time.perf_counter()
    try:
        return derived.derive(recipe, served, given, is_checked=is_checked)
    finally:
        course.waits.append(time.perf_counter() - began)
        pace = (time.thread_time() - started) / _size(served.features.rows)
        course.pace = pace if course.pace is None else course.pace + (pace - course.pace) * _WEIGHT


def _size(rows: int) -> int:
    return max(rows, _FEW_ROWS)
