"""What people hold rows in, and what goes back to them: the same kind of thing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from setpoint_columns import Column, Columns, interop
from setpoint_runtime import errors

PIECE_BYTES: Final = 3 * 1024 * 1024
"""Most bytes of columns in one message; what is left of 4 MiB is for everything else."""


def to_columns(frame: Any) -> Columns:
    """Returns the columns of a pandas, polars or Arrow table, of Columns, or of a list of mappings.

    Raises:
        InvalidArgumentError: It is none of these, or a column has no lossless form; names the column.
    """
    if _is_rows(frame):
        return _from_rows(frame)
    return interop.from_frame(frame)


def like(frame: Any, columns: Columns) -> Any:
    """Returns columns as the kind of thing that `frame` is, with a pandas frame's index."""
    if isinstance(frame, Columns):
        return columns
    if _is_rows(frame):
        return columns.to_rows()
    package = _package(frame)
    if package == "polars":
        made = interop.to_polars(columns)
        return made.lazy() if _is_lazy(frame) else made
    if package == "pandas":
        made = interop.to_pandas(columns)
        if len(made) == len(frame):
            made.index = frame.index
        return made
    return interop.to_arrow(columns)


def select(frame: Any, names: Iterable[str]) -> Columns:
    """Returns only the named columns, so that the others may have types that cannot be sent.

    Raises:
        InvalidArgumentError: A column is missing; names it.
    """
    wanted = list(names)
    if _is_rows(frame):
        frame = [{name: row[name] for name in wanted if name in row} for row in frame]
        return _from_rows(frame).select(wanted)
    frame = _collected(frame)
    present = _names(frame)
    for name in wanted:
        if name not in present:
            reason = errors.Reason.MISSING_FIELD
            raise errors.invalid(name, name, "must be a column of the frame", reason)
    if isinstance(frame, Columns) or _package(frame) in ("polars", "pyarrow"):
        return to_columns(frame.select(wanted))
    return to_columns(frame[wanted])


def attach(frame: Any, added: Columns) -> Any:
    """Returns the frame with more columns, whatever the types of its own are.

    Raises:
        InvalidArgumentError: The frame has a column of the same name already; names it.
    """
    if isinstance(frame, Columns):
        _refuse_taken(frame.names, added)
        return Columns(frame.rows, [*frame.columns, *added.columns])
    if _is_rows(frame):
        _refuse_taken({name for row in frame for name in row}, added)
        return [{**row, **more} for row, more in zip(frame, added.to_rows(), strict=True)]
    package = _package(frame)
    if package == "polars":
        whole = _collected(frame)
        _refuse_taken(whole.columns, added)
        joined = whole.hstack(interop.to_polars(added)) if len(added) else whole
        return joined if whole is frame else joined.lazy()
    if package == "pandas":
        _refuse_taken(frame.columns, added)
        more = interop.to_pandas(added)
        more.index = frame.index
        return frame.assign(**{name: more[name] for name in more.columns})
    _refuse_taken(frame.schema.names, added)
    for name, values in zip(added.names, interop.to_arrow(added).columns, strict=True):
        frame = frame.append_column(name, values)
    return frame


def pieces(columns: Columns, max_rows: int) -> Iterator[Columns]:
    """Cuts columns into pieces that fit into a message, at least one; a single row is never cut."""
    if columns.rows <= 1 or (columns.rows <= max_rows and size(columns) <= PIECE_BYTES):
        yield columns
        return
    step = max_rows if columns.rows > max_rows else (columns.rows + 1) // 2
    for start in range(0, columns.rows, step):
        yield from pieces(columns.slice(start, start + step), max_rows)


def size(columns: Columns) -> int:
    """Returns about how many bytes columns take in a message."""
    return sum(_column_size(column) for column in columns.columns)


def _column_size(column: Column) -> int:
    fixed = len(column.name) + column.rows // 8 + 16
    if column.offsets is None:
        return fixed + column.values.nbytes
    return fixed + column.offsets.nbytes + int(column.offsets[-1]) - int(column.offsets[0])


def _is_rows(frame: Any) -> bool:
    return isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame)


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = []
    for name in names:
        values = np.fromiter((row.get(name) for row in rows), object, len(rows))
        made.append(Column.from_numpy(name, values))
    return Columns(len(rows), made)


def _refuse_taken(names: Iterable[str], added: Columns) -> None:
    taken = set(names)
    for name in added.names:
        if name in taken:
            raise errors.invalid(name, name, "must not be a column of the frame already")


def _is_lazy(frame: Any) -> bool:
    return _package(frame) == "polars" and hasattr(frame, "collect")


def _collected(frame: Any) -> Any:
    return frame.collect() if _is_lazy(frame) else frame


def _names(frame: Any) -> list[str]:
    if isinstance(frame, Columns):
        return list(frame.names)
    return list(frame.schema.names) if _package(frame) == "pyarrow" else list(frame.columns)


def _package(frame: Any) -> str:
    return type(frame).__module__.partition(".")[0]
