"""Which of many intervals cover each place, in numpy alone: the offline side of windows.

A version of an event counts for a stretch of times, so for a stretch of the places of sorted questions. What
can be taken back is added where a stretch begins and subtracted where it ends. What cannot (the
greatest) is put on blocks of two to the power of k places, two of which cover any stretch, and handed down from
large blocks to their halves.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

NONE: Final = -1


def counts(first: Integers, last: Integers, places: int) -> Integers:
    """Returns how many of the intervals [first, last) cover each place."""
    changes = np.bincount(first, minlength=places + 1) - np.bincount(last, minlength=places + 1)
    return np.cumsum(changes[:places])


def greatest(first: Integers, last: Integers, ranks: Integers, places: int, n: int) -> Integers:
    """Returns for each place the n greatest ranks of the intervals that cover it, the greatest first.

    Args:
        first: The first place of each interval, which is not empty.
        last: The first place behind it.
        ranks: Numbers from 0, all different.
        places: Number of places.
        n: How many ranks are wanted.

    Returns:
        One row for each place, NONE where there are fewer.
    """
    best = np.full((places, n), NONE, np.int64)
    if not len(first):
        return best
    # Lengths are small enough for their logarithm to be exact.
    levels = np.frexp((last - first).astype(np.float64))[1] - 1
    for level in range(int(levels.max()), -1, -1):
        step = 1 << level
        # A block of the level above begins with one half and has the other `step` places on.
        if step < places:
            second = np.full_like(best, NONE)
            second[step:] = best[:-step]
            best = _merge(best, second)
        at = levels == level
        if at.any():
            blocks = np.concatenate([first[at], last[at] - step])
            own = _by_block(blocks, np.concatenate([ranks[at], ranks[at]]), places, n)
            best = _merge(best, own)
    return best


def _merge(one: Integers, other: Integers) -> Integers:
    width = one.shape[1]
    if width == 1:
        return np.maximum(one, other)
    both = -np.sort(-np.concatenate([one, other], axis=1), axis=1)
    # An interval is on both when their blocks overlap; it counts once.
    both[:, 1:][both[:, 1:] == both[:, :-1]] = NONE
    return np.ascontiguousarray(-np.sort(-both, axis=1)[:, :width])


def _by_block(blocks: Integers, ranks: Integers, places: int, n: int) -> Integers:
    found = np.full((places, n), NONE, np.int64)
    if n == 1:
        np.maximum.at(found[:, 0], blocks, ranks)
        return found
    order = np.lexsort((-ranks, blocks))
    blocks, ranks = blocks[order], ranks[order]
    is_new = np.ones(len(blocks), np.bool_)
    is_new[1:] = (blocks[1:] != blocks[:-1]) | (ranks[1:] != ranks[:-1])
    blocks, ranks = blocks[is_new], ranks[is_new]
    position = np.arange(len(blocks)) - np.searchsorted(blocks, blocks)
    kept = position < n
    found[blocks[kept], position[kept]] = ranks[kept]
    return found


def united(
    owners: Integers, first: Integers, last: Integers
) -> tuple[Integers, Integers, Integers]:
    """Returns the unions of the intervals of each owner, as intervals that neither meet nor overlap."""
    order = np.lexsort((first, owners))
    owners, first, last = owners[order], first[order], last[order]
    if not len(owners):
        return owners, first, last
    begins = np.ones(len(owners), np.bool_)
    begins[1:] = owners[1:] != owners[:-1]
    # The owner is the high part, so that one running maximum starts anew with each.
    numbers = np.cumsum(begins)
    step = int(last.max()) + 1
    reach = np.maximum.accumulate(numbers * step + last)
    begins[1:] |= numbers[1:] * step + first[1:] > reach[:-1]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(owners)) - 1
    return owners[starts], first[starts], reach[ends] - numbers[ends] * step
