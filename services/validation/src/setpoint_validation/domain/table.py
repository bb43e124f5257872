"""A table that arrives in pieces."""

import hashlib
from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from setpoint_columns import Column, Columns, DataType
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a table may be."""

    rows: int
    """Most rows."""
    kept_bytes: int
    """Most bytes of the columns that are kept."""


class Table:
    """Takes pieces, keeps the columns that rules look at, and digests all of them.

    The digest does not depend on where the table was cut, nor on the order of its columns.
    """

    def __init__(self, wanted: Set[str], limits: Limits) -> None:
        """Begin a table.

        Args:
            wanted: The columns to keep.
            limits: How large it may become.
        """
        self._wanted = wanted
        self._limits = limits
        self._schema: dict[str, DataType] | None = None
        self._kept: dict[str, list[Column]] = {}
        self._digests: dict[str, _ColumnDigest] = {}
        self._bytes = 0
        self.rows = 0

    def add(self, piece: Columns, field: str) -> None:
        """Append rows.

        Args:
            piece: The rows.
            field: Path of the piece in the request, for errors.

        Raises:
            InvalidArgumentError: The piece has other columns than the first one, or the table becomes too large.
        """
        schema = piece.schema
        if self._schema is None:
            self._schema = schema
            self._kept = {name: [] for name in schema if name in self._wanted}
            self._digests = {name: _ColumnDigest() for name in schema}
        elif schema != self._schema:
            raise _unlike(self._schema, schema, field)
        self._grow(piece, field)
        for name, column in piece.items():
            self._digests[name].add(column)
            if name in self._kept:
                self._kept[name].append(column)

    def _grow(self, piece: Columns, field: str) -> None:
        self.rows += piece.rows
        self._bytes += sum(_size(piece[name]) for name in self._kept)
        if self.rows > self._limits.rows:
            raise _too_large(field, f"{self.rows} rows", f"at most {self._limits.rows}")
        if self._bytes > self._limits.kept_bytes:
            most = f"at most {self._limits.kept_bytes} in the columns that rules look at"
            raise _too_large(field, f"{self._bytes} bytes", most)

    def take(self) -> Columns:
        """Return the kept columns of all rows; the table is empty afterwards.

        Column by column, so that at no time everything is in memory twice.
        """
        joined = []
        while self._kept:
            name = next(iter(self._kept))
            parts = [Columns(part.rows, [part]) for part in self._kept.pop(name)]
            joined.append(Columns.concat(parts)[name])
        return Columns(self.rows, joined)

    def digest(self) -> bytes:
        """Return a digest of all that was added, kept or not."""
        whole = hashlib.sha256(self.rows.to_bytes(8, "little"))
        for name in sorted(self._digests):
            text = name.encode()
            dtype = (self._schema or {})[name]
            whole.update(len(text).to_bytes(4, "little") + text + bytes([dtype]))
            whole.update(self._digests[name].finish())
        return whole.digest()


class _ColumnDigest:
    """The digest of one column; each buffer has its own, since pieces interleave them."""

    def __init__(self) -> None:
        self._parts = [hashlib.sha256() for _ in range(3)]

    def add(self, column: Column) -> None:
        values, lengths, validity = self._parts
        if column.dtype is DataType.STRING:
            data, offsets = column.text_bounds()
            values.update(np.ascontiguousarray(data).data)
            lengths.update(np.diff(offsets).data)
        else:
            values.update(np.ascontiguousarray(column.values).data)
        known = b"\1" * column.rows if column.validity is None else column.validity.tobytes()
        validity.update(known)

    def finish(self) -> bytes:
        return b"".join(part.digest() for part in self._parts)


def _size(column: Column) -> int:
    buffers = (column.values, column.offsets, column.validity)
    return sum(buffer.nbytes for buffer in buffers if buffer is not None)


def _unlike(
    first: dict[str, DataType], schema: dict[str, DataType], field: str
) -> errors.InvalidArgumentError:
    """Return the error for a piece of other columns, naming one that differs."""
    for name in sorted(first.keys() | schema.keys()):
        path = f"{field}.{name}"
        if name not in schema:
            rule = "must be there, as in the first piece"
            return errors.invalid(path, name, rule, errors.Reason.MALFORMED_COLUMNS)
        if name not in first:
            rule = "must not be there, since the first piece lacks it"
            return errors.invalid(path, name, rule, errors.Reason.MALFORMED_COLUMNS)
        if schema[name] is not first[name]:
            rule = f"must be {first[name].name}, as in the first piece"
            return errors.invalid(path, schema[name].name, rule, errors.Reason.WRONG_TYPE)
    raise AssertionError("the columns are the same")


def _too_large(field: str, found: str, allowed: str) -> errors.InvalidArgumentError:
    message = f"{field}: the table has {found} or more, must have {allowed}"
    return errors.InvalidArgumentError(
        errors.Reason.TOO_LARGE,
        message,
        violations=(errors.FieldViolation(field, message.partition(": ")[2]),),
        metadata={"field": field},
    )
