"""Sums of doubles that are exact until they are rounded once, so that no order of adding shows.

A window that is put together from tiles and one that is summed event by event give the same bits
this way, whatever was merged with what.
"""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LIMIT: Final = 2.0**960
"""Numbers below it cannot overflow, however many are added."""
_EXACT: Final = 2.0**53
_LIMB_BITS: Final = 30
_MANTISSA_BITS: Final = 53


def is_usable(values: Floats) -> npt.NDArray[np.bool_]:
    """Tells which values can be added: neither NaN nor infinite nor huge."""
    return np.abs(values) < LIMIT


def partials(values: Iterable[float]) -> list[float]:
    """Returns a few doubles that have the same exact sum as many (Shewchuk's expansion)."""
    found: list[float] = []
    for value in values:
        carried = value
        kept = 0
        for part in found:
            larger, smaller = (part, carried) if abs(carried) < abs(part) else (carried, part)
            carried = larger + smaller
            rest = smaller - (carried - larger)
            if rest:
                found[kept] = rest
                kept += 1
        found[kept:] = [carried]
    return found


def segment_partials(values: Floats, bounds: Integers) -> list[list[float]]:
    """Returns the partials of each of some neighbouring segments.

    Args:
        values: The values of all segments, one after the other.
        bounds: Where each segment, none of them empty, begins, and where the last one ends.
    """
    sums, is_exact = _plain_sums(values, bounds)
    found = [[each] for each in sums.tolist()]
    for segment in np.flatnonzero(~is_exact).tolist():
        found[segment] = partials(values[bounds[segment] : bounds[segment + 1]].tolist())
    return found


def segment_sums(values: Floats, bounds: Integers) -> Floats:
    """Returns the sum of each of some neighbouring segments, none of them empty, rounded once."""
    sums, is_exact = _plain_sums(values, bounds)
    for segment in np.flatnonzero(~is_exact).tolist():
        sums[segment] = math.fsum(values[bounds[segment] : bounds[segment + 1]].tolist())
    return sums


def _plain_sums(values: Floats, bounds: Integers) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Returns sums as doubles are added, and which of them are exact: those of small integers."""
    starts = bounds[:-1]
    sizes = np.add.reduceat(np.abs(values), starts)
    fractions = np.add.reduceat(values != np.rint(values), starts)
    # Adding 0.0 makes zero of -0.0.
    return np.add.reduceat(values, starts) + 0.0, (sizes < _EXACT) & (fractions == 0)


def interval_sums(values: Floats, first: Integers, last: Integers, places: int) -> Floats:
    """Returns for each place the sum of the values whose interval covers it, rounded once.

    Args:
        values: Usable values.
        first: The first place that each value counts at.
        last: The first place after it at which the value counts no more.
        places: Number of places.
    """
    mantissas, exponents = np.frexp(values)
    integers = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
    some = integers != 0
    if not some.any():
        return np.zeros(places)
    # Trailing zeros go, so that integers and prices need one or two limbs, not many.
    zeros = np.zeros(len(integers), np.int64)
    zeros[some] = np.frexp((integers[some] & -integers[some]).astype(np.float64))[1] - 1
    scales = exponents.astype(np.int64) - _MANTISSA_BITS + zeros
    base = int(scales[some].min())
    limbs = _limbs(integers[some] >> zeros[some], scales[some] - base)
    parts = []
    for number, limb in limbs.items():
        sums = np.zeros(places + 1, np.int64)
        np.add.at(sums, first[some], limb)
        np.subtract.at(sums, last[some], limb)
        totals = np.cumsum(sums[:-1])
        # Two halves of a total are doubles without any rounding, however many values it holds.
        high = totals >> _LIMB_BITS
        scale = base + number * _LIMB_BITS
        parts.append(np.ldexp((totals - (high << _LIMB_BITS)).astype(np.float64), scale))
        if high.any():
            parts.append(np.ldexp(high.astype(np.float64), scale + _LIMB_BITS))
    if len(parts) == 1:
        return parts[0] + 0.0
    return np.array(list(map(math.fsum, np.stack(parts, axis=1).tolist())), np.float64)


def _limbs(integers: Integers, shifts: Integers) -> dict[int, Integers]:
    """Returns integers times powers of two as limbs of 30 bits, by their place value."""
    signs = np.sign(integers)
    rest = np.abs(integers)
    numbers = shifts // _LIMB_BITS
    # The low part is shifted; what stands above it follows in the next limbs.
    shifts = shifts - numbers * _LIMB_BITS
    mask = (1 << _LIMB_BITS) - 1
    found: dict[int, Integers] = {}
    low = (rest & ((1 << (_LIMB_BITS - shifts)) - 1)) << shifts
    rest = rest >> (_LIMB_BITS - shifts)
    step = 0
    while True:
        for number in np.unique(numbers[low != 0]).tolist():
            limb = np.where(numbers == number, low * signs, 0)
            place = number + step
            found[place] = found[place] + limb if place in found else limb
        if not rest.any():
            return found
        low = rest & mask
        rest = rest >> _LIMB_BITS
        step += 1
