from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, DataType
from setpoint_feature.domain import definitions, packing

VALUES: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.BOOL: st.booleans(),
    DataType.INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    DataType.INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    DataType.FLOAT32: st.floats(width=32),
    DataType.FLOAT64: st.floats(),
    DataType.STRING: st.text(max_size=6),
    DataType.TIMESTAMP: st.integers(-(1 << 63), (1 << 63) - 1),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[definitions.Field], list[Column]]:
    """Draws fields with defaults, and a column of values and nulls for each."""
    types = draw(st.lists(st.sampled_from(list(DataType)), min_size=1, max_size=10))
    rows = draw(st.integers(0, 6))
    fields, columns = [], []
    for index, dtype in enumerate(types):
        default = draw(st.none() | VALUES[dtype])
        values = draw(st.lists(st.none() | VALUES[dtype], min_size=rows, max_size=rows))
        fields.append(definitions.Field(f"f{index}", dtype, default))
        columns.append(Column.from_list(f"f{index}", values, dtype))
    return fields, columns


@given(tables(), st.data())
def test_pack_and_unpack_round_trip(
    table: tuple[list[definitions.Field], list[Column]], data: st.DataObject
) -> None:
    """Any rows come back in any order, repeated, with the row of defaults among them."""
    fields, columns = table
    layout = packing.Layout(fields)
    packed = layout.pack(columns, columns[0].rows)
    parts = [*packed, layout.defaults]
    starts = np.cumsum([0, *map(len, parts[:-1])], dtype=np.int64)
    wanted = data.draw(st.lists(st.integers(0, len(packed)), max_size=8))
    some = data.draw(st.permutations(range(len(fields))))

    unpacked = layout.unpack(b"".join(parts), starts[wanted], some)

    for index, column in zip(some, unpacked, strict=True):
        field = fields[index]
        stored = [*columns[index].to_list(), field.default]
        assert column == Column.from_list(field.name, [stored[row] for row in wanted], field.dtype)


def test_pack_absent_column_is_null() -> None:
    """A column that was not given is null in every row, texts included."""
    layout = packing.Layout(
        [definitions.Field("a", DataType.STRING), definitions.Field("b", DataType.INT64)]
    )

    packed = layout.pack([None, None], 2)

    unpacked = layout.unpack(b"".join(packed), np.array([0, len(packed[0])]), (0, 1))
    assert [column.to_list() for column in unpacked] == [[None, None], [None, None]]


def test_pack_ignores_what_lies_below_a_null() -> None:
    """Equal rows are equal bytes, whatever the caller left in the buffers of nulls."""
    layout = packing.Layout([definitions.Field("a", DataType.INT64)])
    valid = np.array([False])
    first = Column("a", DataType.INT64, np.array([1]), validity=valid)
    second = Column("a", DataType.INT64, np.array([2]), validity=valid)

    assert layout.pack([first], 1) == layout.pack([second], 1)


def test_pack_is_stable() -> None:
    """The bytes are part of what is stored; they never change for a view's version."""
    layout = packing.Layout(
        [
            definitions.Field("a", DataType.INT32),
            definitions.Field("b", DataType.STRING),
            definitions.Field("c", DataType.FLOAT64),
            definitions.Field("d", DataType.BOOL),
        ]
    )
    columns = [
        Column.from_list("a", [7], DataType.INT32),
        Column.from_list("b", ["hé"], DataType.STRING),
        Column.from_list("c", [None], DataType.FLOAT64),
        Column.from_list("d", [True], DataType.BOOL),
    ]

    (row,) = layout.pack(columns, 1)

    assert row.hex() == "0b" + "07000000" + "03000000" + "00" * 8 + "01" + "68c3a9"
