"""Column batches of the contract into tensors, and answers into column batches.

Most calls bring one row or a few. For them the bytes of the message are joined and read as one array
for each type, without a column object for each value. Whatever is unusual is left to the slow way,
which also knows how to say what is wrong.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns import bitmap
from setpoint_columns.column import Column
from setpoint_columns.dtypes import FLOATS, MAX_ROWS, NUMBERS, NUMPY_TYPES, OFFSET_TYPE, DataType
from setpoint_inference.domain.version import Manifest
from setpoint_scoring import packing
from setpoint_scoring.packing import AnyArray, Feeds, Output

_KINDS: Final = {int(dtype): NUMPY_TYPES[dtype] for dtype in NUMBERS}
_STRING: Final = int(DataType.STRING)

_ByName = Mapping[str, column_pb2.Column]


def pack(batch: column_pb2.ColumnBatch, manifest: Manifest) -> Feeds:
    """Return the tensors of a batch.

    Raises:
        InvalidArgumentError: The batch is malformed, or does not fit the manifest.
    """
    specs = manifest.inputs
    quick = _quickly(batch, specs)
    if quick is not None:
        return quick
    return packing.pack(column_messages.from_proto(batch, "inputs"), specs)


def _quickly(batch: column_pb2.ColumnBatch, specs: tuple[TensorSpec, ...]) -> Feeds | None:
    """Return the tensors of a batch in which nothing is unusual, else None."""
    rows = batch.rows
    if not 0 < rows <= MAX_ROWS:
        return None
    by_name = {column.name: column for column in batch.columns}
    if len(by_name) != len(batch.columns):
        return None
    feeds = {}
    for spec in specs:
        if spec.dtype in FLOATS:
            tensor = _matrix(by_name, rows, spec)
        elif spec.dtype is DataType.STRING:
            tensor = _texts(by_name, rows, spec)
        else:
            tensor = None
        if tensor is None:
            return None
        feeds[spec.name] = tensor
    return feeds


@dataclass(slots=True)
class _Numbers:
    """The columns of a matrix: positions and values by type, and where there are nulls."""

    groups: dict[int, tuple[list[int], list[bytes]]] = field(default_factory=dict)
    nulls: list[tuple[int, bytes]] = field(default_factory=list)


def _matrix(by_name: _ByName, rows: int, spec: TensorSpec) -> AnyArray | None:
    numbers = _gathered(by_name, rows, spec)
    if numbers is None:
        return None
    # Beyond the target's range lies an error that names the column; infinity and NaN are values.
    with np.errstate(over="raise"):
        try:
            matrix = _joined(numbers, rows, spec)
        except FloatingPointError:
            return None
    if matrix is not None:
        for position, validity in numbers.nulls:
            matrix[~bitmap.unpack(validity, rows), position] = np.nan
        if spec.missing:
            packing.settle(matrix, spec)
    return matrix


def _gathered(by_name: _ByName, rows: int, spec: TensorSpec) -> _Numbers | None:
    numbers = _Numbers()
    groups = numbers.groups
    for position, name in enumerate(spec.columns):
        column = by_name.get(name)
        if column is None or column.offsets:
            return None
        number = column.dtype
        values = column.values
        kind = _KINDS.get(number)
        if kind is None or len(values) != rows * kind.itemsize:
            return None
        validity = column.validity
        if validity:
            if len(validity) != bitmap.byte_length(rows):
                return None
            numbers.nulls.append((position, validity))
        group = groups.get(number)
        if group is None:
            group = groups[number] = ([], [])
        group[0].append(position)
        group[1].append(values)
    return numbers


def _joined(numbers: _Numbers, rows: int, spec: TensorSpec) -> AnyArray | None:
    """Return the matrix of all groups, or None when a whole number may lose its value."""
    kind = NUMPY_TYPES[spec.dtype]
    limit = packing.WHOLE[spec.dtype]
    is_single = len(numbers.groups) == 1
    matrix = None if is_single else np.empty((rows, len(spec.columns)), kind)
    for number, (positions, parts) in numbers.groups.items():
        # Columns lie one after the other; the model wants row after row.
        columns = np.frombuffer(b"".join(parts), _KINDS[number]).reshape(len(parts), rows)
        if number not in FLOATS and not -limit <= columns.min() <= columns.max() <= limit:
            return None
        if matrix is None:
            return columns.T.astype(kind, order="C")
        matrix[:, positions] = columns.T
    return matrix


def _texts(by_name: _ByName, rows: int, spec: TensorSpec) -> AnyArray | None:
    packed = np.empty((rows, len(spec.columns)), object)
    for position, name in enumerate(spec.columns):
        column = by_name.get(name)
        if column is None or column.dtype != _STRING or column.validity:
            return None
        texts = _decoded(column.values, column.offsets, rows)
        if texts is None:
            return None
        packed[:, position] = texts
    return packed


def _decoded(values: bytes, offsets: bytes, rows: int) -> list[str] | None:
    if len(offsets) != (rows + 1) * OFFSET_TYPE.itemsize:
        return None
    bounds = np.frombuffer(offsets, OFFSET_TYPE).tolist()
    if bounds[0] != 0 or bounds[-1] != len(values) or bounds != sorted(bounds):
        return None
    try:
        return [values[start:stop].decode() for start, stop in itertools.pairwise(bounds)]
    except UnicodeDecodeError:
        return None


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
