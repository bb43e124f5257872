"""Columns to and from pyarrow, polars and pandas; each is imported only by the functions that need it.

Fixed-width values and text go to and from Arrow without a copy; flags are packed and unpacked. Polars
keeps text in another layout and copies it. Timestamps without a time zone are refused: reading local
times as UTC is a mistake that nothing later can find.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import bitmap, build, column
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import FLOATS, NUMPY_TYPES, OFFSET_TYPE, DataType

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


def to_arrow(batch: Columns) -> "pa.Table":
    """Returns an Arrow table over the same buffers."""
    import pyarrow as pa

    arrays = [_to_arrow_array(each) for each in batch.columns]
    return pa.Table.from_arrays(arrays, names=list(batch.names))


def from_arrow(table: "pa.Table | pa.RecordBatch") -> Columns:
    """Returns the columns of an Arrow table or record batch; several chunks are joined first.

    Raises:
        InvalidArgumentError: A column's type has no lossless form here; names the column.
    """
    names = [str(name) for name in table.schema.names]
    return Columns(
        table.num_rows, [_from_arrow_array(name, table.column(i)) for i, name in enumerate(names)]
    )


def to_polars(batch: Columns) -> "pl.DataFrame":
    """Returns a polars frame; fixed-width values are shared."""
    import polars as pl

    if not len(batch):
        return pl.DataFrame()
    return pl.DataFrame(pl.from_arrow(to_arrow(batch)))


def from_polars(frame: "pl.DataFrame") -> Columns:
    """Returns the columns of a polars frame; NaN stays a value beside null.

    Raises:
        InvalidArgumentError: A column's type has no lossless form here; names the column.
    """
    import polars as pl

    oldest = pl.CompatLevel.oldest()
    made = [
        _from_arrow_array(series.name, series.to_arrow(compat_level=oldest))
        for series in frame.iter_columns()
    ]
    return Columns(frame.height, made)


def to_pandas(batch: Columns) -> "pd.DataFrame":
    """Returns a pandas frame: numpy types, and pandas' nullable ones for integers and flags with nulls.

    A null among floats becomes NaN, as pandas users expect, and text has pandas' string type.
    """
    import pandas as pd

    data = {each.name: _to_pandas_array(each) for each in batch.columns}
    return pd.DataFrame(data, index=pd.RangeIndex(batch.rows), copy=False)


def from_pandas(frame: "pd.DataFrame", *, nan_as_null: bool = True) -> Columns:
    """Returns the columns of a pandas frame; the index is left out.

    Args:
        frame: The frame; column labels must be text.
        nan_as_null: Whether NaN in a float column means "unknown", as in pandas, or is a value.

    Raises:
        InvalidArgumentError: A label is not text or a type has no lossless form; names the column.
    """
    made = []
    for position, label in enumerate(frame.columns):
        if not isinstance(label, str):
            raise build.malformed(f"columns[{position}]", label, "must be labelled with text")
        made.append(_from_pandas_series(label, frame.iloc[:, position], nan_as_null))
    return Columns(len(frame), made)


def from_frame(frame: Any) -> Columns:
    """Returns columns of whatever tabular object is given: Columns, polars, pandas or Arrow.

    Raises:
        InvalidArgumentError: The object is none of these.
    """
    if isinstance(frame, Columns):
        return frame
    package = type(frame).__module__.partition(".")[0]
    convert = _CONVERTERS.get(package)
    if convert is None:
        kind = f"{type(frame).__module__}.{type(frame).__qualname__}"
        raise build.wrong_type("frame", kind, "must be a polars, pandas or Arrow table, or Columns")
    return convert(frame)


_CONVERTERS: dict[str, Callable[[Any], Columns]] = {
    "polars": lambda frame: from_polars(frame.collect() if hasattr(frame, "collect") else frame),
    "pandas": from_pandas,
    "pyarrow": from_arrow,
}


def _arrow_types() -> "dict[DataType, pa.DataType]":
    import pyarrow as pa

    return {
        DataType.BOOL: pa.bool_(),
        DataType.INT32: pa.int32(),
        DataType.INT64: pa.int64(),
        DataType.FLOAT32: pa.float32(),
        DataType.FLOAT64: pa.float64(),
        DataType.STRING: pa.string(),
        DataType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }


def _to_arrow_array(each: Column) -> "pa.Array":
    import pyarrow as pa

    bits = None if each.validity is None else pa.py_buffer(bitmap.pack(each.validity))
    values = bitmap.pack(each.values) if each.dtype is DataType.BOOL else _contiguous(each.values)
    buffers = [bits, pa.py_buffer(values)]
    if each.offsets is not None:
        buffers.insert(1, pa.py_buffer(_contiguous(each.offsets)))
    return pa.Array.from_buffers(_arrow_types()[each.dtype], each.rows, buffers, each.null_count)


def _contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array)


def _from_arrow_array(name: str, array: Any) -> Column:
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    dtype, array = _normalised(name, array)
    rows, start = len(array), array.offset
    buffers = array.buffers()
    valid = None
    if buffers[0] is not None and array.null_count:
        valid = bitmap.unpack(np.frombuffer(buffers[0], np.uint8), rows, start)
    if rows == 0:
        empty = build.from_values(name, [], dtype)
        return Column(name, dtype, empty[0], empty[1])
    if dtype is DataType.BOOL:
        flags = bitmap.unpack(np.frombuffer(buffers[1], np.uint8), rows, start)
        return Column(name, dtype, flags, None, valid)
    if dtype is not DataType.STRING:
        values = np.frombuffer(buffers[1], NUMPY_TYPES[dtype])[start : start + rows]
        return Column(name, dtype, values, None, valid)
    offsets = np.frombuffer(buffers[1], OFFSET_TYPE)[start : start + rows + 1]
    data = (
        np.frombuffer(buffers[2], np.uint8)
        if buffers[2] is not None and buffers[2].size
        else np.empty(0, np.uint8)
    )
    column.check_column_name("name", name)
    # Arrow guarantees valid offsets and text within the process; only bytes from outside are searched.
    return column.owned(name, dtype, data, offsets, valid, rows)


def _normalised(name: str, array: Any) -> "tuple[DataType, pa.Array]":
    """Returns the column type for an Arrow array and the array in that type's exact form."""
    import pyarrow as pa
    from pyarrow import compute

    kind = array.type
    types = pa.types
    if types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if types.is_timestamp(kind) and kind.tz is None:
        raise build.wrong_type(name, str(kind), "must have a time zone")
    for dtype, accepted in _accepted(types):
        if accepted(kind):
            target = _arrow_types()[dtype]
            if kind == target:
                return dtype, array
            try:
                # Nanoseconds are cut to microseconds; everything else must be exact.
                return dtype, compute.cast(array, target, safe=not types.is_timestamp(kind))
            except pa.ArrowInvalid as error:
                raise build.wrong_type(name, str(error), f"has no exact {dtype.name}") from None
    raise build.wrong_type(
        name, str(kind), "must be a column of flags, numbers, text or timestamps"
    )


