import datetime as dt
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, Columns, DataType, interop, testing
from setpoint_runtime import errors


# Arrow tables and polars frames without columns have no rows either.
@given(testing.batches(max_rows=70, min_columns=1))
def test_arrow_round_trip(batch: Columns) -> None:
    """Any columns survive Arrow, and Arrow finds its own checks satisfied."""
    table = interop.to_arrow(batch)
    table.validate(full=True)
    assert interop.from_arrow(table) == batch


@given(testing.batches(max_rows=40, min_columns=1), st.integers(0, 40), st.integers(0, 40))
def test_arrow_slices_at_any_offset(batch: Columns, start: int, stop: int) -> None:
    """Slices of Arrow's own, whose bitmaps begin within a byte, are read right."""
    start, stop = sorted((min(start, batch.rows), min(stop, batch.rows)))
    table = interop.to_arrow(batch).slice(start, stop - start)
    assert interop.from_arrow(table) == batch.slice(start, stop)


@given(testing.batches(max_rows=40, min_columns=1))
def test_polars_round_trip(batch: Columns) -> None:
    """Any columns survive polars, NaN beside null included."""
    assert interop.from_polars(interop.to_polars(batch)) == batch


@given(testing.batches(max_rows=40))
def test_pandas_round_trip(batch: Columns) -> None:
    """Any columns survive pandas, but that a null float and NaN are one thing there."""
    back = interop.from_pandas(interop.to_pandas(batch))
    assert back == Columns(batch.rows, [_without_nan(column) for column in batch.columns])


def _without_nan(column: Column) -> Column:
    if column.dtype is DataType.TIMESTAMP:
        # NaT is the smallest int64 in numpy and pandas alike.
        values = [None if value == -(2**63) else value for value in column.to_list()]
    else:
        values = [None if value != value else value for value in column.to_list()]
    return Column.from_list(column.name, values, column.dtype)


def test_pandas_keeps_nan_when_told() -> None:
    """NaN is a value when the caller says so."""
    frame = pd.DataFrame({"x": [1.0, float("nan")]})
    assert interop.from_pandas(frame)["x"].null_count == 1
    assert interop.from_pandas(frame, nan_as_null=False)["x"].null_count == 0


def test_arrow_shares_memory() -> None:
    """Fixed-width values and text are the same memory on both sides."""
    table = pa.table({"x": pa.array([1, 2], pa.int64()), "s": pa.array(["a", "b"])})
    batch = interop.from_arrow(table)
    assert batch["x"].values.ctypes.data == table["x"].chunk(0).buffers()[1].address
    assert batch["s"].values.ctypes.data == table["s"].chunk(0).buffers()[2].address
    again = interop.to_arrow(batch)
    assert again["x"].chunk(0).buffers()[1].address == batch["x"].values.ctypes.data


def test_polars_shares_fixed_width_values() -> None:
    """A polars column of numbers is read where it lies."""
    frame = pl.DataFrame({"x": [1.5, 2.5]})
    assert (
        interop.from_polars(frame)["x"].values.ctypes.data
        == frame["x"].to_arrow().buffers()[1].address
    )


_MIDNIGHT = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
_MIDNIGHT_US = 1356998400000000


