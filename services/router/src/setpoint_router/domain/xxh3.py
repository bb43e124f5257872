"""XXH3-64 of many short texts at once, in numpy.

Called one by one, the C library spends most of its time on making Python objects. Here all texts of
one size class go through each step together: 64 bits of every text are one array. Texts lie joined
in one buffer with offsets, as in an Arrow column, and are hashed behind a common prefix without being
joined with it.

The result is that of XXH3_64bits without a seed, for every length; texts longer than 128 bytes with
their prefix take the library's way.
"""

import numpy as np
import numpy.typing as npt
import xxhash

Words = npt.NDArray[np.uint64]

CHUNK = 16_384
"""Texts at a time: so that the arrays of a step stay in the second-level cache."""

_FEW = 400
"""Up to this many texts the library alone is quicker than numpy's calls."""

_LONGEST = 128
_CLASSES = (3, 8, 16, 32, 64, 96, _LONGEST)
"""Largest length of each size class; the algorithm treats every class in its own way."""

_CLASS_OF = np.searchsorted(_CLASSES, np.arange(_LONGEST + 2)).astype(np.uint8)

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
).astype(np.uint64)
"""The beginning of the algorithm's built-in secret, as little-endian words."""

_PRIME = np.uint64(0x9E3779B185EBCA87)
_SHORT_PRIMES = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_MIDDLE_PRIME = np.uint64(0x9FB21C651E98DF25)
_LAST_PRIME = np.uint64(0x165667919E3779F9)
_LOWER_HALF = np.uint64(0xFFFFFFFF)


def hashes(
    prefix: bytes, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint64]:
    """Returns the hash of prefix and text for each text.

    Args:
        prefix: What every text is hashed behind; at least one byte.
        data: All texts, one after the other.
        offsets: Where each of them begins, and where the last one ends.
    """
    if not prefix:
        raise ValueError("the prefix has at least one byte")
    count = len(offsets) - 1
    if count <= _FEW:
        return _one_by_one(prefix, data, offsets[:-1], offsets[1:])
    found = np.empty(count, np.uint64)
    texts = _Buffer(prefix, data)
    for at in range(0, count, CHUNK):
        bounds = offsets[at : at + CHUNK + 1].astype(np.int64)
        texts.hash_into(found[at : at + CHUNK], bounds[:-1], bounds[1:])
    return found


def _one_by_one(
    prefix: bytes,
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.integer],
    stops: npt.NDArray[np.integer],
) -> Words:
    raw, digest = np.ascontiguousarray(data).data, xxhash.xxh3_64_intdigest
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    return np.array([digest(prefix + raw[start:stop]) for start, stop in bounds], np.uint64)


