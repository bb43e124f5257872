"""Rows asked together, and by halves where that fails: a bad row is found and fails alone."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from setpoint_runtime import errors

Rows = npt.NDArray[np.intp]
AnswerT = TypeVar("AnswerT")

MAX_FAILURES_ALONE = 8
"""After so many single rows have broken what was asked, and none went well, nothing works."""

MAX_REFUSED_ALONE = 64
"""The same for rows that were refused by name: who does so works, and callers cannot be asked to answer
for each other's rows before a great many of them are bad."""


def may_be_one_row(error: errors.SetpointError) -> bool:
    """Say whether fewer rows might go well."""
    if isinstance(error, (errors.InvalidArgumentError, errors.InternalError)):
        return True
    too_much = isinstance(error, errors.ResourceExhaustedError)
    return too_much and error.reason is not errors.Reason.OVERLOADED


class Halving(Generic[AnswerT]):
    """One shared call's way to its answers."""

    __slots__ = ("_call", "_failed_alone", "_refused_alone", "errors", "parts")

    def __init__(self, call: Callable[[Rows], Awaitable[AnswerT]]) -> None:
        """Prepare.

        Args:
            call: Asks for rising positions of rows; raises a `SetpointError` when it cannot.
        """
        self._call = call
        self._failed_alone = 0
        self._refused_alone = 0
        self.parts: list[tuple[Rows, AnswerT]] = []
        """Rows that have been answered together, rising, with their answer."""
        self.errors: dict[int, errors.SetpointError] = {}
        """What became of the other rows."""

    async def run(self, rows: Rows) -> None:
        """Ask for rows; afterwards each of them is in a part or has an error."""
        try:
            answer = await self._call(rows)
        except errors.SetpointError as error:
            if len(rows) > 1 and may_be_one_row(error) and not self._is_hopeless(error):
                middle = len(rows) // 2
                await self.run(rows[:middle])
                await self.run(rows[middle:])
                return
            if isinstance(error, errors.InvalidArgumentError):
                self._refused_alone += 1
            else:
                self._failed_alone += 1
            self.errors.update(dict.fromkeys(rows.tolist(), error))
        else:
            self.parts.append((rows, answer))

    def _is_hopeless(self, error: errors.SetpointError) -> bool:
        if self.parts:
            return False
        if isinstance(error, errors.InvalidArgumentError):
            return self._refused_alone >= MAX_REFUSED_ALONE
        return self._failed_alone >= MAX_FAILURES_ALONE
