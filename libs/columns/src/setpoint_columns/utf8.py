"""Checks and conversions of UTF-8 text held as one byte buffer and offsets."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns.dtypes import MAX_TEXT_BYTES

_SMALL = 64
"""Up to this many offsets a plain list is quicker than numpy's call overhead."""


def is_monotonic(offsets: npt.NDArray[np.int32]) -> bool:
    """Tells whether no offset is smaller than the one before it."""
    if len(offsets) <= _SMALL:
        listed = offsets.tolist()
        return bool(listed == sorted(listed))
    return bool((offsets[1:] >= offsets[:-1]).all())


def first_descent(offsets: npt.NDArray[np.int32]) -> int:
    """Returns the first position whose offset is smaller than the one before it."""
    return int(np.flatnonzero(offsets[1:] < offsets[:-1])[0]) + 1


def first_invalid_row(data: bytes, offsets: npt.NDArray[np.int32]) -> int | None:
    """Returns the first row whose bytes are not valid UTF-8 by themselves, or None.

    Text that is valid as a whole is also valid row by row unless an offset splits a code point, which
    shows in a row that begins with a continuation byte. Both checks run over the whole buffer, so the
    slow search by row happens only to name a row already known to be wrong.

    Args:
        data: All text bytes.
        offsets: Monotonic offsets within `data`, one more than there are rows.
    """
    if data.isascii():
        return None
    start, stop = int(offsets[0]), int(offsets[-1])
    try:
        (data if stop - start == len(data) else data[start:stop]).decode("utf-8")
    except UnicodeDecodeError:
        return _search_invalid_row(data, offsets)
    inner = offsets[offsets < stop]
    heads = np.frombuffer(data, np.uint8)[inner]
    if ((heads & 0xC0) == 0x80).any():
        return _search_invalid_row(data, offsets)
    return None


def _search_invalid_row(data: bytes, offsets: npt.NDArray[np.int32]) -> int:
    bounds = offsets.tolist()
    for row, (start, stop) in enumerate(itertools.pairwise(bounds)):
        try:
            data[start:stop].decode("utf-8")
        except UnicodeDecodeError:
            return row
    raise AssertionError("the buffer was found invalid, but each row is valid")


def decode(values: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]) -> list[str]:
    """Returns the text of each row."""
    bounds = offsets.tolist()
    start = bounds[0]
    data = values[start : bounds[-1]].tobytes()
    if start:
        bounds = [bound - start for bound in bounds]
    if data.isascii():
        text = data.decode("ascii")
        return [text[first:last] for first, last in itertools.pairwise(bounds)]
    return [data[first:last].decode("utf-8") for first, last in itertools.pairwise(bounds)]


def encode(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32] | None]:
    """Returns the joined UTF-8 bytes of texts and offsets, None when int32 cannot hold them.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.
    """
    joined = "".join(texts)
    if joined.isascii():
        data = joined.encode("ascii")
        lengths = list(map(len, texts))
    else:
        parts = [text.encode("utf-8") for text in texts]
        data = b"".join(parts)
        lengths = list(map(len, parts))
    values = np.frombuffer(data, np.uint8)
    if len(data) > MAX_TEXT_BYTES:
        return values, None
    if len(lengths) <= _SMALL:
        return values, np.array(list(itertools.accumulate(lengths, initial=0)), np.int32)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return values, offsets


def gather(
    values: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32], indices: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns bytes and int64 offsets of the rows at `indices`, in that order."""
    starts = offsets[:-1][indices].astype(np.int64)
    lengths = offsets[1:][indices] - starts
    gathered = np.zeros(len(indices) + 1, np.int64)
    np.cumsum(lengths, out=gathered[1:])
    # Each output byte lies at its input row's start plus its distance from its output row's start.
    positions = np.arange(gathered[-1]) + np.repeat(starts - gathered[:-1], lengths)
    return values[positions], gathered
