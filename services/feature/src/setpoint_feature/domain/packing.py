"""Rows of a view as packed bytes, and back into columns without a loop over rows.

A row is its fixed part, then the texts of its STRING fields one after the other. The fixed part holds one
bit for each field (set where there is a value, as in Arrow), then for each field its little-endian
value: one byte for BOOL, and for STRING the length of its text as uint32. The fixed part has the same
length in every row of a view, so many rows decode as one matrix of bytes.
"""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_columns import column as column_parts
from setpoint_feature.domain import definitions
from setpoint_runtime import errors

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]

WIDTHS: Final = {
    DataType.BOOL: 1,
    DataType.INT32: 4,
    DataType.INT64: 8,
    DataType.FLOAT32: 4,
    DataType.FLOAT64: 8,
    DataType.STRING: 4,
    DataType.TIMESTAMP: 8,
}
_FORMATS: Final = {
    DataType.BOOL: struct.Struct("<?"),
    DataType.INT32: struct.Struct("<i"),
    DataType.INT64: struct.Struct("<q"),
    DataType.FLOAT32: struct.Struct("<f"),
    DataType.FLOAT64: struct.Struct("<d"),
    DataType.STRING: struct.Struct("<I"),
    DataType.TIMESTAMP: struct.Struct("<q"),
}
_ARRAYS: Final[dict[DataType, np.dtype[Any]]] = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FLOAT32: np.dtype("<f4"),
    DataType.FLOAT64: np.dtype("<f8"),
    DataType.STRING: np.dtype("<u4"),
    DataType.TIMESTAMP: np.dtype("<i8"),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a field lies in the fixed part of a row."""

    name: str
    dtype: DataType
    start: int
    stop: int
    text: int
    """Position among the STRING fields, or -1."""


class Layout:
    """The packing of one view."""

    def __init__(self, fields: Sequence[definitions.Field]) -> None:
        """Places the fields; `defaults` becomes the packed row that stands for no row at all."""
        self.bitmap_bytes = (len(fields) + 7) >> 3
        slots = []
        start = self.bitmap_bytes
        texts = 0
        for each in fields:
            stop = start + WIDTHS[each.dtype]
            is_text = each.dtype is DataType.STRING
            slots.append(Slot(each.name, each.dtype, start, stop, texts if is_text else -1))
            texts += is_text
            start = stop
        self.slots = tuple(slots)
        self.fixed_bytes = start
        self.row_bytes = 0 if texts else start
        """Bytes of a row; 0 where rows differ."""
        self._record = np.dtype(
            {
                "names": [str(index) for index in range(len(slots))],
                "formats": [_ARRAYS[slot.dtype] for slot in slots],
                "offsets": [slot.start for slot in slots],
                "itemsize": start,
            }
        )
        self.texts = tuple(slot for slot in slots if slot.text >= 0)
        self.defaults = self._pack_defaults(fields)

    def _pack_defaults(self, fields: Sequence[definitions.Field]) -> bytes:
        present = np.array([each.default is not None for each in fields], np.bool_)
        fixed = [np.packbits(present, bitorder="little").tobytes()]
        tail = []
        for each in fields:
            value = each.default
            if isinstance(value, str):
                tail.append(value.encode("utf-8"))
                value = len(tail[-1])
            fixed.append(_FORMATS[each.dtype].pack(0 if value is None else value))
        return b"".join((*fixed, *tail))

    def pack(self, columns: Sequence[Column | None], rows: int) -> list[bytes]:
        """Returns one packed row for each row of the columns, which follow the fields' order.

        Args:
            columns: One column of its field's type for each field; None where all rows are null.
            rows: Number of rows.
        """
        matrix = np.zeros((rows, self.fixed_bytes), np.uint8)
        present = np.zeros((rows, len(self.slots)), np.bool_)
        tails: list[list[bytes]] = []
        for index, (slot, column) in enumerate(zip(self.slots, columns, strict=True)):
            if column is None:
                if slot.text >= 0:
                    tails.append([b""] * rows)
                continue
            present[:, index] = True if column.validity is None else column.validity
            values = _fixed_values(slot, column)
            if column.validity is not None:
                # What lies below a null is undefined; zero keeps equal rows equal as bytes.
                values = np.where(column.validity, values, values.dtype.type(0))
            width = slot.stop - slot.start
            matrix[:, slot.start : slot.stop] = values.view(np.uint8).reshape(rows, width)
            if slot.text >= 0:
                tails.append(_tails(column))
        matrix[:, : self.bitmap_bytes] = np.packbits(present, axis=1, bitorder="little")
        fixed = rows_of(matrix)
        return list(map(b"".join, zip(fixed, *tails, strict=True))) if tails else fixed

    def unpack(
        self,
        data: bytes | Bytes,
        starts: Positions,
        fields: Sequence[int],
        names: Sequence[str] | None = None,
    ) -> list[Column]:
        """Returns some fields of many rows as columns.

        Args:
            data: Packed rows, with anything between them; at least one row, wanted or not.
            starts: Where each wanted row begins in `data`; a row may be wanted more than once.
            fields: Positions of the fields.
            names: Names of the columns; by default the fields' own.
        """
        if not len(starts):
            data, starts = self.defaults, np.zeros(0, np.int64)
        return self._columns(windows(data, self.fixed_bytes)[starts], data, starts, fields, names)

    def unpack_first(
        self, data: bytes | Bytes, rows: int, fields: Sequence[int], names: Sequence[str]
    ) -> list[Column]:
        """Returns some fields of the first rows, which lie one after the other and have no texts."""
        matrix = np.frombuffer(data, np.uint8).reshape(-1, self.fixed_bytes)[:rows]
        return self._columns(matrix, b"", np.zeros(0, np.int64), fields, names)

    def _columns(
        self,
        matrix: Bytes,
        data: bytes | Bytes,
        starts: Positions,
        fields: Sequence[int],
        names: Sequence[str] | None,
    ) -> list[Column]:
        rows = len(matrix)
        records = matrix.view(self._record).reshape(-1)
        present = np.unpackbits(
            matrix[:, : self.bitmap_bytes], axis=1, count=len(self.slots), bitorder="little"
        ).view(np.bool_)
        complete: list[bool] = np.all(present, axis=0).tolist()
        text_starts = self._text_starts(records, starts) if self.texts else None
        columns = []
        for place, index in enumerate(fields):
            slot = self.slots[index]
            name = slot.name if names is None else names[place]
            values = records[str(index)].copy()
            valid = None if complete[index] else present[:, index].copy()
            offsets = None
            if text_starts is not None and slot.text >= 0:
                values, offsets = _gather(name, data, text_starts[slot.text], values)
            columns.append(column_parts.owned(name, slot.dtype, values, offsets, valid, rows))
        return columns

    def _text_starts(self, records: npt.NDArray[Any], starts: Positions) -> list[Positions]:
        found = []
        position = starts + self.fixed_bytes
        for index, slot in enumerate(self.slots):
            if slot.text >= 0:
                found.append(position)
                position = position + records[str(index)]
        return found


def rows_of(matrix: Bytes) -> list[bytes]:
    """Returns each row of a matrix of bytes; numpy makes the objects, several times as quick as slices of one."""
    found: list[bytes] = np.ascontiguousarray(matrix).view(f"V{matrix.shape[1]}").ravel().tolist()
    return found


def windows(data: bytes | Bytes, width: int) -> Bytes:
    """Returns a view of bytes whose row i is the `width` bytes from byte i on."""
    return np.ndarray((len(data) - width + 1, width), np.uint8, data, 0, (1, 1))


def default_bytes(field: definitions.Field) -> str | None:
    """Returns the exact content of a default, for hashing; None where there is none."""
    if field.default is None:
        return None
    return Layout([field]).defaults.hex()


def _fixed_values(slot: Slot, column: Column) -> npt.NDArray[Any]:
    if column.offsets is not None:
        return np.diff(column.offsets).astype("<u4")
    return np.ascontiguousarray(column.values, _ARRAYS[slot.dtype])


def _tails(column: Column) -> list[bytes]:
    values, offsets = column.text_bounds()
    data = values.tobytes()
    tails = [data[first:last] for first, last in itertools.pairwise(offsets.tolist())]
    if column.validity is not None:
        for row in np.flatnonzero(~column.validity).tolist():
            tails[row] = b""
    return tails


def _gather(
    name: str, data: bytes | Bytes, starts: Positions, lengths: npt.NDArray[Any]
) -> tuple[Bytes, npt.NDArray[np.int32]]:
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise errors.invalid(
            name,
            int(offsets[-1]),
            "must have at most 2 GiB of text in one answer",
            errors.Reason.TOO_LARGE,
        )
    source = np.frombuffer(data, np.uint8)
    # Each output byte lies at its row's start plus its distance from its row's first output byte.
    positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return source[positions], offsets.astype(np.int32)
