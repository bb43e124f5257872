"""Whole tables: ``batch-predict`` and ``batches``."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from setpoint.batch.v1 import batch_prediction_pb2 as messages
from setpoint.batch.v1 import batch_service_pb2
from setpoint_cli.session import (
    DEFAULT_STACK,
    EXIT_FAILED,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    problems,
    read_time,
    session,
    show_time,
)
from setpoint_client import Client, errors, typed_error
from setpoint_runtime import ids

WATCH_SECONDS = 24 * 3600.0
PAGE = 20
PAUSE_SECONDS = 1.0
MAX_SILENCES = 120
"""Times that a watch is opened in vain, one after the other; the job goes on without anybody watching."""

ENDED = (
    messages.BATCH_PREDICTION_STATE_SUCCEEDED,
    messages.BATCH_PREDICTION_STATE_FAILED,
    messages.BATCH_PREDICTION_STATE_CANCELLED,
)


class FileFormat(enum.StrEnum):
    """Formats of the output's parts."""

    PARQUET = "parquet"
    CSV = "csv"
    ARROW = "arrow"


def batch_predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Parquet, CSV or Arrow: path or URL of a file, a folder, or a pattern. {date} stands for the date.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="Folder for the predictions: path or URL. {date} stands for the date.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the job; with the date it is one job. By default the model's."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(help="Date or time to predict for: features as known then. Now by default."),
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Version that answers.")] = None,
    alias: Annotated[
        str, typer.Option(help="Alias of the version that answers; champion by default.")
    ] = "",
    time_column: Annotated[str, typer.Option(help="Column with a time for each row.")] = "",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Column to copy to the output; may be repeated."),
    ] = None,
    output_format: Annotated[
        FileFormat, typer.Option("--format", help="Format of the output.")
    ] = FileFormat.PARQUET,
    with_inputs: Annotated[
        bool, typer.Option("--with-inputs", help="Also write what the model saw.")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run again although it has succeeded.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the job ends.")] = True,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Predict for a whole table, once for each name and date.

    The rows hold entity keys and request fields, and the features are fetched as known at the date; or
    they hold every input of the model.

    Example: setpoint batch-predict flights-{date}.parquet out/{date} --model flight_late --date 2013-07-04
    """
    if version and alias:
        raise typer.BadParameter("give a version or an alias, not both", param_hint="--alias")
    spec = messages.BatchPredictionSpec(
        name=name or model,
        event_time=read_time("--date", date),
        model=model,
        input=messages.BatchInput(
            url=_url(source, date), event_time_column=time_column, kept_columns=keep or []
        ),
        output=messages.BatchOutput(
            url=_url(target, date),
            format=messages.FileFormat.Value(f"FILE_FORMAT_{output_format.name}"),
            with_inputs=with_inputs,
        ),
    )
    if version:
        spec.version = version
    elif alias:
        spec.alias = alias
    with session(stack) as client:
        answer = client.stubs.batch.StartBatchPrediction(
            batch_service_pb2.StartBatchPredictionRequest(
                request_id=ids.uuid7(), spec=spec, rerun=rerun
            ),
            timeout=TIMEOUT_SECONDS,
        )
        job = answer.batch_prediction
        word = f"attempt {job.attempt}" if answer.started else "is there already"
        console.print(f"batch prediction {job.batch_prediction_id}: {word}", highlight=False)
        if wait:
            job = _follow(client, job)
    _report(job)


def batches(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show one of them.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it.")] = False,
    name: Annotated[str, typer.Option(help="Only those of this name.")] = "",
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """List batch predictions, newest first; show or cancel one.

    Example: setpoint batches --name flight_late
    """
    if cancel and job_id is None:
        raise typer.BadParameter("must be named", param_hint="ID")
    with session(stack) as client:
        if job_id is None:
            _list(client, name)
            return
        if cancel:
            request = batch_service_pb2.CancelBatchPredictionRequest(
                request_id=ids.uuid7(), batch_prediction_id=job_id
            )
            client.stubs.batch.CancelBatchPrediction(request, timeout=TIMEOUT_SECONDS)
        found = client.stubs.batch.GetBatchPrediction(
            batch_service_pb2.GetBatchPredictionRequest(batch_prediction_id=job_id),
            timeout=TIMEOUT_SECONDS,
        )
    _report(found.batch_prediction, is_asked_about=True)


def _url(text: str, date: str | None) -> str:
    if "{date}" in text:
        if not date:
            raise typer.BadParameter(f"{text!r} needs a date", param_hint="--date")
        text = text.replace("{date}", date)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _follow(client: Client, job: messages.BatchPrediction) -> messages.BatchPrediction:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.fields[rows]} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waits for a worker", total=None, rows="?")
        for changed in _changes(client, job):
            job = changed
            counts = job.progress
            known = counts.HasField("rows")
            progress.update(
                task,
                description=_word(job),
                total=counts.rows if known else None,
                completed=counts.rows_done,
                rows=f"{counts.rows:,}" if known else "?",
            )
    return job


def _changes(client: Client, job: messages.BatchPrediction) -> Iterator[messages.BatchPrediction]:
    """Yields a job after each change; a stream that ends with its connection is opened again."""
    request = batch_service_pb2.WatchBatchPredictionRequest(
        batch_prediction_id=job.batch_prediction_id
    )
    silences = 0
    while job.state not in ENDED:
        try:
            for seen in client.stubs.batch.WatchBatchPrediction(request, timeout=WATCH_SECONDS):
                job, silences = seen.batch_prediction, 0
                yield job
        except grpc.RpcError as error:
            if not isinstance(typed_error(error), errors.UnavailableError):
                raise
            silences += 1
            if silences >= MAX_SILENCES:
                raise
        if job.state not in ENDED:
            time.sleep(PAUSE_SECONDS)


def _list(client: Client, name: str) -> None:
    answer = client.stubs.batch.ListBatchPredictions(
        batch_service_pb2.ListBatchPredictionsRequest(name=name, page_size=PAGE),
        timeout=TIMEOUT_SECONDS,
    )
    table = Table("id", "name", "for", "version", "state", "rows", "failed")
    for job in answer.batch_predictions:
        version = f"{job.model_version.model}/{job.model_version.version}"
        counts = job.progress
        table.add_row(
            job.batch_prediction_id,
            job.spec.name,
            show_time(job.event_time),
            version,
            _word(job),
            f"{counts.rows_done:,}",
            f"{counts.rows_failed:,}",
        )
    console.print(table)


def _word(job: messages.BatchPrediction) -> str:
    name = messages.BatchPredictionState.Name(job.state)
    return name.removeprefix("BATCH_PREDICTION_STATE_").lower()


def _report(job: messages.BatchPrediction, *, is_asked_about: bool = False) -> None:
    counts, version = job.progress, job.model_version
    console.print(
        f"{job.spec.name} for {show_time(job.event_time)} by {version.model}/{version.version} is"
        f" {_word(job)}: {counts.rows_done:,} rows, {counts.rows_failed:,} failed,"
        f" {counts.rows_degraded:,} degraded",
        highlight=False,
        soft_wrap=True,
    )
    if job.manifest_url:
        console.print(job.manifest_url, highlight=False, soft_wrap=True)
    if job.error:
        problems.print(f"[red]{job.error_reason}[/] {escape(job.error)}", soft_wrap=True)
    bad = (messages.BATCH_PREDICTION_STATE_FAILED, messages.BATCH_PREDICTION_STATE_CANCELLED)
    if job.state in bad and not is_asked_about:
        raise typer.Exit(EXIT_FAILED)
