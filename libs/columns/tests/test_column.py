import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, DataType, testing
from setpoint_runtime import errors


@given(st.data(), testing.data_types)
def test_from_list_round_trips(data: st.DataObject, dtype: DataType) -> None:
    """Every value of every type, and null, comes back as given."""
    values = data.draw(testing.column_values(dtype, data.draw(st.integers(0, 20))))
    column = Column.from_list("x", values, dtype)
    assert len(column) == len(values)
    assert all(testing.same(a, b) for a, b in zip(column.to_list(), values, strict=True))
    assert all(testing.same(column.item(row), value) for row, value in enumerate(values))
    assert column.null_count == sum(value is None for value in values)


@given(st.data(), testing.data_types)
def test_slice_and_take_agree_with_lists(data: st.DataObject, dtype: DataType) -> None:
    """A slice of a slice and a take give what the same steps give on a list."""
    values = data.draw(testing.column_values(dtype, data.draw(st.integers(1, 20))))
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    part = Column.from_list("x", values, dtype).slice(start, stop)
    assert part == Column.from_list("x", values[start:stop], dtype)
    if stop > start:
        rows = data.draw(st.lists(st.integers(0, stop - start - 1), max_size=9))
        taken = part.take(np.array(rows, np.intp))
        assert taken == Column.from_list("x", [values[start:stop][row] for row in rows], dtype)


@pytest.mark.parametrize(
    "dtype, value",
    [
        (DataType.BOOL, 1),
        (DataType.BOOL, "true"),
        (DataType.INT32, 2**31),
        (DataType.INT32, -(2**31) - 1),
        (DataType.INT64, 2**63),
        (DataType.INT64, True),
        (DataType.INT64, 1.0),
        (DataType.INT64, "1"),
        (DataType.FLOAT64, "1"),
        (DataType.FLOAT64, False),
        (DataType.FLOAT64, 10**400),
        (DataType.STRING, 1),
        (DataType.STRING, b"x"),
        (DataType.STRING, "\ud800"),
        (DataType.TIMESTAMP, 1.5),
        (DataType.TIMESTAMP, dt.datetime(2013, 1, 1)),  # noqa: DTZ001 - a naive time is the point
        (DataType.TIMESTAMP, dt.date(2013, 1, 1)),
    ],
)
def test_from_list_refuses_wrong_type(dtype: DataType, value: object) -> None:
    """A value of another type is refused with its column and row named."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^fare\[2\]: ") as caught:
        Column.from_list("fare", [None, None, value], dtype)
    assert caught.value.reason is errors.Reason.WRONG_TYPE


def test_from_list_takes_aware_datetimes() -> None:
    """A time with a zone becomes microseconds UTC."""
    zone = dt.timezone(dt.timedelta(hours=-5))
    column = Column.from_list("t", [dt.datetime(2013, 1, 1, 5, tzinfo=zone), 7], DataType.TIMESTAMP)
    assert column.to_list() == [1357034400000000, 7]


def test_from_list_takes_numpy_scalars() -> None:
    """Scalars taken out of numpy arrays count as what they are."""
    assert Column.from_list("x", [np.int8(1), 2], DataType.INT32).to_list() == [1, 2]
    assert Column.from_list("x", [np.float32(1.5), 2], DataType.FLOAT64).to_list() == [1.5, 2.0]
    assert Column.from_list("x", [np.True_, False], DataType.BOOL).to_list() == [True, False]
    assert Column.from_list("x", [np.str_("a")], DataType.STRING).to_list() == ["a"]


@pytest.mark.parametrize(
    "array, dtype, values",
    [
        (np.array([1, 2], np.int8), DataType.INT32, [1, 2]),
        (np.array([1], np.uint32), DataType.INT64, [1]),
        (np.array([1], np.uint64), DataType.INT64, [1]),
        (np.array([1.5], np.float16), DataType.FLOAT32, [1.5]),
        (np.array([1.5], ">f8"), DataType.FLOAT64, [1.5]),
        (np.array([True]), DataType.BOOL, [True]),
        (np.array(["a", "é"]), DataType.STRING, ["a", "é"]),
        (np.array(["a", None], object), DataType.STRING, ["a", None]),
        (np.array([1, None], object), DataType.INT64, [1, None]),
        (np.array([1, 2.5], object), DataType.FLOAT64, [1.0, 2.5]),
        (np.array([True, None], object), DataType.BOOL, [True, None]),
        (np.array([dt.datetime(1970, 1, 1, tzinfo=dt.UTC)], object), DataType.TIMESTAMP, [0]),
        (np.array(["1970-01-02", "NaT"], "datetime64[D]"), DataType.TIMESTAMP, [86400000000, None]),
    ],
)
def test_from_numpy_finds_type(array: Any, dtype: DataType, values: list[object]) -> None:
    """Arrays of other types become the nearest column type."""
    column = Column.from_numpy("x", array)
    assert (column.dtype, column.to_list()) == (dtype, values)


def test_from_numpy_shares_memory() -> None:
    """An array of the column's own type is not copied, and the column's view of it is read-only."""
    array = np.arange(5, dtype=np.float64)
    column = Column.from_numpy("x", array)
    assert np.shares_memory(column.values, array)
    assert array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        column.values[0] = 9


def test_from_numpy_joins_mask_and_own_nulls() -> None:
    """A row is null when the mask or the array says so."""
    array = np.array(["a", None, "c"], object)
    column = Column.from_numpy("x", array, mask=np.array([True, False, False]))
    assert column.to_list() == [None, None, "c"]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2)),
        np.array([2**63], np.uint64),
        np.array([1j]),
        np.array([object()]),
        np.array([None]),
        np.array([1, "a"], object),
        np.array([b"x"]),
    ],
)
def test_from_numpy_refuses_the_rest(array: Any) -> None:
    """What has no lossless column form is a typed error that names the column."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^fare"):
        Column.from_numpy("fare", array)


