"""Columns of equal length, by name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import build, column
from setpoint_columns.column import Column
from setpoint_columns.dtypes import MAX_ROWS, NUMPY_TYPES, OFFSET_TYPE, DataType
from setpoint_runtime import errors


class Columns(Mapping[str, Column]):
    """Rows in columnar form: an immutable mapping of names to columns, in order.

    Rows may exist without any column, as in an Arrow record batch.
    """

    __slots__ = ("by_name", "rows")

    rows: int
    by_name: dict[str, Column]
    """The columns by name, for quick look-ups; never changed."""

    def __init__(self, rows: int, columns: Iterable[Column] = ()) -> None:
        """Checks that every column has `rows` rows and a name of its own.

        Raises:
            InvalidArgumentError: Names the column that breaks the rule.
        """
        if not 0 <= rows <= MAX_ROWS:
            raise build.malformed("rows", rows, f"must be from 0 to {MAX_ROWS}")
        checked: dict[str, Column] = {}
        for each in columns:
            if each.rows != rows:
                raise build.malformed(
                    each.name, f"{each.rows} rows", f"must have {rows} rows like its batch"
                )
            if each.name in checked:
                raise build.malformed(each.name, each.name, "must be the only column of that name")
            checked[each.name] = each
        self.by_name = checked
        self.rows = rows

    @classmethod
    def from_dict(cls, columns: Mapping[str, tuple[DataType, Sequence[object]]]) -> "Columns":
        """Builds columns of Python values by name, None meaning null.

        Example:
            `Columns.from_dict({"fare": (DataType.FLOAT64, [12.5, None])})`

        Raises:
            InvalidArgumentError: A value has the wrong type, or the lists differ in length.
        """
        built = [Column.from_list(name, values, dtype) for name, (dtype, values) in columns.items()]
        return cls(built[0].rows if built else 0, built)

    @classmethod
    def from_rows(
        cls, schema: Mapping[str, DataType], rows: Sequence[Mapping[str, Any]]
    ) -> "Columns":
        """Builds columns of rows given as mappings; an absent key is a null, a key not in the schema is ignored.

        This is the quick way from many single requests to one batch.

        Raises:
            InvalidArgumentError: A value has the wrong type; names column, row and value.
        """
        built = {}
        count = len(rows)
        for name, dtype in schema.items():
            try:
                values = [row[name] for row in rows]
            except KeyError:
                values = [row.get(name) for row in rows]
            array, offsets, valid = build.from_values(name, values, dtype)
            built[name] = column.owned(name, dtype, array, offsets, valid, count)
        return trusted(count, built)

    @classmethod
    def empty(cls, schema: Mapping[str, DataType]) -> "Columns":
        """Returns columns of the given types without rows."""
        return cls.from_rows(schema, [])

    @classmethod
    def concat(cls, parts: Sequence["Columns"]) -> "Columns":
        """Joins rows of batches that have the same columns; order and types follow the first.

        Raises:
            InvalidArgumentError: A batch lacks a column, has another one, or another type; names it.
        """
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return trusted(0, {})
        first = parts[0].by_name
        counts = [part.rows for part in parts]
        joined = {}
        try:
            for name in first:
                joined[name] = _concat([part.by_name[name] for part in parts], counts)
        except KeyError:
            raise _unlike(parts) from None
        if any(len(part.by_name) != len(first) for part in parts):
            raise _unlike(parts)
        return trusted(sum(counts), joined)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(self.by_name)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return tuple(self.by_name.values())

    @property
    def schema(self) -> dict[str, DataType]:
        """Types by name, in order."""
        return {name: each.dtype for name, each in self.by_name.items()}

    def __getitem__(self, name: str) -> Column:
        """Returns the column of that name (KeyError without one, as every mapping)."""
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        """Tells whether there is a column of that name."""
        return name in self.by_name

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self.by_name)

    def __len__(self) -> int:
        """Returns the number of columns; `rows` counts the rows."""
        return len(self.by_name)

    def select(self, names: Iterable[str]) -> "Columns":
        """Returns the named columns, in the order of `names`.

        Raises:
            InvalidArgumentError: There is no column of a name.
        """
        selected = {}
        for name in names:
            found = self.by_name.get(name)
            if found is None:
                raise errors.invalid(
                    name, name, "must be a column of the batch", errors.Reason.MISSING_FIELD
                )
            selected[name] = found
        return trusted(self.rows, selected)

    def without(self, *names: str) -> "Columns":
        """Returns all columns but the named ones."""
        return trusted(
            self.rows, {name: each for name, each in self.by_name.items() if name not in names}
        )

    def with_column(self, added: Column) -> "Columns":
        """Returns the columns with one more, or with the one of the same name replaced.

        Raises:
            InvalidArgumentError: The column has another number of rows.
        """
        if added.rows != self.rows:
            raise build.malformed(
                added.name, f"{added.rows} rows", f"must have {self.rows} rows like its batch"
            )
        return trusted(self.rows, {**self.by_name, added.name: added})

    def with_constants(self, shared: "Columns") -> "Columns":
        """Returns the columns and behind them those of a single row, which every row then has.

        Raises:
            InvalidArgumentError: They are not of one row, or have a name in common.
        """
        if not len(shared):
            return self
        if shared.rows != 1:
            raise build.malformed("rows", shared.rows, "must be 1 for columns that all rows share")
        everywhere = shared.take(np.zeros(self.rows, np.intp))
        return Columns(self.rows, [*self.columns, *everywhere.columns])

    def take(self, indices: npt.NDArray[Any]) -> "Columns":
        """Returns the rows at `indices`, in that order; rows may repeat.

        Raises:
            IndexError: An index lies outside the batch.
        """
        return trusted(
            len(indices), {name: each.take(indices) for name, each in self.by_name.items()}
        )

    def filter(self, mask: npt.NDArray[np.bool_]) -> "Columns":
        """Returns the rows where `mask` is True."""
        return self.take(np.flatnonzero(mask))

    def slice(self, start: int, stop: int) -> "Columns":
        """Returns rows from `start` up to, not including, `stop`, sharing the arrays."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        stop = max(start, stop)
        return trusted(
            stop - start, {name: each.slice(start, stop) for name, each in self.by_name.items()}
        )

    def row(self, index: int) -> dict[str, Any]:
        """Returns one row as Python values by name, None for null.

        Raises:
            IndexError: The index lies outside the batch.
        """
        if not -self.rows <= index < self.rows:
            raise IndexError(f"row {index} of {self.rows}")
        return {name: each.item(index) for name, each in self.by_name.items()}

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns all rows as Python values by name."""
        if not self.by_name:
            return [{} for _ in range(self.rows)]
        names = tuple(self.by_name)
        lists = [each.to_list() for each in self.by_name.values()]
        return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]

    def __eq__(self, other: object) -> bool:
        """Compares row count, column order and contents."""
        if not isinstance(other, Columns):
            return NotImplemented
        return self.rows == other.rows and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]  # Equal by content, which costs too much to hash.

    def __repr__(self) -> str:
        """Returns the row count and the types."""
        schema = ", ".join(f"{name}: {each.dtype.name}" for name, each in self.by_name.items())
        return f"Columns(rows={self.rows}, {{{schema}}})"


def trusted(rows: int, columns: dict[str, Column]) -> Columns:
    """Makes columns of parts that this package has already checked."""
    made = _new(Columns)
    made.rows = rows
    made.by_name = columns
    return made


_new = object.__new__


def _concat(parts: list[Column], counts: list[int]) -> Column:
    first = parts[0]
    dtype = first.dtype
    for part in parts:
        if part.dtype is not dtype:
            rule = f"must be {dtype.name} as in the first batch"
            raise build.wrong_type(first.name, part.dtype.name, rule)
    rows = sum(counts)
    valid = None
    if [part for part in parts if part.validity is not None]:
        flags = [_valid_flags(part) for part in parts]
        valid = np.frombuffer(b"".join(flags), np.bool_)
    offsets = None
    chunks = [part.values for part in parts]
    if dtype is DataType.STRING:
        chunks, offsets = _concat_text(first.name, parts, counts, rows)
    # Joining bytes is three times as quick as numpy's concatenate for many short arrays.
    # mypy: numpy's stubs declare the buffer protocol from Python 3.12 on only.
    values = np.frombuffer(b"".join(chunks), NUMPY_TYPES[dtype])  # type: ignore[arg-type]
    return column.trusted(first.name, dtype, values, offsets, valid, rows)


def _valid_flags(part: Column) -> bytes:
    return b"\1" * part.rows if part.validity is None else part.validity.tobytes()


def _concat_text(
    name: str, parts: list[Column], counts: list[int], rows: int
) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int32]]:
    """Returns the chunks of text that the parts use and the offsets of all rows in them."""
    bounds = np.frombuffer(b"".join([part.offsets for part in parts]), OFFSET_TYPE)  # type: ignore[misc]
    # The offsets of a part follow those of the one before; the step from one to the next is no row.
    last = np.cumsum(counts) + np.arange(len(counts))
    first = last - counts
    lengths = np.delete(np.diff(bounds), last[:-1])
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    used = zip(parts, bounds[first].tolist(), bounds[last].tolist(), strict=True)
    chunks = [part.values[start:stop] for part, start, stop in used]
    return chunks, build.narrow_offsets(name, offsets)


def _unlike(parts: Sequence[Columns]) -> errors.InvalidArgumentError:
    expected = parts[0].names
    for index, part in enumerate(parts):
        odd = set(part.names) ^ set(expected)
        if odd:
            name = min(odd)
            rule = (
                "must be in every batch joined" if name in expected else "is not in the first batch"
            )
            return build.malformed(f"batches[{index}].{name}", name, rule)
    raise AssertionError("all batches have the same columns")
