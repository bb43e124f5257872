"""Columns into the tensors that a graph takes, and tensors back into columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.column import Column
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import FLOATS, INTEGERS, NUMPY_TYPES, DataType
from setpoint_runtime import errors

AnyArray = npt.NDArray[Any]
Feeds = dict[str, AnyArray]

WHOLE: Final = {DataType.FLOAT32: 1 << 24, DataType.FLOAT64: 1 << 53}
"""Up to these every whole number is one of the type's values."""


class Output(NamedTuple):
    """A column of an answer."""

    name: str
    dtype: DataType
    values: AnyArray


def pack(columns: Columns, specs: Sequence[TensorSpec]) -> Feeds:
    """Return one array [rows, columns] for each tensor.

    Raises:
        InvalidArgumentError: MISSING_FIELD, WRONG_TYPE or NULL_REFUSED, naming the column.
    """
    by_name = columns.by_name
    feeds = {}
    for spec in specs:
        try:
            found = [by_name[name] for name in spec.columns]
        except KeyError:
            raise missing(by_name, specs) from None
        if spec.dtype in FLOATS:
            packed = _floats(found, spec.dtype, columns.rows)
            if spec.missing:
                settle(packed, spec)
        elif spec.dtype is DataType.STRING:
            packed = _texts(found, spec, columns.rows)
        else:
            packed = _exact(found, spec, columns.rows)
        feeds[spec.name] = packed
    return feeds


def settle(packed: AnyArray, spec: TensorSpec) -> None:
    """Replace or refuse the missing values of a float tensor, NaN by now, as its manifest says.

    Raises:
        InvalidArgumentError: NULL_REFUSED, naming column and row.
    """
    for name, substitute in spec.missing:
        values = packed[:, spec.columns.index(name)]
        mask = np.isnan(values)
        if mask.any():
            if substitute is None:
                raise _missing_refused(name, mask, "the model refuses null and NaN")
            values[mask] = substitute


def missing(
    present: Mapping[str, object], specs: Sequence[TensorSpec]
) -> errors.InvalidArgumentError:
    """Return the error that names every column which is not there."""
    absent = [name for spec in specs for name in spec.columns if name not in present]
    return errors.InvalidArgumentError(
        errors.Reason.MISSING_FIELD,
        f"inputs: the model needs {', '.join(repr(name) for name in absent[:10])}",
        violations=[
            errors.FieldViolation(f"inputs.{name}", "must be given: the model needs it")
            for name in absent
        ],
        metadata={"field": f"inputs.{absent[0]}"},
    )


def _floats(found: Sequence[Column], dtype: DataType, rows: int) -> AnyArray:
    packed = np.empty((rows, len(found)), NUMPY_TYPES[dtype])
    whole = []
    try:
        with np.errstate(over="raise"):
            for index, column in enumerate(found):
                if column.dtype in INTEGERS:
                    whole.append(index)
                elif column.dtype not in FLOATS and column.dtype is not DataType.BOOL:
                    raise _wrong_type(column, dtype)
                packed[:, index] = column.values
    except FloatingPointError:
        raise _overflow(found, dtype) from None
    # Below the limit all are exact; a larger one cannot have been rounded to below it.
    if whole and not (np.abs(packed[:, whole]) < WHOLE[dtype]).all():
        for index in whole:
            _named(found[index], dtype)
    for index, column in enumerate(found):
        if column.validity is not None:
            packed[~column.validity, index] = np.nan
    return packed


def _named(column: Column, dtype: DataType) -> Column:
    """Cast a column exactly, naming it as the caller did when that fails."""
    return column.rename(f"inputs.{column.name}"[:256]).cast(dtype)


def _overflow(found: Sequence[Column], dtype: DataType) -> errors.SetpointError:
    for column in found:
        if column.dtype in FLOATS:
            try:
                _named(column, dtype)
            except errors.InvalidArgumentError as error:
                return error
    # Only values below nulls are too large, which no sender of ours writes.
    return errors.invalid("inputs", "a value below a null", f"must fit {dtype.name}")


def _exact(found: Sequence[Column], spec: TensorSpec, rows: int) -> AnyArray:
    dtype = spec.dtype
    packed = np.empty((rows, len(found)), NUMPY_TYPES[dtype])
    for index, column in enumerate(found):
        if column.dtype not in _ACCEPTED[dtype]:
            raise _wrong_type(column, dtype)
        packed[:, index] = _named(column, dtype).values
        _fill_nulls(packed[:, index], column, spec)
    return packed


