"""Tables in files: what commands read and write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from setpoint_cli.session import problems
from setpoint_columns import Column, Columns, interop
from setpoint_runtime import errors

FORMATS = (".parquet", ".csv", ".arrow")
PIECE_ROWS = 20_000
PIECE_BYTES = 3 * 1024 * 1024


def read_table(path: Path, argument: str) -> Columns:
    """Reads a file; columns of types that features cannot have are left out, and named.

    Raises:
        BadParameter: It cannot be read.
    """
    # Only here, so that other commands do not wait for it.
    import polars as pl

    _check_format(path, argument)
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pl.read_csv(path, try_parse_dates=True)
        else:
            frame = pl.read_ipc(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=argument) from None
    naive = [
        name
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None
    ]
    frame = frame.with_columns(pl.col(naive).dt.replace_time_zone("UTC"))
    columns: list[Column] = []
    for series in frame.get_columns():
        try:
            columns += interop.from_polars(series.to_frame()).columns
        except errors.InvalidArgumentError as error:
            problems.print(f"left out: {error.message}", markup=False, soft_wrap=True)
    return Columns(frame.height, columns)


def write_table(table: Columns, path: Path, argument: str) -> None:
    """Writes a file.

    Raises:
        BadParameter: It cannot be written.
    """
    _check_format(path, argument)
    frame = interop.to_polars(table)
    try:
        if path.suffix == ".parquet":
            frame.write_parquet(path)
        elif path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_ipc(path)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=argument) from None


def _check_format(path: Path, argument: str) -> None:
    if path.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise typer.BadParameter(f"{path} must end with one of {known}", param_hint=argument)


def pieces(rows: Columns) -> Iterator[Columns]:
    """Cuts a table into pieces that fit into messages, at least one."""
    size = sum(each.values.nbytes for each in rows.columns)
    step = max(1, min(PIECE_ROWS, rows.rows * PIECE_BYTES // max(1, size)))
    for start in range(0, max(1, rows.rows), step):
        yield rows.slice(start, start + step)
