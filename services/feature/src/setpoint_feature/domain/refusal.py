"""Rows that break a rule: either the first of them refuses its batch, or each is refused alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_runtime import errors

LISTED: Final = 100
"""Errors that an answer lists; of the other rows it has the number."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowError:
    """What is wrong with one value."""

    row: int
    column: str
    value: str
    """Its beginning."""
    rule: str
    reason: errors.Reason


@dataclass(frozen=True, slots=True)
class Refused:
    """The rows of a batch that were not taken."""

    rows: int = 0
    errors: tuple[RowError, ...] = ()
    """Of the first of them."""

    def to_bytes(self) -> bytes:
        """Returns the form in which a replay finds it again; empty when nothing was refused."""
        if not self.rows:
            return b""
        listed = [
            [each.row, each.column, each.value, each.rule, each.reason] for each in self.errors
        ]
        return json.dumps([self.rows, listed]).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Refused":
        """Returns what `to_bytes` was made of."""
        if not data:
            return cls()
        rows, listed = json.loads(data)
        return cls(
            rows,
            tuple(
                RowError(row, column, value, rule, errors.Reason(reason))
                for row, column, value, rule, reason in listed
            ),
        )


NOTHING: Final = Refused()


class Judge:
    """Takes note of bad rows, or refuses the batch for the first one."""

    def __init__(self, rows: int, field: str, *, keep_good: bool) -> None:
        """Begins with good rows.

        Args:
            rows: How many there are.
            field: Path of the rows in the request, for errors.
            keep_good: Whether the good rows are kept where others are bad.
        """
        self._field = field
        self._keep_good = keep_good
        self._bad = np.zeros(rows, np.bool_)
        self._errors: list[RowError] = []

    def refuse(
        self,
        column: str,
        bad: Flags | None,
        value: Callable[[int], object],
        rule: str,
        reason: errors.Reason,
    ) -> None:
        """Refuses rows.

        Args:
            column: The column that is to blame.
            bad: The rows; None means none.
            value: Returns what a row holds there.
            rule: What it breaks.
            reason: The same for programs.

        Raises:
            InvalidArgumentError: Good rows are not to be kept without these.
        """
        if bad is None or not bad.any():
            return
        rows = np.flatnonzero(bad)[:LISTED].tolist()
        if not self._keep_good:
            path = f"{self._field}.{column}[{rows[0]}]"
            raise errors.invalid(path, value(rows[0]), rule, reason)
        self._bad |= bad
        self._errors += [
            RowError(row, column, errors.shortened(value(row)), rule, reason) for row in rows
        ]

    def good(self) -> npt.NDArray[np.intp] | None:
        """Returns the rows that are left, None when all are."""
        return np.flatnonzero(~self._bad) if self._errors else None

    def refused(self) -> Refused:
        """Returns what has been refused, the first rows first."""
        listed = sorted(self._errors, key=lambda each: each.row)[:LISTED]
        return Refused(int(np.count_nonzero(self._bad)), tuple(listed))
