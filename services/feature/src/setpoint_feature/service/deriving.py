"""Transformations of online reads, kept off the event loop when they take long."""

import asyncio
import time
import weakref
from dataclasses import dataclass
from typing import Final

from setpoint_columns import Columns
from setpoint_feature.domain import assemble, derivation, derived

INLINE_SECONDS: Final = 0.0005
"""Handing work to a thread and back costs about a fifth of this; the loop stands still no longer."""
CHECK_EVERY: Final = 256
"""One in so many calls proves again that no row depends on the others; the first of all does."""
_FEW_ROWS: Final = 64
"""Fewer rows hardly take less time: calling a function costs as much as computing so many values."""
_WEIGHT: Final = 0.2


@dataclass(slots=True)
class _Course:
    """What the calls of one derivation have been like."""

    calls: int = 0
    """Of more than one row."""
    pace: float | None = None
    """Seconds for a row; unknown at first, so the first call is taken for a long one."""


class Deriver:
    """Runs derivations, and learns how long each takes."""

    def __init__(self) -> None:
        """Knows of none yet."""
        self._courses: weakref.WeakKeyDictionary[derivation.Derivation, _Course] = (
            weakref.WeakKeyDictionary()
        )

    async def derive(
        self, recipe: derivation.Derivation, served: assemble.Served, given: Columns
    ) -> assemble.Served:
        """Returns an answer with the transformations' columns behind the features.

        Raises:
            InternalError: TRANSFORMATION_FAILED, naming the transformation.
        """
        course = self._courses.setdefault(recipe, _Course())
        rows = served.features.rows
        is_checked = False
        if rows > 1:
            is_checked = course.calls % CHECK_EVERY == 0
            course.calls += 1
        if course.pace is not None and _size(rows) * course.pace < INLINE_SECONDS:
            return _timed(course, recipe, served, given, is_checked)
        return await asyncio.to_thread(_timed, course, recipe, served, given, is_checked)


def _timed(
    course: _Course,
    recipe: derivation.Derivation,
    served: assemble.Served,
    given: Columns,
    is_checked: bool,
) -> assemble.Served:
    started = time.thread_time()
    try:
        return derived.derive(recipe, served, given, is_checked=is_checked)
    finally:
        pace = (time.thread_time() - started) / _size(served.features.rows)
        course.pace = pace if course.pace is None else course.pace + (pace - course.pace) * _WEIGHT


def _size(rows: int) -> int:
    return max(rows, _FEW_ROWS)
