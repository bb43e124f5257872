"""Hypothesis strategies for columns, for the tests of whatever works on columns."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType

_INT32 = st.integers(-(2**31), 2**31 - 1)
_INT64 = st.integers(-(2**63), 2**63 - 1)

# One character of each UTF-8 length, some that trip programs, and any other. Hypothesis' own alphabet
# takes a second to build in a fresh checkout, which its health check then blames on the test.
_CHARACTERS = st.sampled_from("aZ0 \0\n'\"\\é\u0301€\ufeff\uffff😀\U0010ffff") | st.one_of(
    st.integers(0, 0xD7FF), st.integers(0xE000, 0x10FFFF)
).map(chr)

texts: st.SearchStrategy[str] = st.text(_CHARACTERS, max_size=12)

names: st.SearchStrategy[str] = st.text(
    _CHARACTERS.filter(lambda character: character != "\0"), min_size=1, max_size=8
)

VALUES: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.BOOL: st.booleans(),
    DataType.INT32: _INT32,
    DataType.INT64: _INT64,
    DataType.FLOAT32: st.floats(width=32),
    DataType.FLOAT64: st.floats(),
    DataType.STRING: texts,
    DataType.TIMESTAMP: _INT64,
}
"""Any value of each type: limits, NaN, infinities, empty text and all of Unicode among them."""

CALENDAR: st.SearchStrategy[int] = st.integers(-62135596800000000, 253402300799999999)
"""Timestamps of the years 1 to 9999, which other libraries can show as dates."""

data_types = st.sampled_from(list(DataType))


@st.composite
def column_values(draw: st.DrawFn, dtype: DataType, rows: int, *, nulls: bool = True) -> list[Any]:
    """Draws the values of one column, with nulls unless told otherwise."""
    values = VALUES[dtype]
    return draw(st.lists(st.none() | values if nulls else values, min_size=rows, max_size=rows))


@st.composite
def batches(
    draw: st.DrawFn,
    *,
    min_rows: int = 0,
    max_rows: int = 20,
    min_columns: int = 0,
    max_columns: int = 4,
    nulls: bool = True,
) -> Columns:
    """Draws columns of any types; some are slices of longer ones, so that offsets do not start at zero."""
    rows = draw(st.integers(min_rows, max_rows))
    before = draw(st.integers(0, 9))
    drawn = draw(st.lists(names, unique=True, min_size=min_columns, max_size=max_columns))
    made = []
    for name in drawn:
        dtype = draw(data_types)
        values = draw(column_values(dtype, before + rows, nulls=nulls))
        made.append(Column.from_list(name, values, dtype).slice(before, before + rows))
    return Columns(rows, made)


def same(left: Any, right: Any) -> bool:
    """Compares two Python values, NaN being equal to NaN."""
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.array_equal([left], [right], equal_nan=True))
    return bool(left == right)
