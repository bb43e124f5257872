"""Columns written straight into their message.

Going through arrays first would double the price of a record, which every prediction pays.
"""

import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint.common.v1 import column_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint_columns import DataType

Numbers = Sequence[int] | npt.NDArray[Any]

_FORMATS = {DataType.INT32: "<i", DataType.INT64: "<q", DataType.TIMESTAMP: "<q"}


class Told:
    """What a record tells of its predictions: of each, once for all, or not at all where it is unknown.

    The disk takes so many bytes a second, and most of what is known of a caller's own batch is the same
    in thousands of rows.
    """

    __slots__ = ("_common", "_rows", "_shares")

    def __init__(self, message: prediction_pb2.PredictionRecords) -> None:
        """Write to a record."""
        self._rows = message.predictions
        self._common = message.common
        self._shares = False

    def number(self, name: str, dtype: DataType, value: int | None) -> None:
        """Tell a number of all rows; None is unknown."""
        if value is not None:
            self._add_number(name, dtype, value)

    def numbers(self, name: str, dtype: DataType, values: Numbers) -> None:
        """Tell a number of each row."""
        if is_repeated(values):
            self._add_number(name, dtype, int(values[0]))
        else:
            encode = int32 if dtype is DataType.INT32 else int64
            add_numbers(self._rows, name, dtype, encode(values))

    def texts(self, name: str, texts: Sequence[str | None]) -> None:
        """Tell a text of each row, or, when there is one alone, of all; None is unknown."""
        if not is_repeated(texts):
            add_text(self._rows, name, texts)
        elif texts[0] is not None:
            add_text(self._shared(), name, texts[:1])

    def _add_number(self, name: str, dtype: DataType, value: int) -> None:
        add_numbers(self._shared(), name, dtype, struct.pack(_FORMATS[dtype], value))

    def _shared(self) -> column_pb2.ColumnBatch:
        if not self._shares:
            self._common.rows = 1
            self._shares = True
        return self._common


def is_repeated(values: Sequence[Any] | npt.NDArray[Any]) -> bool:
    """Says whether values are all the same, without looking at all where they are not."""
    if not len(values) or values[0] != values[-1]:
        return False
    if isinstance(values, np.ndarray):
        return bool((values == values[0]).all())
    return values.count(values[0]) == len(values)


def add_text(batch: column_pb2.ColumnBatch, name: str, texts: Sequence[str | None]) -> None:
    """Adds a column of texts, None being null."""
    column = _add(batch, name, DataType.STRING)
    if None in texts:
        column.validity = np.packbits(
            [text is not None for text in texts], bitorder="little"
        ).tobytes()
        present = [text or "" for text in texts]
    else:
        present = texts  # type: ignore[assignment]  # there is no None among them
    joined = "".join(present)
    column.values = joined.encode()
    lengths = map(len, present if joined.isascii() else [text.encode() for text in present])
    column.offsets = array("i", accumulate(lengths, initial=0)).tobytes()


def add_even_text(batch: column_pb2.ColumnBatch, name: str, data: bytes, rows: int) -> None:
    """Adds a column of texts that are all of one length, given as their bytes."""
    column = _add(batch, name, DataType.STRING)
    column.values = data
    column.offsets = (np.arange(rows + 1, dtype="<i4") * (len(data) // max(1, rows))).tobytes()


def add_numbers(batch: column_pb2.ColumnBatch, name: str, dtype: DataType, data: bytes) -> None:
    """Adds a column of encoded numbers."""
    _add(batch, name, dtype).values = data


def _add(batch: column_pb2.ColumnBatch, name: str, dtype: DataType) -> column_pb2.Column:
    column = batch.columns.add()
    column.name = name
    column.dtype = dtype.value  # type: ignore[assignment]  # equal numbers
    return column


def int64(values: Numbers) -> bytes:
    """Returns whole numbers as the bytes of a column."""
    if isinstance(values, np.ndarray):
        return values.astype("<i8", copy=False).tobytes()
    return array("q", values).tobytes()


def int32(values: Numbers) -> bytes:
    """Returns whole numbers as the bytes of a column."""
    if isinstance(values, np.ndarray):
        return values.astype("<i4", copy=False).tobytes()
    return array("i", values).tobytes()