_ACCEPTED = {
    DataType.BOOL: frozenset({DataType.BOOL}),
    DataType.INT32: frozenset({DataType.INT32, DataType.INT64}),
    DataType.INT64: frozenset({DataType.INT32, DataType.INT64}),
    DataType.TIMESTAMP: frozenset({DataType.TIMESTAMP, DataType.INT64}),
}


def _texts(found: Sequence[Column], spec: TensorSpec, rows: int) -> AnyArray:
    packed = np.empty((rows, len(found)), object)
    for index, column in enumerate(found):
        if column.dtype is not DataType.STRING:
            raise _wrong_type(column, DataType.STRING)
        packed[:, index] = column.text()
        _fill_nulls(packed[:, index], column, spec)
    return packed


def _fill_nulls(values: AnyArray, column: Column, spec: TensorSpec) -> None:
    mask = column.null_mask()
    if mask is None:
        return
    for name, substitute in spec.missing:
        if name == column.name and substitute is not None:
            values[mask] = substitute
            return
    raise _missing_refused(
        column.name,
        mask,
        "the model takes nulls in float inputs only, and where it has a substitute",
    )


def _missing_refused(name: str, mask: AnyArray, why: str) -> errors.InvalidArgumentError:
    row = int(np.flatnonzero(mask)[0])
    return errors.invalid(
        f"inputs.{name}[{row}]",
        None,
        f"must not be missing: {why}",
        errors.Reason.NULL_REFUSED,
    )


def _wrong_type(column: Column, dtype: DataType) -> errors.InvalidArgumentError:
    return errors.invalid(
        f"inputs.{column.name}",
        column.dtype.name,
        f"must be {dtype.name}, or fit it",
        errors.Reason.WRONG_TYPE,
    )


def unpack(arrays: Sequence[AnyArray], specs: Sequence[TensorSpec], rows: int) -> list[Output]:
    """Return the columns that tensors hold.

    Args:
        arrays: One for each spec, [rows, columns] or, for a single column, [rows].
        specs: What the manifest says of them.
        rows: How many rows went in.

    Raises:
        InternalError: INFERENCE_FAILED, if a tensor has another shape or type.
    """
    outputs = []
    for array, spec in zip(arrays, specs, strict=True):
        width = len(spec.columns)
        if array.shape == (rows,) and width == 1:
            array = array.reshape(rows, 1)
        if array.shape != (rows, width) or not _has_type(array, spec.dtype):
            raise errors.InternalError(
                errors.Reason.INFERENCE_FAILED,
                f"the model's output {spec.name!r} is {array.dtype}{list(array.shape)},"
                f" not {spec.dtype.name}[{rows}, {width}]",
            )
        for index, name in enumerate(spec.columns):
            outputs.append(Output(name, spec.dtype, array[:, index]))
    return outputs


def _has_type(array: AnyArray, dtype: DataType) -> bool:
    if dtype is DataType.STRING:
        return array.dtype.kind in "OU"
    return array.dtype == NUMPY_TYPES[dtype]


def example(
    specs: Sequence[TensorSpec], examples: Mapping[str, Sequence[float | str]], rows: int
) -> Columns:
    """Return rows to warm up with: values that occur, mixed, and zero or empty text without any.

    Rows differ, because a processor learns the way of the same row through a model's branches, and
    would make it look cheaper than it is.
    """
    random = np.random.default_rng(0)
    made = []
    for spec in specs:
        is_text = spec.dtype is DataType.STRING
        for name in spec.columns:
            kinds = str if is_text else (int, float)
            known = [each for each in examples.get(name, ()) if isinstance(each, kinds)]
            values = np.array(known or ["" if is_text else 0], object)
            chosen = values[random.integers(0, len(values), rows)]
            if is_text:
                made.append(Column.from_list(name, chosen.tolist(), DataType.STRING))
            else:
                made.append(Column(name, spec.dtype, chosen.astype(NUMPY_TYPES[spec.dtype])))
    return Columns(rows, made)


def none(specs: Sequence[TensorSpec]) -> list[Output]:
    """Return the columns of an answer without rows."""
    return [
        Output(name, spec.dtype, np.empty(0, _EMPTY.get(spec.dtype, NUMPY_TYPES[spec.dtype])))
        for spec in specs
        for name in spec.columns
    ]


_EMPTY = {DataType.STRING: np.dtype(object)}