@pytest.mark.parametrize(
    "source, target, values",
    [
        (DataType.INT32, DataType.INT64, [1, None, -(2**31)]),
        (DataType.INT64, DataType.INT32, [2**31 - 1, None]),
        (DataType.INT64, DataType.FLOAT64, [2**53, None, -(2**63)]),
        (DataType.FLOAT64, DataType.INT64, [1.0, None, -(2.0**63)]),
        (DataType.FLOAT32, DataType.FLOAT64, [1.5, float("inf")]),
        (DataType.INT64, DataType.TIMESTAMP, [5]),
        (DataType.STRING, DataType.STRING, ["a"]),
    ],
)
def test_cast_keeps_values(source: DataType, target: DataType, values: list[Any]) -> None:
    """Values that have an exact form in the other type are converted, nulls included."""
    column = Column.from_list("x", values, source).cast(target)
    assert column.dtype is target
    assert column.to_list() == values


@pytest.mark.parametrize(
    "source, target, value",
    [
        (DataType.INT64, DataType.INT32, 2**31),
        (DataType.INT64, DataType.FLOAT64, 2**53 + 1),
        (DataType.INT64, DataType.FLOAT64, 2**63 - 1),
        (DataType.INT32, DataType.FLOAT32, 2**24 + 1),
        (DataType.FLOAT64, DataType.INT64, 1.5),
        (DataType.FLOAT64, DataType.INT64, 2.0**63),
        (DataType.FLOAT64, DataType.INT64, float("nan")),
        (DataType.FLOAT64, DataType.INT32, float("inf")),
        (DataType.FLOAT64, DataType.FLOAT32, 1e300),
    ],
)
def test_cast_refuses_loss(source: DataType, target: DataType, value: Any) -> None:
    """A value that would change is refused with its row named."""
    column = Column.from_list("x", [1, value], source)
    with pytest.raises(errors.InvalidArgumentError, match=r"^x\[1\]: .* has no exact"):
        column.cast(target)


def test_cast_refuses_unrelated_types() -> None:
    """Text never becomes a number by itself."""
    with pytest.raises(errors.InvalidArgumentError, match="cannot become INT64"):
        Column.from_list("x", ["1"], DataType.STRING).cast(DataType.INT64)


def test_to_numpy_marks_nulls() -> None:
    """Nulls are NaN in floats and None elsewhere, never a number."""
    floats = Column.from_list("x", [1.0, None], DataType.FLOAT32).to_numpy()
    assert floats.dtype == np.float32
    assert np.isnan(floats[1])
    assert Column.from_list("x", [1, None], DataType.INT64).to_numpy().tolist() == [1, None]
    assert Column.from_list("x", ["a", None], DataType.STRING).to_numpy().tolist() == ["a", None]
    column = Column.from_list("x", [1, 2], DataType.INT64)
    assert column.to_numpy() is column.values


