"""The input of a job: which files, how large, how divided, and how a partition of them is read."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import column_pb2
from setpoint_batch.domain.job import Format
from setpoint_batch.partition import csv_files, failures, forms, outputs, places, values
from setpoint_columns import interop
from setpoint_runtime import errors

ENDINGS = {
    ".parquet": Format.PARQUET,
    ".csv": Format.CSV,
    **{f".csv{ending}": Format.CSV for ending in csv_files.COMPRESSIONS},
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
}

Partition = dict[str, Any]
"""`number`, `first_row`, `rows`; of a file also its index `file`, and `start` and `stop`: row groups,
record batches, or bytes."""

File = dict[str, Any]


def look_through(task: Mapping[str, Any]) -> dict[str, Any]:
    """Returns files, partitions, number of rows, and the form in which they are read.

    Raises:
        SetpointError: The input is not there, or not what it should be.
    """
    model, feature_set = forms.model_of(task["model"]), forms.feature_set_of(task["feature_set"])
    if task["rows"]:
        rows = inline(task)
        found = [(task["input_url"], rows.schema, [Span(0, 0, rows.num_rows)])]
        files: list[File] = []
    else:
        files, found = _look_at_files(task)
    kept = tuple(task["kept_columns"])
    form = None
    for url, schema, _ in found:
        if form is None:
            form = forms.choose(model, feature_set, schema.names, task["event_time_column"], kept)
        is_text = _is_text(files, url)
        _check_schema(url, schema, form, is_text=is_text)
        if not is_text:
            outputs.check_types(task, form, url, schema)
    partitions: list[Partition] = []
    rows_before = 0
    for index, (_, _, spans) in enumerate(found):
        for span in _joined(spans, task["partition_rows"]):
            where = {"file": index, "start": span.start, "stop": span.stop} if files else {}
            partitions.append(
                {
                    "number": len(partitions),
                    "first_row": rows_before,
                    "rows": span.rows,
                    **where,
                }
            )
            rows_before += span.rows
    if form is None:
        raise AssertionError("an input has at least one file")
    outputs.check_names(task, form, model, feature_set)
    return {
        "files": files,
        "partitions": partitions,
        "rows": rows_before,
        "form": forms.form_to_json(form),
    }


class Span:
    """Rows that are read together: row groups, record batches, or bytes from `start` to `stop`."""

    __slots__ = ("rows", "start", "stop")

    def __init__(self, start: int, stop: int, rows: int) -> None:
        """Keep where they are and how many."""
        self.start, self.stop, self.rows = start, stop, rows


def _joined(spans: Sequence[Span], rows: int) -> list[Span]:
    """Returns neighbours as one, up to about a number of rows."""
    made: list[Span] = []
    for span in spans:
        if not span.rows:
            continue
        last = made[-1] if made else None
        if last is not None and last.stop == span.start and last.rows + span.rows <= rows:
            last.stop, last.rows = span.stop, last.rows + span.rows
        else:
            made.append(Span(span.start, span.stop, span.rows))
    return made


Found = tuple[str, pa.Schema, list[Span]]


def _look_at_files(task: Mapping[str, Any]) -> tuple[list[File], list[Found]]:
    asked = Format(task["input_format"])
    wanted = tuple(
        ending for ending, form in ENDINGS.items() if asked in (Format.UNSPECIFIED, form)
    )
    files, found = [], []
    for url in places.expand(task["input_url"], wanted):
        places.check_links(url, task["around"])
        form = asked or _format_of(url)
        stamp = places.stamp(url)
        file: File = {"url": url, "format": int(form), "stamp": stamp}
        if form is Format.CSV:
            scanned, digest, size = _scan(url, task["partition_rows"])
            schema = pa.schema([(name, pa.string()) for name in scanned.names])
            spans = [Span(each.start, each.stop, each.rows) for each in scanned.pieces]
            file["names"] = list(scanned.names)
        else:
            schema, spans = _look_at(url, form)
            digest, size = _digest(url)
        if places.stamp(url) != stamp:
            raise changed(url)
        rows = sum(span.rows for span in spans)
        files.append({**file, "size": size, "sha256": digest, "rows": rows})
        found.append((url, schema, spans))
    return files, found


def _format_of(url: str) -> Format:
    for ending, form in ENDINGS.items():
        if url.endswith(ending):
            return form
    raise failures.invalid_input(url, f"must end in {', '.join(ENDINGS)}, or its format be named")


def _scan(url: str, rows: int) -> tuple[csv_files.Scanned, str, int]:
    # A compressed file cannot be entered in its middle, so it is one piece.
    scanner = csv_files.Scanner(url, sys.maxsize if csv_files.compression(url) else rows)
    with places.open_input(url) as file, failures.reading(url):
        digested = places.Digested(file)
        for block in csv_files.blocks(url, digested):
            scanner.feed(block)
        # What follows the end of a compressed stream is part of the file as well.
        digested.finish()
    return scanner.finish(), digested.sha256, digested.size


def _digest(url: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for block in places.blocks(url):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def _look_at(url: str, form: Format) -> tuple[pa.Schema, list[Span]]:
    with places.open_input(url) as file, failures.reading(url):
        if form is Format.PARQUET:
            opened = parquet.ParquetFile(file)
            groups = opened.metadata
            spans = [
                Span(index, index + 1, groups.row_group(index).num_rows)
                for index in range(groups.num_row_groups)
            ]
            return opened.schema_arrow, spans
        reader = pa.ipc.open_file(file)
        spans = [
            Span(index, index + 1, reader.get_batch(index).num_rows)
            for index in range(reader.num_record_batches)
        ]
        return reader.schema, spans


def _is_text(files: Sequence[File], url: str) -> bool:
    return any(each["url"] == url and each["format"] == Format.CSV for each in files)


def _check_schema(url: str, schema: pa.Schema, form: forms.Form, *, is_text: bool) -> None:
    """Refuses a file without a column, or with one of a type that cannot be meant."""
    present = set(schema.names)
    for name in form.needed:
        if name not in present:
            raise failures.invalid_input(url, "is not in the file", column=name)
        if schema.names.count(name) > 1:
            raise failures.invalid_input(url, "is there twice", column=name)
    if is_text:
        return
    for name, dtype in form.typed.items():
        # A column without rows tells whether its type has a form here.
        empty = pa.table({name: schema.field(name).type and pa.array([], schema.field(name).type)})
        try:
            column = interop.from_arrow(empty).columns[0]
        except errors.InvalidArgumentError as error:
            raise failures.invalid_input(url, error.message, column=name) from error
        if not values.can_become(column.dtype, dtype):
            what = f"holds {column.dtype.name}, not {dtype.name}"
            raise failures.invalid_input(url, what, column=name)


def changed(url: str) -> errors.FailedPreconditionError:
    """Returns the error for a file that is no longer the one that was looked through."""
    return errors.FailedPreconditionError(
        errors.Reason.INPUT_CHANGED,
        f"{url}: was changed while it was being read",
        metadata={"file": url},
    )


def inline(task: Mapping[str, Any]) -> pa.Table:
    """Returns the rows that came with the request."""
    message = column_pb2.ColumnBatch.FromString(bytes.fromhex(task["rows"]))
    return interop.to_arrow(column_messages.from_proto(message, "spec.input.rows"))


def read(task: Mapping[str, Any], form: forms.Form) -> Iterator[pa.Table]:
    """Yields a partition's rows in order, at most `chunk_rows` at once.

    Raises:
        SetpointError: The file cannot be read, or is another one by now.
    """
    most = task["chunk_rows"]
    for batch in _batches(task, form, most):
        for start in range(0, batch.num_rows, most):
            part = batch.slice(start, most)
            yield pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part


def _batches(task: Mapping[str, Any], form: forms.Form, most: int) -> Iterator[Any]:
    partition, file = task["partition"], task["file"]
    if file is None:
        yield inline(task).select(form.needed)
        return
    url = file["url"]
    places.check_links(url, task["around"])
    if places.stamp(url) != file["stamp"]:
        raise changed(url)
    if file["format"] == Format.CSV:
        piece = csv_files.Piece(
            partition["start"], partition["stop"], partition["first_row"], partition["rows"]
        )
        yield from csv_files.chunks(url, tuple(file["names"]), piece, form.needed)
        return
    indices = range(partition["start"], partition["stop"])
    with places.open_input(url) as opened, failures.reading(url):
        if file["format"] == Format.PARQUET:
            table = parquet.ParquetFile(opened)
            yield from table.iter_batches(
                most, row_groups=list(indices), columns=form.needed, use_threads=False
            )
            return
        reader = pa.ipc.open_file(opened)
        for index in indices:
            batch = reader.get_batch(index).select(form.needed)
            # Arrow believes what a file says of where its values lie.
            batch.validate(full=True)
            yield batch
