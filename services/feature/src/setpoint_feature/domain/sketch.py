"""How many different values there are, estimated from a few integers (HyperLogLog).

Each value is hashed; the low bits choose one of 1024 registers, which keeps the greatest rank (position
of the lowest set bit) among the other bits. Registers merge by their maxima, so any order and any
grouping gives the same. The estimate is Ertl's improved one, which needs no table of corrections
("New cardinality estimation algorithms for HyperLogLog sketches", 2017). Its inputs are counts of
registers and its logarithm-like terms come from tables, so that equal registers give equal bits.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from setpoint_columns import Column, DataType

Integers = npt.NDArray[np.int64]

INDEX_BITS: Final = 10
REGISTERS: Final = 1 << INDEX_BITS
TOP_RANK: Final = 32
"""Greater ranks count as this one, which is rare below a trillion values."""
STANDARD_ERROR: Final = 1.04 / math.sqrt(REGISTERS)


def places(column: Column) -> tuple[Integers, Integers]:
    """Returns register and rank of each value; those of nulls mean nothing.

    Integers of both widths and of one number have one hash, as floats of both widths do.
    """
    if column.dtype is DataType.STRING:
        values: npt.NDArray[Any] = column.text()
        if column.validity is not None:
            values[~column.validity] = ""
        numbers: dict[str, int] = {}
        places_of = [numbers.setdefault(text, len(numbers)) for text in values.tolist()]
        inverse = np.array(places_of, np.int64)
        contents = [text.encode("utf-8") for text in numbers]
    else:
        is_float = column.dtype in (DataType.FLOAT32, DataType.FLOAT64)
        # Adding 0.0 makes zero of -0.0, which is the same value.
        wide = column.values.astype("<f8") + 0.0 if is_float else column.values.astype("<i8")
        unique, inverse = np.unique(wide, return_inverse=True)
        data = unique.tobytes()
        contents = [data[start : start + 8] for start in range(0, len(data), 8)]
    hashes = np.array([xxhash.xxh3_64_intdigest(each) for each in contents], np.uint64)
    registers = (hashes & np.uint64(REGISTERS - 1)).astype(np.int64)
    rest = (hashes >> np.uint64(INDEX_BITS)).astype(np.int64) | (1 << (TOP_RANK - 1))
    ranks = np.frexp((rest & -rest).astype(np.float64))[1].astype(np.int64)
    return registers[inverse], ranks[inverse]


def estimate(at_least: npt.NDArray[np.int64]) -> Integers:
    """Returns estimates, each from how many registers have at least each rank from 1 to the top.

    Args:
        at_least: One row for each estimate, one column for each rank.
    """
    exactly = at_least.copy()
    exactly[:, :-1] -= at_least[:, 1:]
    weights = 1 << np.arange(TOP_RANK - 2, -1, -1, dtype=np.int64)
    total = (exactly[:, :-1] @ weights).astype(np.float64) / 2.0 ** (TOP_RANK - 1)
    top = _TOPS[exactly[:, -1]] / 2.0 ** (TOP_RANK - 1)
    found = _FACTOR / (_ZEROS[REGISTERS - at_least[:, 0]] + total + top)
    return np.rint(found).astype(np.int64)


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    weight, total, before = 1.0, x, -1.0
    while total != before:
        x *= x
        before = total
        total += x * weight
        weight += weight
    return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    weight, total, before = 1.0, 1.0 - x, -1.0
    while total != before:
        x = math.sqrt(x)
        before = total
        weight *= 0.5
        total -= (1.0 - x) ** 2 * weight
    return total / 3.0


_FACTOR: Final = REGISTERS * REGISTERS / (2.0 * math.log(2.0))
_ZEROS: Final = np.array([REGISTERS * _sigma(count / REGISTERS) for count in range(REGISTERS + 1)])
_TOPS: Final = np.array([REGISTERS * _tau(1 - count / REGISTERS) for count in range(REGISTERS + 1)])