def _accepted(types: Any) -> list[tuple[DataType, Callable[[Any], bool]]]:
    narrow = (types.is_int8, types.is_int16, types.is_int32, types.is_uint8, types.is_uint16)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    return [
        (DataType.BOOL, types.is_boolean),
        (DataType.INT32, lambda kind: any(check(kind) for check in narrow)),
        (DataType.INT64, types.is_integer),
        (DataType.FLOAT32, lambda kind: types.is_float16(kind) or types.is_float32(kind)),
        (DataType.FLOAT64, types.is_float64),
        (DataType.STRING, lambda kind: any(check(kind) for check in texts)),
        (DataType.TIMESTAMP, types.is_timestamp),
    ]


def _to_pandas_array(each: Column) -> Any:
    import pandas as pd

    if each.dtype is DataType.STRING:
        return _to_pandas_text(each)
    if each.dtype is DataType.TIMESTAMP:
        instants = each.values.view("datetime64[us]")
        if each.validity is not None:
            instants = np.where(each.validity, instants, np.datetime64("NaT", "us"))
        return pd.DatetimeIndex(instants).tz_localize("UTC")
    if each.validity is None or each.dtype in FLOATS:
        return each.to_numpy()
    nullable = {DataType.BOOL: pd.arrays.BooleanArray}.get(each.dtype, pd.arrays.IntegerArray)
    return nullable(each.values.copy(), ~each.validity)


def _to_pandas_text(each: Column) -> Any:
    import pandas as pd

    text = pd.Series([], dtype="str").dtype
    if text.storage == "pyarrow":
        # Through Arrow the text is not taken apart into Python strings, which took seconds.
        return text.__from_arrow__(_to_arrow_array(each))
    return pd.array(each.text(), dtype="str")


def _from_pandas_series(name: str, series: Any, nan_as_null: bool) -> Column:
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        series = series.astype(dtype.categories.dtype)
        dtype = series.dtype
    text = isinstance(dtype, pd.StringDtype)
    if isinstance(dtype, pd.ArrowDtype) or (text and dtype.storage == "pyarrow"):
        import pyarrow as pa

        return _from_arrow_array(name, pa.array(series))
    if dtype.kind == "M":
        if getattr(dtype, "tz", None) is None:
            raise build.wrong_type(name, str(dtype), "must have a time zone")
        return Column.from_numpy(name, series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
    missing = series.isna().to_numpy(dtype=bool)
    if text or dtype.kind == "O":
        values = [
            None if gone else value
            for value, gone in zip(series.tolist(), missing.tolist(), strict=True)
        ]
        return Column.from_numpy(
            name,
            np.fromiter(values, object, len(values)),
            dtype=DataType.STRING if text else None,
        )
    if isinstance(dtype, np.dtype):
        mask = missing if dtype.kind == "f" and nan_as_null else None
        return Column.from_numpy(name, series.to_numpy(), mask)
    filled = series.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
    return Column.from_numpy(name, filled, missing)
