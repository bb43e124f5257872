"""Entity keys as bytes that are equal exactly when the keys are.

Version byte, number of keys, then for each key column in the order of its name: length and name, kind,
length and value. Integers of both widths are one kind, stored as int64, and every part is
prefixed by its length, so ("1", "23") and ("12", "3") differ. A key with a null part matches nothing. An
entity without key columns is global: one thing, with a constant key.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import definitions, key_table, packing
from setpoint_runtime import errors

FORMAT: Final = 1
MAX_KEY_BYTES: Final = 1024
"""Longest text of one key column; a longer one is a mistake, and would not fit an index entry."""
MAX_TEXT_BYTES: Final = 2048
"""Longest texts of all key columns together that are stored; for the same reason."""
MAX_KEY_COLUMNS: Final = 8

_INTEGER_KIND: Final = 1
_STRING_KIND: Final = 2
_LENGTH = struct.Struct("<H")
_LENGTHS: Final = [_LENGTH.pack(length) for length in range(MAX_KEY_BYTES + 1)]
_INTEGER_BYTES: Final = 8


class KeyCodec:
    """Turns the key columns of one entity into key bytes, and back."""

    def __init__(self, keys: Sequence[definitions.FieldSpec]) -> None:
        """Prepares for keys in any order; the bytes follow the order of their names."""
        self.keys = tuple(sorted(keys, key=lambda key: key.name))
        self._heads = tuple(_head(key) for key in self.keys)
        self._first = bytes((FORMAT, len(self.keys)))
        self._starts = (self._first + self._heads[0], *self._heads[1:]) if self.keys else ()

    def encode(
        self, columns: Columns, key_columns: Mapping[str, str], field: str
    ) -> list[bytes | None]:
        """Returns the key of each row, None where a part of it is null.

        Args:
            columns: The rows; columns that are no keys are ignored.
            key_columns: Key to column, where the names differ.
            field: Path of the rows in the request, for errors.

        Raises:
            InvalidArgumentError: A key column is absent, of another type, or holds too long a text.
        """
        found = self.find(columns, key_columns, field)
        parts = [
            _integers(start, column) if column.offsets is None else _texts(start, column, field)
            for start, column in zip(self._starts, found, strict=True)
        ]
        joined: list[bytes | None]
        if not parts:
            # There is only one such thing, and every row means it.
            joined = [self._first] * columns.rows
        elif len(parts) == 1:
            joined = list(parts[0])
        else:
            joined = list(map(b"".join, zip(*parts, strict=True)))
        for column in found:
            if column.validity is not None:
                for row in np.flatnonzero(~column.validity).tolist():
                    joined[row] = None
        return joined

    def find(self, columns: Columns, key_columns: Mapping[str, str], field: str) -> list[Column]:
        """Returns the key columns, in the order of the keys' names; the arguments are those of `encode`.

        Raises:
            InvalidArgumentError: A key column is absent or of another type.
        """
        return [
            _find(columns, key_columns.get(key.name, key.name), key, field) for key in self.keys
        ]

    def encode_table(
        self, columns: Columns, key_columns: Mapping[str, str], field: str
    ) -> tuple[key_table.KeyTable, npt.NDArray[np.bool_] | None]:
        """Returns the same keys as `encode`, without a loop over rows.

        Returns:
            The keys, and which rows have one; None where all have.

        Raises:
            InvalidArgumentError: As `encode`.
        """
        found = self.find(columns, key_columns, field)
        rows = columns.rows
        starts = self._starts or (self._first,)
        texts = [_text_parts(column, field) for column in found]
        if found and texts.count(None) == len(texts):
            return _integer_table(starts, found), _complete(found)
        lengths = np.full(rows, sum(map(len, starts)), np.int64)
        for text in texts:
            lengths += _INTEGER_BYTES if text is None else _LENGTH.size + np.diff(text[1])
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        data = key_table.padded(bytes(int(offsets[-1])))
        places = offsets[:-1].copy()
        for start, column, text in itertools.zip_longest(starts, found, texts):
            _put(data, places, np.frombuffer(start, np.uint8))
            places += len(start)
            if text is not None:
                _put_texts(data, places, *text)
            elif column is not None:
                numbers = np.ascontiguousarray(column.values, np.dtype("<i8"))
                _put(data, places, numbers.view(np.uint8).reshape(rows, _INTEGER_BYTES))
                places += _INTEGER_BYTES
        return key_table.KeyTable(data, offsets), _complete(found)

    def decode(self, keys: Sequence[bytes]) -> list[Column]:
        """Returns the key columns of key bytes, typed as the entity declares them."""
        values: list[list[object]] = [[] for _ in self.keys]
        for key in keys:
            position = 2
            for index, spec in enumerate(self.keys):
                position += len(self._heads[index])
                if spec.dtype is DataType.STRING:
                    length = _LENGTH.unpack_from(key, position)[0]
                    position += _LENGTH.size
                    values[index].append(key[position : position + length].decode("utf-8"))
                    position += length
                else:
                    values[index].append(
                        int.from_bytes(key[position : position + 8], "little", signed=True)
                    )
                    position += _INTEGER_BYTES
        return [
            Column.from_list(spec.name, column, _declared(spec.dtype, column))
            for spec, column in zip(self.keys, values, strict=True)
        ]


def _head(key: definitions.FieldSpec) -> bytes:
    name = key.name.encode("utf-8")
    if key.dtype is DataType.STRING:
        return bytes((len(name),)) + name + bytes((_STRING_KIND,))
    return bytes((len(name),)) + name + bytes((_INTEGER_KIND,)) + _LENGTH.pack(_INTEGER_BYTES)


def _declared(dtype: DataType, values: Sequence[object]) -> DataType:
    """Returns INT64 for an INT32 key under which a larger number was stored."""
    if dtype is not DataType.INT32:
        return dtype
    fits = all(isinstance(value, int) and -(1 << 31) <= value < 1 << 31 for value in values)
    return dtype if fits else DataType.INT64


def _find(columns: Columns, name: str, key: definitions.FieldSpec, field: str) -> Column:
    column = columns.by_name.get(name)
    if column is None:
        raise errors.invalid(
            f"{field}.{name}",
            None,
            f"must hold the key {key.name}",
            errors.Reason.ENTITY_KEY_MISSING,
        )
    if column.dtype is key.dtype:
        return column
    both = definitions.INTEGER_KEY_TYPES
    if column.dtype in both and key.dtype in both:
        return column
    raise errors.invalid(
        f"{field}.{name}",
        column.dtype.name,
        f"must be {key.dtype.name} as the key {key.name} is",
        errors.Reason.WRONG_TYPE,
    )


def _integers(start: bytes, column: Column) -> list[bytes]:
    width = len(start) + _INTEGER_BYTES
    matrix = np.empty((column.rows, width), np.uint8)
    matrix[:, : len(start)] = np.frombuffer(start, np.uint8)
    numbers = np.ascontiguousarray(column.values, np.dtype("<i8"))
    matrix[:, len(start) :] = numbers.view(np.uint8).reshape(column.rows, _INTEGER_BYTES)
    return packing.rows_of(matrix)


def _integer_table(starts: Sequence[bytes], columns: Sequence[Column]) -> key_table.KeyTable:
    """Returns keys of integers alone, which all have one width."""
    rows, width = columns[0].rows, sum(map(len, starts)) + _INTEGER_BYTES * len(columns)
    data = key_table.padded(np.empty(rows * width, np.uint8))
    matrix = data[: rows * width].reshape(rows, width)
    place = 0
    for start, column in zip(starts, columns, strict=True):
        matrix[:, place : place + len(start)] = np.frombuffer(start, np.uint8)
        place += len(start)
        numbers = np.ascontiguousarray(column.values, np.dtype("<i8"))
        parts = numbers.view(np.uint8).reshape(rows, _INTEGER_BYTES)
        matrix[:, place : place + _INTEGER_BYTES] = parts
        place += _INTEGER_BYTES
    return key_table.KeyTable(data, np.arange(rows + 1) * width)


def _texts(start: bytes, column: Column, field: str) -> list[bytes]:
    values, offsets = column.text_bounds()
    bounds = offsets.tolist()
    data = values.tobytes()
    try:
        return [
            start + _LENGTHS[last - first] + data[first:last]
            for first, last in itertools.pairwise(bounds)
        ]
    except IndexError:
        row = _first_too_long(offsets)
        raise _too_long(column, field, row, data[bounds[row] : bounds[row + 1]]) from None


_TextParts = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def _text_parts(column: Column, field: str) -> _TextParts | None:
    """Returns the bytes and bounds of a text column, None for one of integers."""
    if column.offsets is None:
        return None
    values, offsets = column.text_bounds()
    if (np.diff(offsets) > MAX_KEY_BYTES).any():
        row = _first_too_long(offsets)
        raise _too_long(column, field, row, values[offsets[row] : offsets[row + 1]].tobytes())
    return values, offsets


def _put(
    data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], parts: npt.NDArray[np.uint8]
) -> None:
    """Writes bytes of the same number at each place."""
    if not len(places):
        return
    width = parts.shape[-1]
    np.ndarray((len(data) - width + 1, width), np.uint8, data, 0, (1, 1))[places] = parts


def _put_texts(
    data: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    values: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int32],
) -> None:
    """Writes texts behind their lengths, and moves the places behind them."""
    lengths = np.diff(offsets)
    prefixes = lengths.astype("<u2").view(np.uint8).reshape(len(lengths), _LENGTH.size)
    _put(data, places, prefixes)
    places += _LENGTH.size
    positions = np.repeat(places - offsets[:-1], lengths)
    positions += np.arange(len(positions))
    data[positions] = values
    places += lengths


def _complete(columns: Sequence[Column]) -> npt.NDArray[np.bool_] | None:
    """Returns the rows in which no column is null, None for all."""
    masks = [column.validity for column in columns if column.validity is not None]
    return np.logical_and.reduce(masks) if masks else None


def _too_long(column: Column, field: str, row: int, text: bytes) -> errors.InvalidArgumentError:
    return errors.invalid(
        f"{field}.{column.name}[{row}]",
        text,
        f"must have at most {MAX_KEY_BYTES} bytes",
        errors.Reason.TOO_LARGE,
    )


def _first_too_long(offsets: npt.NDArray[np.int32]) -> int:
    return int(np.flatnonzero(np.diff(offsets) > MAX_KEY_BYTES)[0])