@pytest.mark.parametrize(
    "array, dtype, values",
    [
        (pa.array([1, None], pa.int8()), DataType.INT32, [1, None]),
        (pa.array([1, None], pa.uint16()), DataType.INT32, [1, None]),
        (pa.array([1, None], pa.uint32()), DataType.INT64, [1, None]),
        (pa.array([2**63 - 1], pa.uint64()), DataType.INT64, [2**63 - 1]),
        (pa.array([1.5], pa.float16()), DataType.FLOAT32, [1.5]),
        (pa.array(["a", None], pa.large_string()), DataType.STRING, ["a", None]),
        (pa.array(["a", None], pa.string_view()), DataType.STRING, ["a", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), DataType.STRING, ["a", "b", "a"]),
        (pa.array([_MIDNIGHT], pa.timestamp("ns", "UTC")), DataType.TIMESTAMP, [_MIDNIGHT_US]),
        (
            pa.array([_MIDNIGHT], pa.timestamp("s", "America/New_York")),
            DataType.TIMESTAMP,
            [_MIDNIGHT_US],
        ),
        (pa.chunked_array([["a"], [None, "b"]]), DataType.STRING, ["a", None, "b"]),
        (pa.chunked_array([], pa.string()), DataType.STRING, []),
    ],
)
def test_from_arrow_widens(array: Any, dtype: DataType, values: list[object]) -> None:
    """Related Arrow types become the nearest column type without loss."""
    column = interop.from_arrow(pa.table({"x": array}))["x"]
    assert (column.dtype, column.to_list()) == (dtype, values)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**63], pa.uint64()),
        pa.array([dt.datetime(2013, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001 - naive is the point
        pa.array([dt.date(2013, 1, 1)]),
        pa.array([b"x"]),
        pa.array([[1]]),
        pa.nulls(2),
    ],
)
def test_from_arrow_refuses_the_rest(array: Any) -> None:
    """What has no lossless form is a typed error that names the column."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^fare: "):
        interop.from_arrow(pa.table({"fare": array}))


def test_from_arrow_takes_record_batches() -> None:
    """A record batch is as good as a table."""
    batch = pa.record_batch({"x": pa.array([1, 2])})
    assert interop.from_arrow(batch)["x"].to_list() == [1, 2]


@pytest.mark.parametrize(
    "series, dtype, values",
    [
        (pd.Series(["a", None]), DataType.STRING, ["a", None]),
        (pd.Series(["a", None], dtype=object), DataType.STRING, ["a", None]),
        (pd.Series(["a", "b"], dtype="category"), DataType.STRING, ["a", "b"]),
        (pd.Series([1, None], dtype="Int64"), DataType.INT64, [1, None]),
        (pd.Series([True, None], dtype="boolean"), DataType.BOOL, [True, None]),
        (pd.Series([1.5, None], dtype="Float32"), DataType.FLOAT32, [1.5, None]),
        (pd.Series([1, 2], dtype="int16"), DataType.INT32, [1, 2]),
        (pd.Series([1, None], dtype="int64[pyarrow]"), DataType.INT64, [1, None]),
        (pd.Series(pd.to_datetime(["2013-01-01"], utc=True)), DataType.TIMESTAMP, [_MIDNIGHT_US]),
        (
            pd.Series(pd.to_datetime(["2012-12-31 19:00", None])).dt.tz_localize(
                "America/New_York"
            ),
            DataType.TIMESTAMP,
            [_MIDNIGHT_US, None],
        ),
    ],
)
def test_from_pandas_finds_type(series: Any, dtype: DataType, values: list[object]) -> None:
    """Numpy, nullable, Arrow, text, category and time columns of pandas are understood."""
    column = interop.from_pandas(pd.DataFrame({"x": series}))["x"]
    assert (column.dtype, column.to_list()) == (dtype, values)


def test_from_pandas_refuses_naive_times_and_odd_labels() -> None:
    """A local time is refused, as is a label that is no text."""
    with pytest.raises(errors.InvalidArgumentError, match=r"t: .* must have a time zone"):
        interop.from_pandas(pd.DataFrame({"t": pd.to_datetime(["2013-01-01"])}))
    with pytest.raises(errors.InvalidArgumentError, match=r"columns\[0\]: 7 must be labelled"):
        interop.from_pandas(pd.DataFrame({7: [1]}))


def test_from_frame_takes_what_people_have() -> None:
    """One function takes each kind of frame and nothing else."""
    expected = Columns.from_dict({"x": (DataType.INT64, [1, 2])})
    frames = [
        expected,
        pl.DataFrame({"x": [1, 2]}),
        pl.LazyFrame({"x": [1, 2]}),
        pd.DataFrame({"x": np.array([1, 2])}),
        pa.table({"x": [1, 2]}),
    ]
    assert [interop.from_frame(frame) for frame in frames] == [expected] * len(frames)
    with pytest.raises(
        errors.InvalidArgumentError, match="must be a polars, pandas or Arrow table"
    ):
        interop.from_frame({"x": [1, 2]})


def test_core_needs_numpy_alone() -> None:
    """Columns work without protobuf, polars, pyarrow and pandas being imported."""
    script = (
        "import sys, setpoint_columns\n"
        "heavy = {'google', 'setpoint', 'grpc', 'polars', 'pyarrow', 'pandas', 'hypothesis'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
