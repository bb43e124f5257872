"""One named column: Arrow-shaped numpy arrays that nobody may write to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import bitmap, build, utf8
from setpoint_columns.dtypes import FLOATS, MAX_NAME_LENGTH, NUMPY_TYPES, OFFSET_TYPE, DataType

AnyArray = npt.NDArray[Any]


class Column:
    """A name, a type and one value or null for each row.

    Arrays are shared, never copied, and read-only; a column never changes. `values` holds the fixed-width
    values, or for STRING the UTF-8 bytes that `offsets` (int32, one more than rows) divides. Flags are one
    bool for each row in memory, and bits only on the wire, so that slices need no bit arithmetic.
    Values below a null are undefined.
    """

    __slots__ = ("dtype", "name", "offsets", "rows", "validity", "values")

    name: str
    dtype: DataType
    values: AnyArray
    offsets: npt.NDArray[np.int32] | None
    validity: npt.NDArray[np.bool_] | None
    """True where there is a value; None when no row is null."""
    rows: int

    def __init__(
        self,
        name: str,
        dtype: DataType,
        values: AnyArray,
        offsets: npt.NDArray[np.int32] | None = None,
        validity: npt.NDArray[Any] | None = None,
        rows: int | None = None,
    ) -> None:
        """Checks and wraps arrays without copying them.

        Args:
            name: Not empty, at most 256 characters.
            dtype: Type of the values.
            values: Array of the type's numpy form; for BOOL either bool or a bitmap of uint8.
            offsets: Bounds of the rows in `values`, for STRING alone.
            validity: One bool for each row or a bitmap of uint8; None when no row is null.
            rows: Number of rows; needed only where `values` is a bitmap.

        Raises:
            InvalidArgumentError: The arrays do not fit each other or the type.
        """
        check_column_name("name", name)
        dtype = DataType(dtype)
        if dtype is DataType.STRING:
            offsets, rows = _checked_text(name, values, offsets, rows)
        elif offsets is not None:
            raise build.malformed(
                f"{name}.offsets", len(offsets), f"must be absent for {dtype.name}"
            )
        if dtype is DataType.BOOL and values.dtype == np.uint8:
            values = bitmap.unpack(_checked_bitmap(f"{name}.values", values, rows), rows or 0)
        _check_array(f"{name}.values", values, NUMPY_TYPES[dtype])
        rows = len(values) if rows is None else rows
        if dtype is not DataType.STRING and len(values) != rows:
            raise build.malformed(f"{name}.values", len(values), f"must hold {rows} values")
        valid = _checked_validity(name, validity, rows)
        self.name = name
        self.dtype = dtype
        self.values = _read_only(values)
        self.offsets = None if offsets is None else _read_only(offsets)
        self.validity = None if valid is None or valid.all() else _read_only(valid)
        self.rows = rows

    @classmethod
    def from_numpy(
        cls,
        name: str,
        array: AnyArray,
        mask: npt.NDArray[np.bool_] | None = None,
        dtype: DataType | None = None,
    ) -> "Column":
        """Wraps a numpy array, without a copy where its type is already the column's.

        Smaller integers and floats widen to the next type, datetime64 becomes TIMESTAMP (read as UTC,
        truncated to microseconds, NaT as null), text and object arrays become STRING or what `dtype` says,
        with None as null. NaN stays a value.

        Args:
            name: Name of the column.
            array: One dimension.
            mask: True where the row is null (as in numpy.ma), beside the nulls of the array.
            dtype: Type wanted; by default the nearest one. Only lossless conversions are made.

        Raises:
            InvalidArgumentError: The array has no lossless form in the type.
        """
        values, valid, dtype = build.from_array(name, array, dtype)
        if isinstance(values, list):
            column = cls.from_list(name, values, dtype)
            values, offsets, valid = column.values, column.offsets, column.validity
        else:
            offsets = None
        if mask is not None:
            valid = ~mask if valid is None else valid & ~mask
        return cls(name, dtype, values, offsets, valid)

    @classmethod
    def from_list(cls, name: str, values: Sequence[object], dtype: DataType) -> "Column":
        """Builds a column of Python values, None meaning null.

        Types are strict: a bool is no integer, a float is no integer, text is no number; an integer may
        stand for a float, and an aware datetime for TIMESTAMP.

        Raises:
            InvalidArgumentError: A value has the wrong type or does not fit; names row and value.
        """
        check_column_name("name", name)
        dtype = DataType(dtype)
        array, offsets, valid = build.from_values(name, values, dtype)
        return owned(name, dtype, array, offsets, valid, len(values))

    @property
    def null_count(self) -> int:
        """Number of null rows."""
        return 0 if self.validity is None else self.rows - int(np.count_nonzero(self.validity))

    def null_mask(self) -> npt.NDArray[np.bool_] | None:
        """Returns True for each null row, or None when there is none."""
        return None if self.validity is None else ~self.validity

    def to_numpy(self) -> AnyArray:
        """Returns the values as one array; without nulls and text this is `values` itself.

        STRING gives an object array of str and None. Nulls become NaN in floats; for other types an object
        array with None is returned, because no number may stand for "unknown". TIMESTAMP is int64
        microseconds.
        """
        if self.dtype is DataType.STRING:
            return self.text()
        if self.validity is None:
            return self.values
        if self.dtype in FLOATS:
            return np.where(self.validity, self.values, self.values.dtype.type(np.nan))
        array = self.values.astype(object)
        array[~self.validity] = None
        return array

    def floats(self) -> npt.NDArray[np.float64]:
        """Returns numbers, flags or timestamps as float64 with NaN for nulls (statistics, model inputs).

        Raises:
            InvalidArgumentError: The column holds text.
        """
        if self.dtype is DataType.STRING:
            raise build.wrong_type(self.name, self.dtype.name, "must be numeric")
        array = self.values.astype(np.float64)
        if self.validity is not None:
            array[~self.validity] = np.nan
        return array

    def text(self) -> npt.NDArray[np.object_]:
        """Returns STRING values as an object array of str, None for null.

        Raises:
            InvalidArgumentError: The column is not STRING.
        """
        if self.offsets is None:
            raise build.wrong_type(self.name, self.dtype.name, "must be STRING")
        array = np.empty(self.rows, object)
        array[:] = utf8.decode(self.values, self.offsets)
        if self.validity is not None:
            array[~self.validity] = None
        return array

    def to_list(self) -> list[Any]:
        """Returns Python values, None for null; TIMESTAMP as integer microseconds."""
        if self.offsets is None:
            values: list[Any] = self.values.tolist()
        else:
            values = utf8.decode(self.values, self.offsets)
        if self.validity is not None:
            for row in np.flatnonzero(~self.validity).tolist():
                values[row] = None
        return values

    def item(self, row: int) -> Any:
        """Returns the Python value of one row, None for null."""
        if self.validity is not None and not self.validity[row]:
            return None
        if self.offsets is None:
            return self.values.item(row)
        row = row if row >= 0 else row + self.rows
        return self.values[self.offsets[row] : self.offsets[row + 1]].tobytes().decode("utf-8")

    def slice(self, start: int, stop: int) -> "Column":
        """Returns rows from `start` up to, not including, `stop`, sharing the arrays."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        stop = max(start, stop)
        valid = None if self.validity is None else self.validity[start:stop]
        if self.offsets is None:
            return trusted(
                self.name, self.dtype, self.values[start:stop], None, valid, stop - start
            )
        offsets = self.offsets[start : stop + 1]
        return trusted(self.name, self.dtype, self.values, offsets, valid, stop - start)

    def take(self, indices: npt.NDArray[Any]) -> "Column":
        """Returns the rows at `indices`, in that order; rows may repeat.

        Raises:
            IndexError: An index lies outside the column.
            InvalidArgumentError: The gathered text exceeds 2 GiB.
        """
        indices = np.asarray(indices, np.intp)
        valid = None if self.validity is None else self.validity[indices]
        if self.offsets is None:
            return owned(self.name, self.dtype, self.values[indices], None, valid, len(indices))
        data, gathered = utf8.gather(self.values, self.offsets, indices)
        offsets = build.narrow_offsets(self.name, gathered)
        return owned(self.name, self.dtype, data, offsets, valid, len(indices))

    def rename(self, name: str) -> "Column":
        """Returns the same values under another name."""
        check_column_name("name", name)
        return trusted(name, self.dtype, self.values, self.offsets, self.validity, self.rows)

    def cast(self, dtype: DataType) -> "Column":
        """Returns the values in another type when every value keeps its meaning exactly.

        Raises:
            InvalidArgumentError: The types are unrelated or a value does not fit; names row and value.
        """
        if dtype is self.dtype:
            return self
        values = build.cast(self.name, self.values, self.validity, self.dtype, dtype)
        return owned(self.name, dtype, values, None, self.validity, self.rows)

    def misfits(self, dtype: DataType) -> npt.NDArray[np.bool_] | None:
        """Returns for each row whether its value would lose its meaning in another type, None when none would.

        Raises:
            InvalidArgumentError: The types are unrelated.
        """
        if dtype is self.dtype:
            return None
        _, lost = build.convert(self.name, self.values, self.validity, self.dtype, dtype)
        return None if lost is None or not lost.any() else lost

    def text_bounds(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Returns the bytes that the rows use and offsets that start at zero.

        Raises:
            InvalidArgumentError: The column is not STRING.
        """
        if self.offsets is None:
            raise build.wrong_type(self.name, self.dtype.name, "must be STRING")
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        data = self.values if last - first == len(self.values) else self.values[first:last]
        return data, self.offsets - np.int32(first) if first else self.offsets

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.rows

    def __eq__(self, other: object) -> bool:
        """Compares name, type, nulls and values; NaN equals NaN, values below nulls do not matter."""
        if not isinstance(other, Column):
            return NotImplemented
        if (self.name, self.dtype, self.rows) != (other.name, other.dtype, other.rows):
            return False
        if self.validity is None or other.validity is None:
            if self.validity is not other.validity:
                return False
        elif not np.array_equal(self.validity, other.validity):
            return False
        if self.dtype is DataType.STRING:
            return self.to_list() == other.to_list()
        mine, theirs = self.values, other.values
        if self.validity is not None:
            mine, theirs = mine[self.validity], theirs[self.validity]
        return np.array_equal(mine, theirs, equal_nan=self.dtype in FLOATS)

    __hash__ = None  # type: ignore[assignment]  # Equal by content, which costs too much to hash.

    def __repr__(self) -> str:
        """Returns name, type and the first values."""
        shown = ", ".join(repr(value) for value in self.slice(0, 5).to_list())
        more = ", …" if self.rows > 5 else ""
        return f"Column({self.name!r}, {self.dtype.name}, rows={self.rows}, [{shown}{more}])"


def trusted(
    name: str,
    dtype: DataType,
    values: AnyArray,
    offsets: npt.NDArray[np.int32] | None,
    validity: npt.NDArray[np.bool_] | None,
    rows: int,
) -> Column:
    """Makes a column of checked parts whose arrays are read-only already."""
    made = _new(Column)
    made.name = name
    made.dtype = dtype
    made.values = values
    made.offsets = offsets
    made.validity = None if validity is None or validity.all() else validity
    made.rows = rows
    return made


def owned(
    name: str,
    dtype: DataType,
    values: AnyArray,
    offsets: npt.NDArray[np.int32] | None,
    validity: npt.NDArray[np.bool_] | None,
    rows: int,
) -> Column:
    """Makes a column of checked parts that nobody else holds, and forbids to write to them."""
    values.setflags(write=False)
    if offsets is not None:
        offsets.setflags(write=False)
    if validity is not None:
        validity.setflags(write=False)
    return trusted(name, dtype, values, offsets, validity, rows)


_new = object.__new__


def _read_only(array: AnyArray) -> AnyArray:
    """Returns the array, or a read-only view of one that its owner may write to."""
    if array.flags.writeable:
        array = array.view()
        array.setflags(write=False)
    return array


def check_column_name(field: str, name: str) -> None:
    """Refuses an empty or overlong column name, and NUL, on which polars panics.

    Raises:
        InvalidArgumentError: Names `field` and the rule.
    """
    if not name or len(name) > MAX_NAME_LENGTH or "\0" in name:
        raise build.malformed(field, name, f"must have 1 to {MAX_NAME_LENGTH} characters, none NUL")


def _check_array(field: str, array: AnyArray, dtype: np.dtype[Any]) -> None:
    if array.ndim != 1:
        raise build.malformed(field, f"{array.ndim} dimensions", "must have one dimension")
    if array.dtype != dtype:
        raise build.malformed(field, str(array.dtype), f"must be an array of {dtype}")


def _checked_bitmap(
    field: str, bits: npt.NDArray[np.uint8], rows: int | None
) -> npt.NDArray[np.uint8]:
    if rows is None:
        raise build.malformed(field, "a bitmap", "needs the number of rows")
    if len(bits) != bitmap.byte_length(rows):
        raise build.malformed(
            field, f"{len(bits)} bytes", f"must have {bitmap.byte_length(rows)} for {rows} rows"
        )
    return bits


def _checked_validity(
    name: str, validity: AnyArray | None, rows: int
) -> npt.NDArray[np.bool_] | None:
    if validity is None:
        return None
    if validity.dtype == np.uint8:
        return bitmap.unpack(_checked_bitmap(f"{name}.validity", validity, rows), rows)
    _check_array(f"{name}.validity", validity, np.dtype(np.bool_))
    if len(validity) != rows:
        raise build.malformed(f"{name}.validity", len(validity), f"must hold {rows} flags")
    return validity


def _checked_text(
    name: str, values: AnyArray, offsets: AnyArray | None, rows: int | None
) -> tuple[npt.NDArray[np.int32], int]:
    field = f"{name}.offsets"
    if offsets is None:
        raise build.malformed(field, None, "must be given for STRING")
    _check_array(f"{name}.values", values, NUMPY_TYPES[DataType.STRING])
    _check_array(field, offsets, OFFSET_TYPE)
    if len(offsets) == 0 or (rows is not None and len(offsets) != rows + 1):
        raise build.malformed(field, len(offsets), f"must hold {(rows or 0) + 1} offsets")
    check_text(field, f"{name}.values", values.tobytes(), offsets)
    return offsets, len(offsets) - 1


def check_text(field: str, values_field: str, data: bytes, offsets: npt.NDArray[np.int32]) -> None:
    """Checks that offsets divide bytes into valid UTF-8 rows.

    Raises:
        InvalidArgumentError: Names the field, the value and the broken rule.
    """
    if offsets[0] < 0:
        raise build.malformed(f"{field}[0]", int(offsets[0]), "must not be negative")
    if not utf8.is_monotonic(offsets):
        row = utf8.first_descent(offsets)
        raise build.malformed(
            f"{field}[{row}]", int(offsets[row]), f"must be at least {int(offsets[row - 1])}"
        )
    if offsets[-1] > len(data):
        last = len(offsets) - 1
        raise build.malformed(
            f"{field}[{last}]", int(offsets[last]), f"must be at most {len(data)}"
        )
    row_or_none = utf8.first_invalid_row(data, offsets)
    if row_or_none is not None:
        start, stop = offsets[row_or_none], offsets[row_or_none + 1]
        raise build.malformed(
            f"{values_field}[{row_or_none}]", data[start:stop][:32], "must be valid UTF-8"
        )
