import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_artifacts.signature import Missing, TensorSpec
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors
from setpoint_scoring import packing

F32, F64 = DataType.FLOAT32, DataType.FLOAT64


def spec(dtype: DataType, *columns: str) -> TensorSpec:
    return TensorSpec("X", dtype, columns)


def packed(dtype: DataType, **columns: tuple[DataType, list[object]]) -> np.ndarray:
    made = Columns.from_dict(columns)
    return packing.pack(made, [spec(dtype, *columns)])["X"]


def refused(dtype: DataType, source: DataType, values: list[object]) -> errors.SetpointError:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        packed(dtype, a=(F64, [0.0] * len(values)), b=(source, values))
    return caught.value


def test_pack_orders_columns() -> None:
    """Columns come in the tensor's order, whatever the batch's is."""
    columns = Columns.from_dict({"b": (F64, [1.0, 2.0]), "a": (F64, [3.0, 4.0])})
    feeds = packing.pack(columns, [spec(F32, "a", "b")])
    np.testing.assert_array_equal(feeds["X"], np.array([[3, 1], [4, 2]], np.float32))
    assert feeds["X"].dtype == np.float32
    assert feeds["X"].flags.c_contiguous


def test_pack_mixed_numbers() -> None:
    """Integers and flags become floats; nulls of any of them become NaN."""
    got = packed(
        F32,
        a=(F64, [0.5, None]),
        b=(DataType.INT64, [None, 2]),
        c=(DataType.INT32, [3, 4]),
        d=(DataType.BOOL, [True, None]),
        e=(F32, [float("nan"), float("inf")]),
    )
    nan = np.nan
    np.testing.assert_array_equal(got, [[0.5, nan, 3, 1, nan], [nan, 2, 4, nan, np.inf]])


@pytest.mark.parametrize("value", [1 << 24, -(1 << 24), (1 << 24) + 2, 1 << 40])
def test_pack_exact_integers(value: int) -> None:
    """An integer that float32 has is accepted, however large."""
    assert packed(F32, a=(DataType.INT64, [value]))[0, 0] == value


@pytest.mark.parametrize("value", [(1 << 24) + 1, -(1 << 24) - 1, (1 << 62) + 1])
def test_pack_inexact_integers(value: int) -> None:
    """An integer that float32 has not is refused, with column and row."""
    error = refused(F32, DataType.INT64, [1, value])
    assert error.reason == errors.Reason.WRONG_TYPE
    assert error.violations[0].field == "inputs.b[1]"


def test_pack_too_large_float() -> None:
    """A double beyond float32 is refused instead of becoming infinite; infinity itself passes."""
    error = refused(F32, F64, [float("inf"), 1e39])
    assert error.reason == errors.Reason.WRONG_TYPE
    assert error.violations[0].field == "inputs.b[1]"


@pytest.mark.parametrize("source", [DataType.STRING, DataType.TIMESTAMP])
def test_pack_no_number(source: DataType) -> None:
    """Text and times are no numbers."""
    error = refused(F64, source, ["x"] if source is DataType.STRING else [5])
    assert (error.reason, error.violations[0].field) == (errors.Reason.WRONG_TYPE, "inputs.b")


