"""The datatypes of the protocol: what they are in bytes, in messages, in arrays and in columns."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns.dtypes import DataType

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol."""

    name: str
    wire: np.dtype[Any]
    """The elements of raw contents; objects where each has a length of its own."""
    contents: str
    """The field of typed contents; empty where elements are raw alone."""
    column: DataType
    """The narrowest type of a column that holds every element, but for UINT64."""


_BRAIN: Final = np.dtype("<u2")
"""The upper half of a float32, for which numpy has no type."""

DATATYPES: Final = {
    each.name: each
    for each in (
        Datatype("BOOL", np.dtype("u1"), "bool_contents", DataType.BOOL),
        Datatype("INT8", np.dtype("i1"), "int_contents", DataType.INT32),
        Datatype("INT16", np.dtype("<i2"), "int_contents", DataType.INT32),
        Datatype("INT32", np.dtype("<i4"), "int_contents", DataType.INT32),
        Datatype("INT64", np.dtype("<i8"), "int64_contents", DataType.INT64),
        Datatype("UINT8", np.dtype("u1"), "uint_contents", DataType.INT32),
        Datatype("UINT16", np.dtype("<u2"), "uint_contents", DataType.INT32),
        Datatype("UINT32", np.dtype("<u4"), "uint_contents", DataType.INT64),
        Datatype("UINT64", np.dtype("<u8"), "uint64_contents", DataType.INT64),
        Datatype("FP16", np.dtype("<f2"), "", DataType.FLOAT32),
        Datatype("BF16", _BRAIN, "", DataType.FLOAT32),
        Datatype("FP32", np.dtype("<f4"), "fp32_contents", DataType.FLOAT32),
        Datatype("FP64", np.dtype("<f8"), "fp64_contents", DataType.FLOAT64),
        Datatype("BYTES", np.dtype(object), "bytes_contents", DataType.STRING),
    )
}
"""Every datatype by its name."""

BF16: Final = DATATYPES["BF16"]
BOOL: Final = DATATYPES["BOOL"]
BYTES: Final = DATATYPES["BYTES"]

OF_COLUMN: Final = {
    DataType.BOOL: BOOL,
    DataType.INT32: DATATYPES["INT32"],
    DataType.INT64: DATATYPES["INT64"],
    DataType.FLOAT32: DATATYPES["FP32"],
    DataType.FLOAT64: DATATYPES["FP64"],
    DataType.STRING: BYTES,
    # The protocol has no times; these are microseconds since 1970 UTC.
    DataType.TIMESTAMP: DATATYPES["INT64"],
}
"""What a column is sent as."""


def native(wire: AnyArray, datatype: Datatype) -> AnyArray:
    """Return elements as numpy counts with them: BOOL as bools, BF16 as float32."""
    if datatype is BOOL:
        return wire.astype(bool)
    if datatype is BF16:
        return (wire.astype("<u4") << 16).view("<f4")
    return wire


def wired(array: AnyArray, datatype: Datatype) -> AnyArray:
    """Return numbers as they are sent; BF16 is rounded to the nearest, ties to even."""
    if datatype is BF16:
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Rounding could make an infinity of a NaN's bits.
        return np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2")
    return array.astype(datatype.wire, copy=False)
