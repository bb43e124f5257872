"""Column batches of the contract into tensors, and answers into column batches.

Most calls bring one row or a few, all numbers, for one matrix. For them the bytes of the message are
joined and read as one array for each type, without a column object for each value.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns import bitmap
from setpoint_columns.column import Column
from setpoint_columns.dtypes import FLOATS, MAX_ROWS, NUMBERS, NUMPY_TYPES, DataType
from setpoint_inference.domain import packing
from setpoint_inference.domain.packing import AnyArray, Feeds, Output
from setpoint_inference.domain.version import Manifest

_KINDS: Final = {int(dtype): NUMPY_TYPES[dtype] for dtype in NUMBERS}

_Group = tuple[list[int], list[bytes]]
"""Positions in the tensor, and values, of the columns of one type."""


def pack(batch: column_pb2.ColumnBatch, manifest: Manifest) -> Feeds:
    """Return the tensors of a batch.

    Raises:
        InvalidArgumentError: The batch is malformed, or does not fit the manifest.
    """
    specs = manifest.inputs
    if len(specs) == 1 and specs[0].dtype in FLOATS:
        matrix = _matrix(batch, specs[0])
        if matrix is not None:
            return {specs[0].name: matrix}
    return packing.pack(column_messages.from_proto(batch, "inputs"), specs)


def _matrix(batch: column_pb2.ColumnBatch, spec: TensorSpec) -> AnyArray | None:
    """Return a matrix of columns that are numbers without nulls, else None.

    Whatever is unusual is left to the slow way, which also knows how to say what is wrong.
    """
    rows = batch.rows
    if not 0 < rows <= MAX_ROWS:
        return None
    by_name = {column.name: column for column in batch.columns}
    if len(by_name) != len(batch.columns):
        return None
    groups = _grouped(by_name, spec.columns, rows)
    if groups is None:
        return None
    width = len(spec.columns)
    # Beyond the target's range lies an error that names the column; infinity and NaN are values.
    with np.errstate(over="raise"):
        try:
            return _joined(groups, rows, width, spec.dtype)
        except FloatingPointError:
            return None


def _grouped(
    by_name: Mapping[str, column_pb2.Column], names: Sequence[str], rows: int
) -> dict[int, _Group] | None:
    """Return the columns of each type, or None when one of them is unusual."""
    groups: dict[int, _Group] = {}
    for position, name in enumerate(names):
        column = by_name.get(name)
        if column is None or column.validity or column.offsets:
            return None
        number = column.dtype
        values = column.values
        kind = _KINDS.get(number)
        if kind is None or len(values) != rows * kind.itemsize:
            return None
        group = groups.get(number)
        if group is None:
            group = groups[number] = ([], [])
        group[0].append(position)
        group[1].append(values)
    return groups


def _joined(
    groups: Mapping[int, _Group], rows: int, width: int, target: DataType
) -> AnyArray | None:
    """Return the matrix of the groups, or None when a whole number may lose its value."""
    kind = NUMPY_TYPES[target]
    limit = packing.WHOLE[target]
    matrix = None if len(groups) == 1 else np.empty((rows, width), kind)
    for number, (positions, parts) in groups.items():
        # Columns lie one after the other; the model wants row after row.
        columns = np.frombuffer(b"".join(parts), _KINDS[number]).reshape(len(parts), rows)
        if number not in FLOATS and not -limit <= columns.min() <= columns.max() <= limit:
            return None
        if matrix is None:
            return columns.T.astype(kind, order="C")
        matrix[:, positions] = columns.T
    return matrix


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
