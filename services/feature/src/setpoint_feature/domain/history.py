"""Stored rows on their way out of the history, as arrays."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import packing, plan, point_in_time, visibility


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of one view: times and sequences as arrays, packed rows one after the other."""

    event_times: visibility.Times
    created_times: visibility.Times
    sequences: npt.NDArray[np.int64]
    data: bytes
    starts: packing.Positions
    """Where each row begins in `data`."""

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.sequences)

    def row(self, index: int) -> bytes:
        """Returns one packed row."""
        stop = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.data)
        return self.data[self.starts[index] : stop]


EMPTY = StoredRows(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), b"", np.zeros(0, np.int64)
)


@dataclass(frozen=True, slots=True)
class NamedRows:
    """Stored rows with the bytes of their keys."""

    keys: list[bytes]
    rows: StoredRows


@dataclass(frozen=True, slots=True)
class NumberedRows:
    """Stored rows whose keys are positions in a list of keys asked for."""

    keys: npt.NDArray[np.int64]
    rows: StoredRows


def concat(parts: Sequence[StoredRows], tail: bytes = b"") -> StoredRows:
    """Joins stored rows, in order, with some bytes behind them."""
    if not parts:
        return dataclasses.replace(EMPTY, data=tail)
    bases = np.cumsum([0, *(len(part.data) for part in parts[:-1])])
    return StoredRows(
        np.concatenate([part.event_times for part in parts]),
        np.concatenate([part.created_times for part in parts]),
        np.concatenate([part.sequences for part in parts]),
        b"".join([*(part.data for part in parts), tail]),
        np.concatenate([part.starts + base for part, base in zip(parts, bases, strict=True)]),
    )


def without_values(rows: StoredRows) -> StoredRows:
    """Returns rows of which only times and sequences are left."""
    return dataclasses.replace(rows, data=b"", starts=np.zeros(len(rows), np.int64))


def chosen(rows: StoredRows, positions: npt.NDArray[np.int64]) -> StoredRows:
    """Returns some rows, which lie where they lay; `row` does not work on them."""
    return StoredRows(
        rows.event_times[positions],
        rows.created_times[positions],
        rows.sequences[positions],
        rows.data,
        rows.starts[positions],
    )


def concat_named(parts: Sequence[NamedRows]) -> NamedRows:
    """Joins stored rows and their keys, in order."""
    found = [part for part in parts if part.keys]
    if len(found) == 1:
        return found[0]
    keys = [key for part in found for key in part.keys]
    return NamedRows(keys, concat([part.rows for part in found]))


def concat_numbered(parts: Sequence[NumberedRows]) -> NumberedRows:
    """Joins stored rows and the positions of their keys, in order."""
    found = [part for part in parts if len(part.keys)]
    if len(found) == 1:
        return found[0]
    keys = np.concatenate([part.keys for part in found]) if found else np.zeros(0, np.int64)
    return NumberedRows(keys, concat([part.rows for part in found]))


class KeyNumbers:
    """Numbers for entity keys, in the order in which they first appear."""

    def __init__(self) -> None:
        """Starts without any key."""
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Returns how many keys have a number."""
        return len(self._numbers)

    def assign(self, keys: Iterable[bytes]) -> npt.NDArray[np.int64]:
        """Returns the number of each key, new ones for new keys."""
        numbers = self._numbers
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)

    def find(self, keys: Sequence[bytes | None]) -> npt.NDArray[np.int64]:
        """Returns the number of each key, -1 for null and unknown ones."""
        get = self._numbers.get
        # None is never a key of the dictionary, so a null part finds nothing.
        return np.array([get(key, -1) for key in keys], np.int64)  # type: ignore[arg-type]


class Past:
    """Stored rows of one view, ready for joins."""

    def __init__(
        self,
        view: plan.CompiledView,
        rule: visibility.Rule,
        keys: npt.NDArray[np.int64],
        parts: Sequence[StoredRows],
    ) -> None:
        """Joins and sorts the rows; `keys` are the numbers of their keys."""
        self.view = view
        self.rule = rule
        self.keys = keys
        # The row of defaults lies behind the others, where every join finds it.
        self.rows = concat(parts, view.layout.defaults)
        self.defaults = len(self.rows.data) - len(view.layout.defaults)
        self._timeline = point_in_time.Timeline(
            point_in_time.Values(
                keys, self.rows.event_times, self.rows.created_times, self.rows.sequences
            ),
            rule,
        )

    def search(self, keys: npt.NDArray[np.int64], times: visibility.Times) -> npt.NDArray[np.int64]:
        """Returns the position of the row known for each (key, T), or -1."""
        return self._timeline.search(keys, times)
