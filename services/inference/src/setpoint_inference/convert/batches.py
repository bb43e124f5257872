"""Column batches of the contract into tensors, and answers into column batches.

Most calls bring one row or a few, all floats, for one matrix. For them the bytes of the message are
joined and read as one array, without a column object for each value.
"""

from typing import Final

import numpy as np

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns import bitmap
from setpoint_columns.column import Column
from setpoint_columns.dtypes import MAX_ROWS, NUMPY_TYPES, DataType
from setpoint_inference.domain import packing
from setpoint_inference.domain.packing import AnyArray, Feeds, Output
from setpoint_inference.domain.version import Manifest

_FLOAT_NUMBERS: Final = {
    int(dtype): NUMPY_TYPES[dtype] for dtype in (DataType.FLOAT32, DataType.FLOAT64)
}


def pack(batch: column_pb2.ColumnBatch, manifest: Manifest) -> Feeds:
    """Return the tensors of a batch.

    Raises:
        InvalidArgumentError: The batch is malformed, or does not fit the manifest.
    """
    specs = manifest.inputs
    if len(specs) == 1 and specs[0].dtype in _FLOAT_NUMBERS:
        matrix = _matrix(batch, specs[0])
        if matrix is not None:
            return {specs[0].name: matrix}
    return packing.pack(column_messages.from_proto(batch, "inputs"), specs)


def _matrix(batch: column_pb2.ColumnBatch, spec: TensorSpec) -> AnyArray | None:
    """Return a matrix of columns that are floats of one type without nulls, else None.

    Whatever is unusual is left to the slow way, which also knows how to say what is wrong.
    """
    rows = batch.rows
    if not 0 < rows <= MAX_ROWS:
        return None
    by_name = {column.name: column for column in batch.columns}
    if len(by_name) != len(batch.columns):
        return None
    first = by_name.get(spec.columns[0])
    if first is None:
        return None
    number = first.dtype
    kind = _FLOAT_NUMBERS.get(number)
    if kind is None:
        return None
    length = rows * kind.itemsize
    parts = []
    for name in spec.columns:
        column = by_name.get(name)
        if column is None or column.dtype != number or column.validity or column.offsets:
            return None
        values = column.values
        if len(values) != length:
            return None
        parts.append(values)
    # Columns lie one after the other; the model wants row after row.
    columns = np.frombuffer(b"".join(parts), kind).reshape(len(parts), rows)
    return _rows_first(columns, NUMPY_TYPES[spec.dtype])


def _rows_first(columns: AnyArray, kind: "np.dtype[np.floating]") -> AnyArray | None:
    if kind.itemsize < columns.itemsize:
        # Beyond float32 lies an error that names the column; infinities and NaN are values.
        with np.errstate(over="raise"):
            try:
                return columns.T.astype(kind, order="C")
            except FloatingPointError:
                return None
    return columns.T.astype(kind, order="C")


def fill(batch: column_pb2.ColumnBatch, rows: int, outputs: list[Output]) -> None:
    """Write the columns of an answer into a batch."""
    batch.rows = rows
    add = batch.columns.add
    for name, dtype, values in outputs:
        # The numbers of data types are equal by contract.
        if dtype is DataType.STRING:
            data, offsets = Column.from_list(name, values.tolist(), dtype).text_bounds()
            add(name=name, dtype=dtype, values=data.tobytes(), offsets=offsets.tobytes())
        elif dtype is DataType.BOOL:
            add(name=name, dtype=dtype, values=bitmap.pack(values))
        else:
            add(name=name, dtype=dtype, values=values.tobytes())
