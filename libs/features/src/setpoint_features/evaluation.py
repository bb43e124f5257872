"""Running a transformation over columns: nulls, types, lengths, and no row but one's own."""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_features.declaration import Transformation
from setpoint_runtime import errors

SAMPLED_ROWS: Final = 8
_TOLERANCES: Final = {DataType.FLOAT32: 1e-4, DataType.FLOAT64: 1e-9}
"""Results of one row may differ by so much, relatively: vector units round differently at the ends of arrays."""
_KINDS: Final = {
    DataType.BOOL: "b",
    DataType.INT32: "iu",
    DataType.INT64: "iu",
    DataType.FLOAT32: "fiu",
    DataType.FLOAT64: "fiu",
    DataType.STRING: "OUT",
    DataType.TIMESTAMP: "iM",
}
_ARRAYS: Final = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FLOAT32: np.dtype("<f4"),
    DataType.FLOAT64: np.dtype("<f8"),
    DataType.TIMESTAMP: np.dtype("<i8"),
}
_FLOATS: Final = frozenset(_TOLERANCES)

Flags = npt.NDArray[np.bool_]


class MixedRowsError(errors.InternalError):
    """A function answers a row by the rows beside it: none of its answers can be trusted."""


@dataclass(frozen=True, slots=True)
class Result:
    """The column that a transformation made."""

    column: Column
    not_finite: Flags | None
    """Rows that are null because their result was no finite number; None when there are none."""


def run(
    transformation: Transformation, name: str, arguments: Sequence[Column], rows: int
) -> Result:
    """Computes a column.

    Args:
        transformation: What computes it.
        name: Name of the column, also in errors.
        arguments: One column for each parameter, in their order, `rows` long.
        rows: Number of rows.

    Raises:
        InternalError: TRANSFORMATION_FAILED, naming the column and the function: it raised, or what it returned is
            not what it declares. No value is in the message.
    """
    if not rows:
        return Result(_nulls(name, transformation.dtype, rows), None)
    arrays: list[Any]
    if transformation.takes_nulls:
        arrays = [_masked(each) for each in arguments]
        return _checked(transformation, name, _call(transformation, name, arrays), rows, None)
    present = _present(arguments)
    if present is None:
        arrays = [each.to_numpy() for each in arguments]
        return _checked(transformation, name, _call(transformation, name, arrays), rows, None)
    kept = np.flatnonzero(present)
    if not len(kept):
        return Result(_nulls(name, transformation.dtype, rows), None)
    arrays = [each.take(kept).to_numpy() for each in arguments]
    return _checked(transformation, name, _call(transformation, name, arrays), rows, kept)


def check_rows_alone(
    transformation: Transformation, result: Result, arguments: Sequence[Column]
) -> None:
    """Computes some rows again, in other company, and refuses a function whose results then differ.

    Raises:
        MixedRowsError: TRANSFORMATION_FAILED.
        InternalError: TRANSFORMATION_FAILED: in other company it does not answer at all.
    """
    rows = result.column.rows
    if rows < 2:
        return
    sample = np.unique(np.linspace(0, rows - 1, SAMPLED_ROWS).astype(np.intp))[::-1]
    if len(sample) == rows:
        sample = sample[1:]
    again = run(
        transformation,
        result.column.name,
        [each.take(sample) for each in arguments],
        len(sample),
    )
    if not _alike(again.column, result.column.take(sample)):
        told = "answers a row differently in the company of other rows; each value must come of its own row alone"
        raise _failed(transformation, result.column.name, told, MixedRowsError)


def _alike(one: Column, other: Column) -> bool:
    tolerance = _TOLERANCES.get(one.dtype)
    if tolerance is None:
        return one == other
    mask = one.null_mask()
    if not np.array_equal(_flags(mask, one.rows), _flags(other.null_mask(), other.rows)):
        return False
    mine, theirs = one.floats(), other.floats()
    return bool(np.allclose(mine, theirs, rtol=tolerance, atol=0.0, equal_nan=True))


def _flags(mask: Flags | None, rows: int) -> Flags:
    return np.zeros(rows, np.bool_) if mask is None else mask


def _present(arguments: Sequence[Column]) -> Flags | None:
    found = [each.validity for each in arguments if each.validity is not None]
    return np.logical_and.reduce(found) if found else None


def _masked(column: Column) -> "np.ma.MaskedArray[Any, Any]":
    values = column.text() if column.dtype is DataType.STRING else column.values
    mask = column.null_mask()
    return np.ma.MaskedArray(values, np.ma.nomask if mask is None else mask)


