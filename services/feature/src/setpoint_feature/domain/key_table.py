"""Many entity keys as one string of bytes, compared and looked up without a loop over keys.

Keys are read eight bytes at a time, all keys at once. Look-ups go by a hash that decides nothing: what it
finds is compared byte by byte.
"""

import functools
import math
import operator
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
_HALF: Final = np.uint64(32)
_LOWER: Final = np.uint64(0xFFFFFFFF)
_EMPTY: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
"""No key is at this position: there are fewer."""


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

    @classmethod
    def concat(cls, tables: Sequence["KeyTable"]) -> "KeyTable":
        """Joins tables, in order."""
        lengths = [np.diff(table.offsets) for table in tables]
        offsets = np.zeros(sum(map(len, tables)) + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return cls(padded(np.concatenate([table.content for table in tables])), offsets)

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
        for rows, words in self._all_words(lengths):
            mixed = (state[rows] ^ words) * _FACTOR
            state[rows] = mixed ^ (mixed >> _SHIFT)
        return state * _FACTOR

    def _all_words(self, lengths: Positions) -> Iterator[tuple[Positions | slice, Words]]:
        """Yields what `words` yields of all keys, without gathering where they are of one width."""
        if not self.width:
            yield from self.words(np.arange(len(self)), lengths)
            return
        for start in range(0, self.width, _WORD):
            words: Words = np.ndarray((len(self),), "<u8", self.data, start, (self.width,))
            yield slice(None), words & _MASKS[min(self.width - start, _WORD)]

    def equals(
        self, rows: Positions, other: "KeyTable", others: Positions
    ) -> npt.NDArray[np.bool_]:
        """Tells for each pair of positions whether the keys there are equal, byte by byte."""
        if self.width and self.width == other.width:
            mine, theirs = self.units().take(rows, 0), other.units().take(others, 0)
            # Column by column; a reduction along so short an axis takes several times as long.
            return functools.reduce(
                operator.and_, (left == right for left, right in zip(mine.T, theirs.T, strict=True))
            )
        lengths = np.diff(self.offsets)[rows]
        same: Flags = lengths == np.diff(other.offsets)[others]
        pairs = np.flatnonzero(same)
        words = zip(
            self.words(rows[pairs], lengths[pairs]),
            other.words(others[pairs], lengths[pairs]),
            strict=True,
        )
        for (places, left), (_, right) in words:
            same[pairs[places]] &= left == right
        return same

    @functools.cached_property
    def width(self) -> int:
        """Bytes of each key, 0 where keys differ in length."""
        if not len(self):
            return 0
        width = int(self.offsets[1])
        return width if (np.diff(self.offsets) == width).all() else 0

    def units(self) -> npt.NDArray[Any]:
        """Returns keys of one width as rows of the largest integers that such a key consists of."""
        kind = f"u{math.gcd(self.width, _WORD)}"
        return self.content.reshape(-1, self.width).view(kind)

    def words(
        self, rows: Positions, lengths: Positions
    ) -> Iterator[tuple[Positions | slice, Words]]:
        """Yields the next eight bytes of each key that has so many, and which of `rows` these are."""
        # The word that begins at each byte.
        windows: Words = np.ndarray((len(self.data) - _WORD + 1,), "<u8", self.data, 0, (1,))
        positions = self.offsets[rows]
        places: Positions | slice = slice(None)
        while len(positions):
            words = windows[positions]
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
    """Finds keys in a table of distinct keys: a hash table with open addressing, asked for many keys at once.

    A place holds half of a key's hash and the key's position, so that one look tells nearly always whether
    the key may be the wanted one.
    """

    def __init__(self, keys: KeyTable) -> None:
        """Puts the keys into places that their hashes choose."""
        self._keys = keys
        bits = max(4, (2 * len(keys)).bit_length())
        self._mask = (1 << bits) - 1
        # The upper bits of a hash depend on all of a key's bits.
        self._shift = np.uint64(64 - bits)
        self._table = np.full(1 << bits, _EMPTY)
        hashes = keys.hashes()
        entries = (hashes << _HALF) | np.arange(len(keys), dtype=np.uint64)
        places = self._places(hashes)
        while len(entries):
            free = self._table[places] == _EMPTY
            # Of several that want one place the last gets it.
            self._table[places[free]] = entries[free]
            homeless = self._table[places] != entries
            entries, places = entries[homeless], self._next(places[homeless])

    def find(self, wanted: KeyTable, hashes: Words, asked: Positions) -> Positions:
        """Returns the position of some wanted keys, or -1.

        Args:
            wanted: A table of keys.
            hashes: Their hashes.
            asked: Positions of those to find.
        """
        found = np.full(len(asked), -1, np.int64)
        hashes = hashes[asked]
        places = self._places(hashes)
        tags = hashes & _LOWER
        still = np.arange(len(asked))
        while len(still):
            entries = self._table[places]
            alike = np.flatnonzero((entries >> _HALF == tags) & (entries != _EMPTY))
            rows = (entries[alike] & _LOWER).astype(np.int64)
            equal = wanted.equals(asked[still[alike]], self._keys, rows)
            found[still[alike[equal]]] = rows[equal]
            # What is neither found nor known to be absent may lie in the next place.
            more = entries != _EMPTY
            more[alike[equal]] = False
            places, tags, still = self._next(places[more]), tags[more], still[more]
        return found

    def _places(self, hashes: Words) -> Positions:
        return (hashes >> self._shift).astype(np.int64)

    def _next(self, places: Positions) -> Positions:
        return (places + 1) & self._mask


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