@pytest.mark.parametrize(
    ("dtype", "source", "values"),
    [
        (DataType.INT64, F64, [1.0]),
        (DataType.INT64, DataType.BOOL, [True]),
        (DataType.INT32, DataType.INT64, [1 << 31]),
        (DataType.BOOL, DataType.INT64, [1]),
        (DataType.STRING, DataType.INT64, [1]),
        (DataType.TIMESTAMP, F64, [1.0]),
    ],
)
def test_pack_wrong_type(dtype: DataType, source: DataType, values: list[object]) -> None:
    """What only nearly fits an exact type is refused."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        packed(dtype, b=(source, values))
    assert caught.value.reason == errors.Reason.WRONG_TYPE
    assert caught.value.violations[0].field.startswith("inputs.b")


@pytest.mark.parametrize(
    ("dtype", "source", "values", "kind"),
    [
        (DataType.INT64, DataType.INT32, [1, -2], np.int64),
        (DataType.INT32, DataType.INT64, [1, -(1 << 31)], np.int32),
        (DataType.BOOL, DataType.BOOL, [True, False], np.bool_),
        (DataType.TIMESTAMP, DataType.INT64, [1, 2], np.int64),
        (DataType.TIMESTAMP, DataType.TIMESTAMP, [1, 2], np.int64),
        (DataType.STRING, DataType.STRING, ["ä", ""], np.object_),
    ],
)
def test_pack_exact_type(
    dtype: DataType, source: DataType, values: list[object], kind: type
) -> None:
    """What fits exactly is taken, in the tensor's type."""
    got = packed(dtype, a=(source, values), b=(source, values))
    assert got.dtype == kind
    assert got.tolist() == [[value, value] for value in values]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [(DataType.INT64, [1, None]), (DataType.STRING, ["x", None]), (DataType.BOOL, [True, None])],
)
def test_pack_null(dtype: DataType, values: list[object]) -> None:
    """A null has no place in exact types."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        packed(dtype, b=(dtype, values))
    assert caught.value.reason == errors.Reason.NULL_REFUSED
    assert caught.value.violations[0].field == "inputs.b[1]"


def with_rules(dtype: DataType, **rules: bool | float | str | None) -> TensorSpec:
    found = [Missing(name, substitute) for name, substitute in rules.items()]
    return TensorSpec("X", dtype, ("a", "b"), tuple(found))


def test_pack_substitutes_numbers() -> None:
    """Nulls and NaN of a column with a substitute become it; those of others stay NaN."""
    nan = float("nan")
    columns = Columns.from_dict({"a": (F64, [None, nan, 3.0]), "b": (F64, [None, nan, 3.0])})
    got = packing.pack(columns, [with_rules(F32, b=-1.0)])["X"]
    np.testing.assert_array_equal(got, [[np.nan, -1], [np.nan, -1], [3, 3]])


@pytest.mark.parametrize("value", [None, float("nan")])
def test_pack_refuses_missing_number(value: float | None) -> None:
    """A column that refuses missing values refuses null and NaN, by its name and row."""
    columns = Columns.from_dict({"a": (F64, [1.0, None]), "b": (F64, [1.0, value])})
    with pytest.raises(errors.InvalidArgumentError) as caught:
        packing.pack(columns, [with_rules(F32, b=None)])
    assert caught.value.reason == errors.Reason.NULL_REFUSED
    assert caught.value.violations[0].field == "inputs.b[1]"


@pytest.mark.parametrize(
    ("dtype", "value", "substitute"),
    [
        (DataType.STRING, "AA", ""),
        (DataType.INT64, 5, -1),
        (DataType.BOOL, True, False),
        (DataType.TIMESTAMP, 5, 0),
    ],
)
def test_pack_substitutes_exact(
    dtype: DataType, value: object, substitute: bool | float | str
) -> None:
    """A substitute also gives those types a form for null that have none; only where it is declared."""
    columns = Columns.from_dict({"a": (dtype, [value, value]), "b": (dtype, [value, None])})
    got = packing.pack(columns, [with_rules(dtype, b=substitute)])["X"]
    assert got.tolist() == [[value, value], [value, substitute]]
    for spec_ in (with_rules(dtype, a=substitute), with_rules(dtype, b=None)):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            packing.pack(columns, [spec_])
        assert caught.value.violations[0].field == "inputs.b[1]"


def test_pack_missing_names_all() -> None:
    """All missing columns of all tensors are named at once."""
    specs = [TensorSpec("X", F32, ("a", "b")), TensorSpec("s", DataType.STRING, ("c",))]
    with pytest.raises(errors.InvalidArgumentError) as caught:
        packing.pack(Columns.from_dict({"b": (F64, [1.0])}), specs)
    assert [each.field for each in caught.value.violations] == ["inputs.a", "inputs.c"]


NUMBERS = st.one_of(
    st.tuples(
        st.just(F64),
        st.lists(st.none() | st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
    ),
    st.tuples(
        st.just(DataType.INT64),
        st.lists(st.none() | st.integers(-(1 << 24), 1 << 24), min_size=3, max_size=3),
    ),
    st.tuples(st.just(DataType.BOOL), st.lists(st.none() | st.booleans(), min_size=3, max_size=3)),
)


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_pack_any_numbers(columns: list[tuple[DataType, list[object]]]) -> None:
    """Every value arrives at its row and column, nulls as NaN, whatever the mixture."""
    named = {f"c{index}": column for index, column in enumerate(columns)}
    got = packed(F32, **named)
    for index, (_, values) in enumerate(columns):
        expected = [np.nan if value is None else float(value) for value in values]  # type: ignore[arg-type]
        np.testing.assert_array_equal(got[:, index], np.array(expected, np.float32))


def test_unpack_columns() -> None:
    """A matrix becomes its columns; a vector is a matrix of one."""
    specs = [TensorSpec("l", DataType.INT64, ("label",)), TensorSpec("p", F32, ("no", "yes"))]
    arrays = [np.array([1, 0]), np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)]
    label, no, yes = packing.unpack(arrays, specs, 2)
    assert (label.name, label.values.tolist()) == ("label", [1, 0])
    np.testing.assert_array_equal(no.values, arrays[1][:, 0])
    np.testing.assert_array_equal(yes.values, arrays[1][:, 1])


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.float32), np.zeros((2, 1), np.float32), np.zeros((2, 2)), np.float32(1)],
)
def test_unpack_other_shape(array: np.ndarray) -> None:
    """A tensor of another shape or type than the manifest's is an error, never cut to fit."""
    with pytest.raises(errors.InternalError) as caught:
        packing.unpack([array], [TensorSpec("p", F32, ("no", "yes"))], 2)
    assert caught.value.reason == errors.Reason.INFERENCE_FAILED


@pytest.mark.parametrize("dtype", list(DataType))
def test_example_packs(dtype: DataType) -> None:
    """Rows to warm up with fit every type, with examples and without."""
    specs = [spec(dtype, "a", "b")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feeds = packing.pack(packing.example(specs, {"a": [2.5], "b": ["AA"]}, 3), specs)
    assert feeds["X"].shape == (3, 2)
    if dtype is F32:
        assert feeds["X"][0].tolist() == [2.5, 0.0]