class _Buffer:
    """Texts in a buffer, behind a prefix that is not there."""

    def __init__(self, prefix: bytes, data: npt.NDArray[np.uint8]) -> None:
        self._prefix = prefix
        self._data = data
        # A word is read wherever a text begins, also at the very end.
        padded = np.concatenate([data, np.zeros(8, np.uint8)])
        self._words: Words = np.ndarray((len(data) + 1,), "<u8", padded, strides=(1,))
        padding = bytes(8)
        self.prefix_words = np.array(
            [
                int.from_bytes((prefix + padding)[at : at + 8], "little")
                for at in range(len(prefix) + 1)
            ],
            np.uint64,
        )
        """The eight bytes from each byte of the prefix on, with nothing behind it."""

    def read(self, positions: npt.NDArray[np.int64]) -> Words:
        """Return the eight bytes from each position on."""
        found: Words = self._words[positions]
        return found

    def hash_into(
        self, found: Words, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> None:
        """Write the hashes of some texts into an array."""
        lengths = stops - starts
        lengths += len(self._prefix)
        classes = _CLASS_OF[np.minimum(lengths, _LONGEST + 1)]
        counts = np.bincount(classes, minlength=len(_CLASSES) + 1).tolist()
        for number, count in enumerate(counts):
            if not count:
                continue
            rows = slice(None) if count == len(found) else np.flatnonzero(classes == number)
            if number == len(_CLASSES):
                found[rows] = _one_by_one(self._prefix, self._data, starts[rows], stops[rows])
            else:
                found[rows] = _HASHES[number](_Texts(self, starts[rows], lengths[rows]))


class _Texts:
    """Texts of one size class, read in words of 64 bits."""

    def __init__(
        self, buffer: _Buffer, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        self._buffer = buffer
        self._starts = starts
        self._lengths = lengths
        self.lengths: Words = lengths.astype(np.uint64)
        """With the prefix."""

    def word(self, position: int) -> Words:
        """Return the eight bytes from a position on; what lies behind a text is anything."""
        buffer, behind = self._buffer, position - (len(self._buffer.prefix_words) - 1)
        if behind >= 0:
            return buffer.read(self._starts + behind)
        own = buffer.prefix_words[position : position + 1]
        if behind <= -8:
            return own
        return own | (buffer.read(self._starts) << np.uint64(-8 * behind))

    def last_word(self, distance: int) -> Words:
        """Return the eight bytes that begin so far before the end."""
        buffer = self._buffer
        prefix_length = len(buffer.prefix_words) - 1
        behind = self._lengths - (prefix_length + distance)
        if behind.min() >= 0:
            return buffer.read(self._starts + behind)
        own = buffer.prefix_words[np.minimum(self._lengths - distance, prefix_length)]
        # Shifted by 64 or more, nothing of the text is left.
        shift = np.maximum(-8 * behind, 0).astype(np.uint64)
        return own | (buffer.read(self._starts + np.maximum(behind, 0)) << shift)


def _hash_1_to_3(texts: _Texts) -> Words:
    word, length = texts.word(0), texts.lengths
    first = word & np.uint64(0xFF)
    middle = (word >> ((length >> np.uint64(1)) << np.uint64(3))) & np.uint64(0xFF)
    last = (word >> ((length - np.uint64(1)) << np.uint64(3))) & np.uint64(0xFF)
    found: Words = first << np.uint64(16) | middle << np.uint64(24) | last | length << np.uint64(8)
    found ^= (_SECRET[0] ^ (_SECRET[0] >> np.uint64(32))) & _LOWER_HALF
    found ^= found >> np.uint64(33)
    found *= _SHORT_PRIMES[0]
    found ^= found >> np.uint64(29)
    found *= _SHORT_PRIMES[1]
    found ^= found >> np.uint64(32)
    return found


def _hash_4_to_8(texts: _Texts) -> Words:
    word, length = texts.word(0), texts.lengths
    last = (word >> ((length - np.uint64(4)) << np.uint64(3))) & _LOWER_HALF
    found = (word << np.uint64(32)) + last
    found ^= _SECRET[1] ^ _SECRET[2]
    found ^= _rotated(found, 49) ^ _rotated(found, 24)
    found *= _MIDDLE_PRIME
    found ^= (found >> np.uint64(35)) + length
    found *= _MIDDLE_PRIME
    found ^= found >> np.uint64(28)
    return found


def _hash_9_to_16(texts: _Texts) -> Words:
    low = texts.word(0) ^ (_SECRET[3] ^ _SECRET[4])
    high = texts.last_word(8) ^ (_SECRET[5] ^ _SECRET[6])
    found = texts.lengths + low.byteswap()
    found += high
    found += _folded(low, high)
    return _avalanched(found)


def _hash_17_to_128(texts: _Texts, pairs: int) -> Words:
    """Mixes 16 bytes from the front and 16 from the end, as many times as the class wants."""
    found = texts.lengths * _PRIME
    for pair in range(pairs):
        secret, at = _SECRET[4 * pair : 4 * pair + 4], 16 * pair
        found += _folded(texts.word(at) ^ secret[0], texts.word(at + 8) ^ secret[1])
        low, high = texts.last_word(at + 16), texts.last_word(at + 8)
        found += _folded(low ^ secret[2], high ^ secret[3])
    return _avalanched(found)


_HASHES = (
    _hash_1_to_3,
    _hash_4_to_8,
    _hash_9_to_16,
    lambda texts: _hash_17_to_128(texts, 1),
    lambda texts: _hash_17_to_128(texts, 2),
    lambda texts: _hash_17_to_128(texts, 3),
    lambda texts: _hash_17_to_128(texts, 4),
)


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _avalanched(words: Words) -> Words:
    words ^= words >> np.uint64(37)
    words *= _LAST_PRIME
    words ^= words >> np.uint64(32)
    return words


def _folded(one: Words, other: Words) -> Words:
    """Returns the two halves of 128-bit products, xored; the upper one is made of 32-bit pieces."""
    half = np.uint64(32)
    one_low, one_high = one & _LOWER_HALF, one >> half
    other_low, other_high = other & _LOWER_HALF, other >> half
    crossed = one_high * other_low
    middle = one_low * other_low
    middle >>= half
    middle += crossed & _LOWER_HALF
    middle += one_low * other_high
    crossed >>= half
    middle >>= half
    one_high = one_high * other_high
    one_high += crossed
    one_high += middle
    return one_high ^ (one * other)
