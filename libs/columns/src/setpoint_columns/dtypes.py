"""The types a column can have, and their fixed-width forms."""

import enum
from typing import Any, Final

import numpy as np

MAX_ROWS: Final = 1 << 24
"""Most rows of one batch. A batch without columns can claim any number of rows at no cost to its
sender, so a bound is needed before anything allocates one byte per row."""

MAX_NAME_LENGTH: Final = 256
"""Longest column name in characters; names end up in errors, logs and metrics."""

MAX_TEXT_BYTES: Final = (1 << 31) - 1
"""Most bytes of text in one column: offsets are int32."""


class DataType(enum.IntEnum):
    """Type of a column's values; the numbers equal those of the protocol's enum."""

    BOOL = 1
    INT32 = 2
    INT64 = 3
    FLOAT32 = 4
    FLOAT64 = 5
    STRING = 6
    TIMESTAMP = 7
    """Microseconds since 1970-01-01 UTC as int64."""


NUMPY_TYPES: Final[dict[DataType, np.dtype[Any]]] = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FLOAT32: np.dtype("<f4"),
    DataType.FLOAT64: np.dtype("<f8"),
    DataType.STRING: np.dtype(np.uint8),
    DataType.TIMESTAMP: np.dtype("<i8"),
}
"""Array type of `Column.values` by data type; text is UTF-8 bytes."""

OFFSET_TYPE: Final = np.dtype("<i4")
FLOATS: Final = frozenset({DataType.FLOAT32, DataType.FLOAT64})
INTEGERS: Final = frozenset({DataType.INT32, DataType.INT64})
NUMBERS: Final = FLOATS | INTEGERS
