"""Segments as Parquet files: one row of the history is one row of the file.

Columns are the key, both times, the sequence and the packed row, sorted as in a run. Packed rows are stored
as they are: numbers hardly shrink, and reading them is then no more than copying.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from setpoint_feature.domain import key_table, run

FORMAT: Final = b"1"
_FORMAT_KEY: Final = b"setpoint.segment.format"
_NAMES: Final = ("key", "event_time", "created_time", "sequence", "packed")
_COMPRESSION: Final = {
    "key": "zstd",
    "event_time": "zstd",
    "created_time": "zstd",
    "sequence": "zstd",
    "packed": "none",
}


class DamagedError(Exception):
    """A file is no segment, or not all of one."""


def encode(content: run.Run) -> bytes:
    """Returns the file of a run."""
    packed = content.packed
    if packed.offsets is None:
        rows = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(packed.width), len(content), [None, pa.py_buffer(packed.data)]
        )
    else:
        rows = _binary(packed.data, packed.offsets)
    keys = pa.DictionaryArray.from_arrays(
        pa.array(content.owners().astype(np.int32)),
        _binary(content.keys.content, content.keys.offsets),
    )
    columns = [keys, content.event_times, content.created_times, content.sequences, rows]
    schema = pa.schema(
        [
            pa.field(name, column.type if isinstance(column, pa.Array) else pa.int64(), False)
            for name, column in zip(_NAMES, columns, strict=True)
        ],
        metadata={_FORMAT_KEY: FORMAT},
    )
    table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema)
    file = pa.BufferOutputStream()
    pq.write_table(
        table,
        file,
        # One group, so that there is one list of keys.
        row_group_size=max(1, len(content)),
        use_dictionary=["key"],
        compression=_COMPRESSION,
        write_statistics=["event_time", "created_time", "sequence"],
    )
    return bytes(file.getvalue())


def decode(data: bytes) -> run.Run:
    """Returns the run in a file.

    Raises:
        DamagedError: The bytes are no segment.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_format(file)
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(str(error)) from error
    keys = table["key"].unify_dictionaries().combine_chunks()
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.chunk(0) if keys.num_chunks else pa.array([], keys.type)
    owners = keys.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    distinct = _packed(keys.dictionary)
    numbers = len(keys.dictionary)
    if len(owners) and ((np.diff(owners) < 0).any() or owners[0] < 0 or owners[-1] >= numbers):
        raise DamagedError("its rows are not sorted by key")
    bounds = np.searchsorted(owners, np.arange(numbers + 1))
    rows = table["packed"].combine_chunks()
    return run.Run(
        key_table.KeyTable(key_table.padded(distinct.data), _offsets(distinct, numbers)),
        bounds,
        (_integers(table, "event_time"), _integers(table, "created_time")),
        _integers(table, "sequence"),
        _packed(rows),
    )


def release_memory() -> None:
    """Gives back to the system what pyarrow keeps of the memory of files that are done with."""
    pa.default_memory_pool().release_unused()


def _check_format(file: pq.ParquetFile) -> None:
    metadata = file.schema_arrow.metadata or {}
    if tuple(file.schema_arrow.names) != _NAMES or metadata.get(_FORMAT_KEY) != FORMAT:
        raise DamagedError("it is a file of another kind, or of a later version")


def _binary(data: key_table.Bytes, offsets: run.Rows) -> pa.Array:
    return pa.Array.from_buffers(
        pa.binary(),
        len(offsets) - 1,
        [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))],
    )


def _packed(array: Any) -> run.Packed:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        data = np.frombuffer(array.buffers()[1] or b"", np.uint8)
        start = array.offset * width
        return run.Packed(data[start : start + len(array) * width], width)
    if not len(array):
        return run.Packed(np.zeros(0, np.uint8), 0, np.zeros(1, np.int64))
    _, bounds, content = array.buffers()
    offsets = np.frombuffer(bounds, np.int32)[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.frombuffer(content or b"", np.uint8)[first:last]
    return run.Packed(data, 0, (offsets - first).astype(np.int64))


def _offsets(distinct: run.Packed, count: int) -> run.Rows:
    return distinct.offsets if distinct.offsets is not None else np.zeros(count + 1, np.int64)


def _integers(table: pa.Table, name: str) -> run.Rows:
    return np.asarray(table[name].to_numpy())
