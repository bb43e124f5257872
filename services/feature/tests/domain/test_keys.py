from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Columns, DataType
from setpoint_feature.domain import definitions, keys
from setpoint_runtime import errors

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(max_size=12)


def codec(**types: DataType) -> keys.KeyCodec:
    return keys.KeyCodec([definitions.FieldSpec(name, dtype) for name, dtype in types.items()])


def columns(**values: tuple[DataType, list[Any]]) -> Columns:
    return Columns.from_dict(values)


@given(st.lists(st.tuples(TEXT, INT64, TEXT), max_size=8))
def test_encode_is_injective_and_decodes(rows: list[tuple[str, int, str]]) -> None:
    """Keys are equal exactly when all parts are, and their bytes give the parts back."""
    made = codec(b=DataType.STRING, a=DataType.INT64, c=DataType.STRING)
    table = columns(
        b=(DataType.STRING, [row[0] for row in rows]),
        a=(DataType.INT64, [row[1] for row in rows]),
        c=(DataType.STRING, [row[2] for row in rows]),
    )

    encoded = made.encode(table, {}, "rows")

    for first, left in zip(encoded, rows, strict=True):
        for second, right in zip(encoded, rows, strict=True):
            assert (first == second) == (left == right)
    decoded = {
        column.name: column.to_list() for column in made.decode([key for key in encoded if key])
    }
    assert decoded == {
        "a": [row[1] for row in rows],
        "b": [row[0] for row in rows],
        "c": [row[2] for row in rows],
    }


@given(
    st.sampled_from(["", "a", "b", "ab", "abc", "ac", "c"]),
    st.lists(st.tuples(INT64 | st.none(), INT32 | st.none(), TEXT | st.none()), max_size=8),
)
def test_encode_table_is_encode_at_once(
    names: str, rows: list[tuple[int | None, int | None, str | None]]
) -> None:
    """Keys of integers, of texts, of both and of nothing: the same bytes, and the same rows without a key."""
    types = {"a": DataType.INT64, "b": DataType.INT32, "c": DataType.STRING}
    made = codec(**{name: types[name] for name in names})
    values = zip(*rows, strict=True) if rows else ((), (), ())
    named = zip(types.items(), values, strict=True)
    table = columns(**{name: (dtype, list(each)) for (name, dtype), each in named})

    encoded, valid = made.encode_table(table, {}, "rows")

    listed: list[bytes | None] = list(encoded.to_list())
    for row, is_valid in enumerate([] if valid is None else valid.tolist()):
        if not is_valid:
            listed[row] = None
    assert listed == made.encode(table, {}, "rows")


@given(st.lists(INT32, min_size=1, max_size=5))
def test_encode_integers_of_both_widths_are_the_same(numbers: list[int]) -> None:
    """int32 and int64 of one number are one key, whatever the entity declares."""
    table32 = columns(id=(DataType.INT32, numbers))
    table64 = columns(id=(DataType.INT64, numbers))
    narrow, wide = codec(id=DataType.INT32), codec(id=DataType.INT64)

    assert (
        narrow.encode(table32, {}, "rows")
        == narrow.encode(table64, {}, "rows")
        == wide.encode(table32, {}, "rows")
    )


def test_encode_parts_do_not_run_together() -> None:
    """("1", "23") and ("12", "3") are different keys."""
    made = codec(a=DataType.STRING, b=DataType.STRING)
    table = columns(a=(DataType.STRING, ["1", "12"]), b=(DataType.STRING, ["23", "3"]))

    first, second = made.encode(table, {}, "rows")

    assert first != second


def test_encode_null_part_is_no_key() -> None:
    """A row with a null in any part of its key has no key."""
    made = codec(a=DataType.STRING, b=DataType.INT64)
    table = columns(a=(DataType.STRING, ["x", None, "x"]), b=(DataType.INT64, [1, 1, None]))

    encoded = made.encode(table, {}, "rows")

    assert [each is None for each in encoded] == [False, True, True]


def test_encode_renamed_column() -> None:
    """A key may be in a column of another name, and is the same key there."""
    made = codec(airport=DataType.STRING)
    plain = made.encode(columns(airport=(DataType.STRING, ["JFK"])), {}, "rows")

    assert (
        made.encode(columns(origin=(DataType.STRING, ["JFK"])), {"airport": "origin"}, "rows")
        == plain
    )


def test_encode_order_of_declaration_does_not_matter() -> None:
    """The bytes follow the names of the keys, not the order in which they were declared."""
    table = columns(a=(DataType.INT64, [1]), b=(DataType.INT64, [2]))

    assert codec(a=DataType.INT64, b=DataType.INT64).encode(table, {}, "rows") == codec(
        b=DataType.INT64, a=DataType.INT64
    ).encode(table, {}, "rows")


def test_encode_missing_column_is_named() -> None:
    """A request without a key column is refused with the column's path."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        codec(carrier=DataType.STRING).encode(columns(x=(DataType.STRING, ["a"])), {}, "entities")

    assert caught.value.reason is errors.Reason.ENTITY_KEY_MISSING
    assert caught.value.violations[0].field == "entities.carrier"


@pytest.mark.parametrize(
    "dtype", [DataType.STRING, DataType.FLOAT64, DataType.BOOL, DataType.TIMESTAMP]
)
def test_encode_wrong_type_is_refused(dtype: DataType) -> None:
    """A type mismatch is an error and never a silent miss."""
    table = Columns.empty({"id": dtype})

    with pytest.raises(errors.InvalidArgumentError) as caught:
        codec(id=DataType.INT64).encode(table, {}, "rows")

    assert caught.value.reason is errors.Reason.WRONG_TYPE


def test_encode_overlong_text_names_the_row() -> None:
    """A megabyte of key is refused with the row it stands in."""
    table = columns(id=(DataType.STRING, ["a", "b" * 1_000_000]))

    with pytest.raises(errors.InvalidArgumentError) as caught:
        codec(id=DataType.STRING).encode(table, {}, "rows")

    assert caught.value.reason is errors.Reason.TOO_LARGE
    assert caught.value.violations[0].field == "rows.id[1]"


def test_decode_int32_key_with_larger_numbers_widens() -> None:
    """A number beyond INT32 that was written through an INT64 column comes back whole."""
    made = codec(id=DataType.INT32)
    encoded = made.encode(columns(id=(DataType.INT64, [1 << 40])), {}, "rows")

    (column,) = made.decode([key for key in encoded if key is not None])

    assert column.dtype is DataType.INT64
    assert column.to_list() == [1 << 40]


def test_encode_is_stable() -> None:
    """The bytes are part of what is stored; they never change within a format."""
    made = codec(b=DataType.STRING, a=DataType.INT32)
    table = columns(b=(DataType.STRING, ["é"]), a=(DataType.INT32, [-2]))

    (key,) = made.encode(table, {}, "rows")

    assert key is not None
    assert key.hex() == "0102" + "016101" + "0800" + "feffffffffffffff" + "016202" + "0200" + "c3a9"


def test_encode_global_entity_has_one_key() -> None:
    """An entity without key columns is one thing, the same in every row."""
    made = codec()

    assert made.encode(columns(x=(DataType.INT64, [1, None, 3])), {}, "rows") == [b"\x01\x00"] * 3
    assert made.decode([b"\x01\x00"]) == []