def test_floats_of_every_numeric_type() -> None:
    """Numbers, flags and timestamps become float64 with NaN for null; text does not."""
    assert Column.from_list("x", [1, 2], DataType.INT32).floats().tolist() == [1.0, 2.0]
    assert np.isnan(Column.from_list("x", [True, None], DataType.BOOL).floats()[1])
    with pytest.raises(errors.InvalidArgumentError, match="must be numeric"):
        Column.from_list("x", ["1"], DataType.STRING).floats()


def test_null_mask_is_none_without_nulls() -> None:
    """All-true validity is dropped, whichever way it came."""
    full = Column("x", DataType.INT64, np.arange(3), validity=np.ones(3, np.bool_))
    assert full.null_mask() is None
    half = Column.from_list("x", [None, 1, 2], DataType.INT64)
    mask = half.null_mask()
    assert mask is not None
    assert mask.tolist() == [True, False, False]
    assert half.slice(1, 3).null_mask() is None


def test_constructor_takes_bitmaps() -> None:
    """Flags and validity may be given as Arrow bitmaps."""
    bits = np.array([0b101], np.uint8)
    column = Column("x", DataType.BOOL, bits, validity=np.array([0b110], np.uint8), rows=3)
    assert column.to_list() == [None, False, True]


_TEXT = np.frombuffer("añb".encode(), np.uint8)


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"values": np.zeros(3, np.float64)}, "x.values"),
        ({"values": np.zeros((1, 3), np.int64)}, "x.values"),
        ({"offsets": np.zeros(4, np.int32)}, "x.offsets"),
        ({"validity": np.ones(2, np.bool_)}, "x.validity"),
        ({"validity": np.ones(2, np.uint8)}, "x.validity"),
        ({"validity": np.ones(3, np.float64)}, "x.validity"),
        ({"rows": 4}, "x.values"),
        ({"dtype": DataType.BOOL, "values": np.zeros(1, np.uint8)}, "x.values"),
        ({"dtype": DataType.BOOL, "values": np.zeros(1, np.uint8), "rows": 9}, "x.values"),
        ({"dtype": DataType.STRING, "values": _TEXT}, "x.offsets"),
        (
            {"dtype": DataType.STRING, "values": _TEXT, "offsets": np.zeros(0, np.int32)},
            "x.offsets",
        ),
        ({"dtype": DataType.STRING, "values": _TEXT, "offsets": np.array([0, 4])}, "x.offsets"),
        (
            {"dtype": DataType.STRING, "values": _TEXT, "offsets": np.array([0, 5], "i4")},
            r"x.offsets\[1\]",
        ),
        (
            {"dtype": DataType.STRING, "values": _TEXT, "offsets": np.array([1, 0], "i4")},
            r"x.offsets\[1\]",
        ),
        (
            {"dtype": DataType.STRING, "values": _TEXT, "offsets": np.array([-1, 4], "i4")},
            r"x.offsets\[0\]",
        ),
        (
            {"dtype": DataType.STRING, "values": _TEXT, "offsets": np.array([0, 2, 4], "i4")},
            r"x.values\[0\]",
        ),
    ],
)
def test_constructor_refuses_misfits(arguments: dict[str, Any], field: str) -> None:
    """Arrays that do not fit are a typed error that names the part."""
    whole = {"name": "x", "dtype": DataType.INT64, "values": np.zeros(3, np.int64), **arguments}
    with pytest.raises(errors.InvalidArgumentError, match=f"^{field}: ") as caught:
        Column(**whole)
    assert caught.value.reason is errors.Reason.MALFORMED_COLUMNS


def test_equality_ignores_values_below_nulls() -> None:
    """Columns are equal by what they mean."""
    valid = np.array([True, False])
    left = Column("x", DataType.INT64, np.array([1, 2]), validity=valid)
    right = Column("x", DataType.INT64, np.array([1, 3]), validity=valid)
    assert left == right
    assert left != right.rename("y")
    assert left != Column("x", DataType.INT64, np.array([1, 2]))
    assert left != 3


def test_repr_shows_some_values() -> None:
    """A column shows its type and first values."""
    column = Column.from_list("x", list(range(9)), DataType.INT64)
    assert repr(column) == "Column('x', INT64, rows=9, [0, 1, 2, 3, 4, …])"