def _call(transformation: Transformation, name: str, arrays: Sequence[Any]) -> Any:
    try:
        # What is not finite is judged afterwards, by rule.
        with np.errstate(all="ignore"):
            return transformation.call(*arrays)
    except Exception as error:
        # Its text may hold values, which belong neither into answers nor into logs.
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        file = where.filename.rpartition("/")[2]
        told = f"raised {type(error).__name__} at {file}:{where.lineno}"
        raise _failed(transformation, name, told) from None


def _checked(
    transformation: Transformation,
    name: str,
    returned: Any,
    rows: int,
    kept: npt.NDArray[np.intp] | None,
) -> Result:
    """Returns what a function made as a column; `kept` are the rows that it saw, None for all."""
    seen = rows if kept is None else len(kept)
    if not isinstance(returned, np.ndarray):
        raise _failed(
            transformation, name, f"returned {type(returned).__name__} instead of an array"
        )
    if returned.shape != (seen,):
        raise _failed(transformation, name, f"returned shape {returned.shape} for {seen} rows")
    mask = np.ma.getmask(returned)
    valid = None if mask is np.ma.nomask else ~np.asarray(mask)
    array = np.ma.getdata(returned)
    if array.dtype.kind not in _KINDS[transformation.dtype]:
        raise _failed(
            transformation,
            name,
            f"returned {array.dtype} where {transformation.dtype.name} is declared",
        )
    if transformation.dtype is DataType.STRING:
        return Result(_texts(transformation, name, array, valid, rows, kept), None)
    array, lost = _converted(transformation, name, array, valid)
    if lost is not None:
        valid = ~lost if valid is None else valid & ~lost
    if kept is not None:
        array, valid, lost = (
            _spread(array, kept, rows),
            _spread(np.ones(seen, np.bool_) if valid is None else valid, kept, rows),
            None if lost is None else _spread(lost, kept, rows),
        )
    return Result(Column(name, transformation.dtype, array, None, valid), lost)


def _converted(
    transformation: Transformation, name: str, array: npt.NDArray[Any], valid: Flags | None
) -> tuple[npt.NDArray[Any], Flags | None]:
    """Returns values in the declared type, and those of them that are not finite and must not be."""
    wanted = _ARRAYS[transformation.dtype]
    if transformation.dtype in _FLOATS:
        with np.errstate(over="ignore"):
            # A copy, since a function may hand back what it was given.
            numbers = array.astype(wanted)
        if transformation.not_finite == "keep":
            return numbers, None
        strange = ~np.isfinite(numbers)
        if valid is not None:
            strange &= valid
        if not strange.any():
            return numbers, None
        if transformation.not_finite == "refuse":
            told = f"returned a number that is not finite for {np.count_nonzero(strange)} of {len(numbers)} rows"
            raise _failed(transformation, name, told)
        return numbers, strange
    if array.dtype.kind == "M":
        unknown = np.isnat(array)
        micros = np.where(unknown, 0, array.astype("<M8[us]").view("<i8"))
        return micros, unknown if unknown.any() else None
    numbers = array.astype(wanted)
    wrong = numbers != array
    if valid is not None:
        wrong &= valid
    if array.dtype.kind == "u" and transformation.dtype is DataType.INT64:
        wrong |= numbers < 0
    if wrong.any():
        raise _failed(
            transformation, name, f"returned a number that does not fit {transformation.dtype.name}"
        )
    return numbers, None


def _texts(
    transformation: Transformation,
    name: str,
    array: npt.NDArray[Any],
    valid: Flags | None,
    rows: int,
    kept: npt.NDArray[np.intp] | None,
) -> Column:
    found = array.tolist()
    if valid is not None:
        found = [each if flag else None for each, flag in zip(found, valid.tolist(), strict=True)]
    texts: list[object] = found
    if kept is not None:
        texts = [None] * rows
        for row, each in zip(kept.tolist(), found, strict=True):
            texts[row] = each
    try:
        return Column.from_list(name, texts, DataType.STRING)
    except errors.InvalidArgumentError:
        told = "returned something else than text and None where STRING is declared"
        raise _failed(transformation, name, told) from None


def _spread(array: npt.NDArray[Any], kept: npt.NDArray[np.intp], rows: int) -> npt.NDArray[Any]:
    whole = np.zeros(rows, array.dtype)
    whole[kept] = array
    return whole


def _nulls(name: str, dtype: DataType, rows: int) -> Column:
    return Column.from_list(name, [None] * rows, dtype)


def _failed(
    transformation: Transformation,
    name: str,
    told: str,
    kind: type[errors.InternalError] = errors.InternalError,
) -> errors.InternalError:
    return kind(
        errors.Reason.TRANSFORMATION_FAILED,
        f"transformation {name!r} ({transformation.name}) {told}",
        metadata={"transformation": name, "function": transformation.name},
    )
