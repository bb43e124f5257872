"""Many entity keys as one string of bytes, compared and looked up without a loop over keys.

Keys are read eight bytes at a time, all keys at once. Look-ups go by a hash that decides nothing: what it
finds is compared byte by byte.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_WORD: Final = 8
# Row n keeps the first n bytes of a little-endian word.
_MASKS: Final = np.array([(1 << (8 * kept)) - 1 for kept in range(_WORD + 1)], np.uint64)
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)
# Python's own seed differs from process to process, so nobody can choose keys that collide.
_SEED: Final = np.uint64(hash("setpoint") & 0xFFFFFFFFFFFFFFFF)


class KeyTable:
    """Keys by position; two may be equal."""

    def __init__(self, data: Bytes, offsets: Positions) -> None:
        """Wraps bytes and the bounds of the keys in them.

        Args:
            data: The keys one after the other, and eight bytes or more behind them.
            offsets: Where each key begins, and where the last one ends.
        """
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> "KeyTable":
        """Makes a table of single keys."""
        offsets = np.zeros(len(keys) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)), out=offsets[1:])
        return cls(padded(b"".join(keys)), offsets)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self.offsets) - 1

    @property
    def content(self) -> Bytes:
        """The bytes of the keys, without what lies behind them."""
        return self.data[: int(self.offsets[-1])]

    def to_list(self, rows: Positions | None = None) -> list[bytes]:
        """Returns single keys: all, or those at some positions."""
        starts, stops = self.offsets[:-1], self.offsets[1:]
        if rows is not None:
            starts, stops = starts[rows], stops[rows]
        data = self.data.tobytes() if rows is None or len(rows) > len(self) >> 3 else None
        bounds = zip(starts.tolist(), stops.tolist(), strict=True)
        if data is None:
            return [self.data[start:stop].tobytes() for start, stop in bounds]
        return [data[start:stop] for start, stop in bounds]

    def take(self, rows: Positions) -> "KeyTable":
        """Returns the keys at some positions."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        positions = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        positions += np.arange(offsets[-1])
        return KeyTable(padded(self.data[positions]), offsets)

    def hashes(self) -> Words:
        """Returns a number for each key, the same for equal keys as long as the process lives."""
        lengths = np.diff(self.offsets)
        state = lengths.astype(np.uint64) ^ _SEED
        for rows, words in self.words(np.arange(len(self)), lengths):
            mixed = (state[rows] ^ words) * _FACTOR
            state[rows] = mixed ^ (mixed >> _SHIFT)
        return state * _FACTOR

    def equals(
        self, rows: Positions, other: "KeyTable", others: Positions
    ) -> npt.NDArray[np.bool_]:
        """Tells for each pair of positions whether the keys there are equal, byte by byte."""
        lengths = np.diff(self.offsets)[rows]
        same: Flags = lengths == np.diff(other.offsets)[others]
        pairs = np.flatnonzero(same)
        mine = self.words(rows[pairs], lengths[pairs])
        theirs = other.words(others[pairs], lengths[pairs])
        for (places, left), (_, right) in zip(mine, theirs, strict=True):
            same[pairs[places]] &= left == right
        return same

    def words(
        self, rows: Positions, lengths: Positions
    ) -> Iterator[tuple[Positions | slice, Words]]:
        """Yields the next eight bytes of each key that has so many, and which of `rows` these are."""
        windows: npt.NDArray[Any] = np.ndarray(
            (len(self.data) - _WORD + 1, _WORD), np.uint8, self.data, 0, (1, 1)
        )
        positions = self.offsets[rows]
        places: Positions | slice = slice(None)
        while len(positions):
            words = windows[positions].view("<u8").reshape(-1)
            words &= _MASKS[np.minimum(lengths, _WORD)]
            yield places, words
            more = lengths > _WORD
            if more.all():
                positions = positions + _WORD
                lengths = lengths - _WORD
                continue
            places = np.flatnonzero(more) if isinstance(places, slice) else places[more]
            positions = positions[more] + _WORD
            lengths = lengths[more] - _WORD


class KeyIndex:
    """Finds keys in a table of distinct keys."""

    def __init__(self, keys: KeyTable) -> None:
        """Sorts the hashes of the keys."""
        self._keys = keys
        hashes = keys.hashes()
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]

    def find(self, wanted: KeyTable, hashes: Words) -> Positions:
        """Returns the position of each wanted key, or -1.

        Args:
            wanted: The keys.
            hashes: Their hashes.
        """
        found = np.full(len(wanted), -1, np.int64)
        places = np.searchsorted(self._hashes, hashes)
        open_rows = np.arange(len(wanted))
        while True:
            inside = places < len(self._hashes)
            places, open_rows = places[inside], open_rows[inside]
            same_hash = self._hashes[places] == hashes[open_rows]
            places, open_rows = places[same_hash], open_rows[same_hash]
            if not len(open_rows):
                return found
            rows = self._rows[places]
            equal = wanted.equals(open_rows, self._keys, rows)
            found[open_rows[equal]] = rows[equal]
            # Another key with the same hash may follow.
            places, open_rows = places[~equal] + 1, open_rows[~equal]


def group(keys: KeyTable) -> tuple[Positions, Positions]:
    """Returns a number for each key, equal for equal keys, and the position of a key of each number."""
    hashes = keys.hashes()
    order = np.argsort(hashes)
    arranged = hashes[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = arranged[1:] != arranged[:-1]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(is_first) - 1
    firsts = order[is_first]
    if keys.equals(np.arange(len(keys)), keys, firsts[numbers]).all():
        return numbers, firsts
    # Different keys share a hash; Python's dictionary tells them apart.
    known: dict[bytes, int] = {}
    listed = keys.to_list()
    numbers = np.array([known.setdefault(key, len(known)) for key in listed], np.int64)
    return numbers, np.unique(numbers, return_index=True)[1]


def padded(data: bytes | Bytes) -> Bytes:
    """Returns bytes with room behind them, so that the last ones can be read as a whole word."""
    found = np.zeros(len(data) + _WORD, np.uint8)
    found[: len(data)] = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    return found
