"""Sorted rows of one view: what a segment holds, and what joins search.

A run keeps its rows by key, event time, created time and sequence, each key once, so that the position of
a row is its rank among the rows of its key. The history of a view is a few runs whose sequences do not
overlap; what is known at a time is the greatest of what each of them knows.
"""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import history, key_table, visibility

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """Packed rows, one after the other."""

    data: key_table.Bytes
    width: int
    """Bytes of each row; 0 where rows differ."""
    offsets: Rows | None = None
    """Where each row begins and the last one ends, where rows differ."""

    def take(self, rows: Rows) -> "Packed":
        """Returns some rows, in the order asked for."""
        if self.offsets is None:
            return Packed(self.matrix()[rows].reshape(-1), self.width)
        lengths = self.lengths()[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        positions = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        positions += np.arange(offsets[-1])
        return Packed(self.data[positions], 0, offsets)

    def matrix(self) -> key_table.Bytes:
        """Returns rows of equal width as a matrix of bytes."""
        return self.data.reshape(-1, self.width)

    def lengths(self) -> Rows:
        """Returns the bytes of each row."""
        if self.offsets is None:
            return np.full(len(self.data) // self.width, self.width, np.int64)
        return np.diff(self.offsets)

    def starts(self) -> Rows:
        """Returns where each row begins."""
        if self.offsets is None:
            return np.arange(0, len(self.data), self.width, dtype=np.int64)
        return self.offsets[:-1]


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Rows of each key in the order in which they become visible."""

    visible: visibility.Times
    winners: Rows | None
    """The greatest row so far; None where that is the row itself."""


class Run:
    """Rows of one view, sorted; they never change."""

    def __init__(
        self,
        keys: key_table.KeyTable,
        bounds: Rows,
        times: tuple[visibility.Times, visibility.Times],
        sequences: Numbers,
        packed: Packed,
    ) -> None:
        """Wraps sorted rows.

        Args:
            keys: The distinct keys, in the order of their bytes.
            bounds: Where the rows of each key begin, and where those of the last one end.
            times: Event and created times.
            sequences: Sequences.
            packed: Packed rows.
        """
        self.keys = keys
        self.bounds = bounds
        self.event_times, self.created_times = times
        self.sequences = sequences
        self.packed = packed
        self._index: key_table.KeyIndex | None = None
        self._timelines: dict[tuple[bool, bool], _Timeline] = {}

    @classmethod
    def build(cls, keys: Sequence[bytes], rows: history.StoredRows, width: int) -> "Run":
        """Sorts rows; `width` is the length of a packed row, 0 where they differ."""
        distinct = sorted(set(keys))
        numbers = {key: number for number, key in enumerate(distinct)}
        owners = np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
        data = np.frombuffer(rows.data, np.uint8)
        offsets = None if width else np.append(rows.starts, len(data))
        return _sorted(
            key_table.KeyTable.of(distinct),
            owners,
            (rows.event_times, rows.created_times),
            rows.sequences,
            Packed(data, width, offsets),
        )

    @classmethod
    def merge(cls, runs: Sequence["Run"], kept: Sequence[Rows | None]) -> "Run":
        """Makes one run of several.

        Args:
            runs: One or more runs of the same view.
            kept: For each of them the rows to keep, ascending; None for all.
        """
        parts = [
            run if rows is None else run.take(rows) for run, rows in zip(runs, kept, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        listed = [part.keys.to_list() for part in parts]
        distinct = sorted(set().union(*listed))
        numbers = {key: number for number, key in enumerate(distinct)}
        owners = [
            np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))[part.owners()]
            for part, keys in zip(parts, listed, strict=True)
        ]
        return _sorted(
            key_table.KeyTable.of(distinct),
            np.concatenate(owners),
            (
                np.concatenate([part.event_times for part in parts]),
                np.concatenate([part.created_times for part in parts]),
            ),
            np.concatenate([part.sequences for part in parts]),
            _joined([part.packed for part in parts]),
        )

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.sequences)

    def owners(self) -> Numbers:
        """Returns for each row the position of its key."""
        return np.repeat(np.arange(len(self.keys)), np.diff(self.bounds))

    def take(self, rows: Rows) -> "Run":
        """Returns a run of some rows, given in ascending order."""
        counts = np.bincount(self.owners()[rows], minlength=len(self.keys))
        used = np.flatnonzero(counts)
        bounds = np.zeros(len(used) + 1, np.int64)
        np.cumsum(counts[used], out=bounds[1:])
        return Run(
            self.keys.take(used),
            bounds,
            (self.event_times[rows], self.created_times[rows]),
            self.sequences[rows],
            self.packed.take(rows),
        )

    def find(
        self, wanted: key_table.KeyTable, hashes: key_table.Words, asked: Rows | None = None
    ) -> Numbers:
        """Returns the positions of some keys, -1 for those without rows here.

        Args:
            wanted: A table of keys.
            hashes: Their hashes.
            asked: Positions of those to find; all by default.
        """
        if self._index is None:
            self._index = key_table.KeyIndex(self.keys)
        asked = np.arange(len(wanted)) if asked is None else asked
        return self._index.find(wanted, hashes, asked)

    @functools.cached_property
    def event_span(self) -> tuple[int, int]:
        """The least and the greatest event time; there must be rows."""
        return int(self.event_times.min()), int(self.event_times.max())

    def position_after(self, key: bytes) -> int:
        """Returns the position of the first key that is greater."""
        return bisect.bisect_right(
            range(len(self.keys)),
            key,
            key=lambda position: self.keys.to_list(np.array([position]))[0],
        )

    def rows_of(self, positions: Numbers) -> tuple[Numbers, Rows]:
        """Returns all rows of some keys, in order, and for each which of the keys it has.

        Args:
            positions: Positions of keys; a negative one has no rows.
        """
        places = np.flatnonzero(positions >= 0)
        starts = self.bounds[positions[places]]
        counts = self.bounds[positions[places] + 1] - starts
        firsts = np.cumsum(counts) - counts
        rows = np.repeat(starts - firsts, counts)
        rows += np.arange(len(rows))
        return np.repeat(places, counts), rows

    def rows_at(self, positions: Numbers, times: visibility.Times) -> tuple[Numbers, Rows]:
        """Returns all rows of pairs of a key and an event time, and for each which of the pairs it has.

        Args:
            positions: Positions of keys; a negative one has no rows.
            times: The event time of each, later than the earliest that there is.
        """
        if not len(self):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        starts = self.bounds[positions]
        counts = np.where(positions >= 0, self.bounds[positions + 1] - starts, 0)
        before = _count_seen(self.event_times, starts, counts, times - 1)
        sizes = _count_seen(self.event_times, starts, counts, times) - before
        rows = np.repeat(starts + before - (np.cumsum(sizes) - sizes), sizes)
        rows += np.arange(len(rows))
        return np.repeat(np.arange(len(positions)), sizes), rows

    def search(self, rule: visibility.Rule, positions: Numbers, times: visibility.Times) -> Rows:
        """Returns the greatest row that each key knows at each time, or -1.

        Args:
            rule: When rows are seen.
            positions: Positions of keys; a negative one matches nothing.
            times: The time of each.
        """
        if not len(self):
            return np.full(len(positions), -1, np.int64)
        timeline = self._timeline(rule)
        starts = self.bounds[positions]
        counts = np.where(positions >= 0, self.bounds[positions + 1] - starts, 0)
        seen = _count_seen(timeline.visible, starts, counts, times)
        rows = starts + seen - 1
        if timeline.winners is not None:
            rows = timeline.winners[rows]
        return np.where(seen > 0, rows, -1)

    def stored(self, rows: Rows) -> history.StoredRows:
        """Returns some rows, in the order asked for."""
        packed = self.packed.take(rows)
        return history.StoredRows(
            self.event_times[rows],
            self.created_times[rows],
            self.sequences[rows],
            packed.data.tobytes(),
            packed.starts(),
        )

    def named(self, rows: Rows) -> history.NamedRows:
        """Returns some rows with their keys, in the order asked for."""
        positions = np.searchsorted(self.bounds, rows, side="right") - 1
        used, numbers = np.unique(positions, return_inverse=True)
        keys = self.keys.to_list(used)
        return history.NamedRows([keys[number] for number in numbers.tolist()], self.stored(rows))

    def _timeline(self, rule: visibility.Rule) -> _Timeline:
        found = self._timelines.get((rule.exclusive, rule.arrival))
        if found is None:
            found = self._arrange(rule.visible_from(self.event_times, self.created_times))
            self._timelines[rule.exclusive, rule.arrival] = found
        return found

    def _arrange(self, visible: visibility.Times) -> _Timeline:
        """Sorts the rows of the keys whose rows do not become visible in their own order."""
        falls = visible[1:] < visible[:-1]
        falls[self.bounds[1:-1] - 1] = False
        places = np.flatnonzero(falls)
        if not len(places):
            # Where rows are seen from their event times on, those need not be kept twice.
            is_same = np.array_equal(visible, self.event_times)
            return _Timeline(self.event_times if is_same else visible, None)
        positions = np.unique(np.searchsorted(self.bounds, places, side="right") - 1)
        owners, rows = self.rows_of(positions)
        order = np.lexsort((visible[rows], owners))
        arranged = visible.copy()
        arranged[rows] = visible[rows][order]
        winners = np.arange(len(self))
        # Rows of a later key have greater positions, so one running maximum serves all keys.
        winners[rows] = np.maximum.accumulate(rows[order])
        return _Timeline(arranged, winners)


def _count_seen(
    visible: visibility.Times, starts: Rows, counts: Numbers, times: visibility.Times
) -> Numbers:
    """Returns how many of the ascending values from each start on are not after each time."""
    seen = np.zeros(len(starts), np.int64)
    step = 1 << max(0, int(counts.max(initial=0)).bit_length() - 1)
    last = len(visible) - 1
    while step:
        further = seen + step
        fits = further <= counts
        fits &= visible[np.minimum(starts + further - 1, last)] <= times
        seen += fits * step
        step >>= 1
    return seen


def _sorted(
    keys: key_table.KeyTable,
    owners: Numbers,
    times: tuple[visibility.Times, visibility.Times],
    sequences: Numbers,
    packed: Packed,
) -> Run:
    order = np.lexsort((sequences, times[1], times[0], owners))
    bounds = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(keys)), out=bounds[1:])
    return Run(
        keys,
        bounds,
        (times[0][order], times[1][order]),
        sequences[order],
        packed.take(order),
    )


def _joined(parts: Sequence[Packed]) -> Packed:
    data = np.concatenate([part.data for part in parts])
    if all(part.offsets is None for part in parts):
        return Packed(data, parts[0].width)
    offsets = np.zeros(sum(len(part.lengths()) for part in parts) + 1, np.int64)
    np.cumsum(np.concatenate([part.lengths() for part in parts]), out=offsets[1:])
    return Packed(data, 0, offsets)
