"""Training sets that are kept: ``features snapshot``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from setpoint.feature.v1 import snapshot_pb2
from setpoint.feature.v1 import snapshot_service_pb2 as messages
from setpoint_cli.feature_commands import table_of
from setpoint_cli.session import (
    DEFAULT_STACK,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    exact_time,
    session,
    show_time,
)
from setpoint_cli.tables import pieces, read_table, write_table
from setpoint_columns import Columns, proto
from setpoint_runtime import ids

JOIN_SECONDS = 3600.0
PAGE = 1000

DAY = 86_400_000_000
"""Microseconds."""

app = typer.Typer(
    help="Keep training sets: a token gives the same content again later.\n\n"
    "Example: setpoint features snapshot list",
    no_args_is_help=True,
)
Token = Annotated[str, typer.Argument(metavar="SNAPSHOT_ID", help="The snapshot's token.")]


@app.command()
def create(
    spine: Annotated[
        Path, typer.Argument(help="Keys, times and what else shall be kept: Parquet, CSV or Arrow.")
    ],
    feature_set: Annotated[str, typer.Option(help="The feature set whose features are joined.")],
    version: Annotated[str, typer.Option(help="Its version; the latest by default.")] = "",
    time_column: Annotated[str, typer.Option(help="Column with each row's time.")] = "event_time",
    by_event_time: Annotated[
        bool, typer.Option("--by-event-time", help="Ignore when rows arrived.")
    ] = False,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    keep_days: Annotated[
        float,
        typer.Option(min=0, help="Remove it after so many days; 0 keeps it until it is deleted."),
    ] = 0.0,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Join features to a spine as known at each row's time, and keep the answer.

    Example: setpoint features snapshot create flights.parquet --feature-set flight_features
    """
    rows = read_table(spine, "SPINE")
    header = messages.CreateSnapshotRequest(
        request_id=ids.uuid7(),
        time_column=time_column,
        as_of_event_time=by_event_time,
        description=description,
        life_microseconds=int(keep_days * DAY),
    )
    header.feature_set.name, header.feature_set.version = feature_set, version
    with session(stack) as client:
        answer = client.stubs.snapshots.CreateSnapshot(
            _requests(header, rows), timeout=JOIN_SECONDS
        )
    made = answer.snapshot
    console.print(made.snapshot_id, highlight=False)
    console.print(f"{made.rows:,} rows, digest {made.digest}", highlight=False, soft_wrap=True)


def _requests(
    header: messages.CreateSnapshotRequest, rows: Columns
) -> Iterator[messages.CreateSnapshotRequest]:
    for piece in pieces(rows):
        header.spine.CopyFrom(proto.to_proto(piece))
        yield header
        header = messages.CreateSnapshotRequest()


@app.command("list")
def list_snapshots(
    feature_set: Annotated[str, typer.Option(help="Of this feature set alone.")] = "",
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """List snapshots, newest first.

    Example: setpoint features snapshot list
    """
    table = table_of(
        "snapshot", "made", "feature set", "rows", "from", "to", "digest", "until", "what"
    )
    token = ""
    with session(stack) as client:
        while True:
            request = messages.ListSnapshotsRequest(
                feature_set=feature_set, page_size=PAGE, page_token=token
            )
            answer = client.stubs.snapshots.ListSnapshots(request, timeout=TIMEOUT_SECONDS)
            for each in answer.snapshots:
                table.add_row(*_row(each))
            token = answer.next_page_token
            if not token:
                break
    console.print(table if table.row_count else "there are no snapshots")


def _row(snapshot: snapshot_pb2.Snapshot) -> list[str]:
    reference = snapshot.feature_set
    return [
        snapshot.snapshot_id,
        show_time(snapshot.create_time),
        f"{reference.name}@{reference.version[:12]}",
        f"{snapshot.rows:,}",
        exact_time(snapshot.range.start_time),
        exact_time(snapshot.range.end_time),
        snapshot.digest[:12],
        show_time(snapshot.expire_time) if snapshot.expire_time else "deleted",
        snapshot.description,
    ]


@app.command()
def read(
    snapshot_id: Token,
    target: Annotated[Path, typer.Argument(help="File to write: Parquet, CSV or Arrow.")],
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Write the content of a snapshot to a file.

    Example: setpoint features snapshot read 019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071 out.parquet
    """
    request = messages.ReadSnapshotRequest(snapshot_id=snapshot_id)
    with session(stack) as client:
        answers = client.stubs.snapshots.ReadSnapshot(request, timeout=JOIN_SECONDS)
        parts = [proto.from_proto(each.table) for each in answers]
    write_table(Columns.concat(parts), target, "TARGET")
    console.print(f"{sum(part.rows for part in parts):,} rows in {target}", highlight=False)


@app.command()
def compare(snapshot_id: Token, stack: StackFolder = DEFAULT_STACK) -> None:
    """Tell which share of a snapshot's rows would come out otherwise today.

    Example: setpoint features snapshot compare 019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071
    """
    request = messages.CompareSnapshotRequest(snapshot_id=snapshot_id)
    with session(stack) as client:
        found = client.stubs.snapshots.CompareSnapshot(request, timeout=JOIN_SECONDS)
    table = table_of("asked", "rows that differ", "share", "by feature")
    for words, side in (
        ("the same question again", found.asked_again),
        ("with all that is known now", found.known_now),
    ):
        features = sorted(side.rows_by_feature.items(), key=lambda item: -item[1])
        told = ", ".join(f"{name} {count:,}" for name, count in features)
        table.add_row(words, f"{side.rows:,}", f"{side.share:.2%}", told)
    console.print(table)
    if removed := max(found.asked_again.removed_rows, found.known_now.removed_rows):
        told = f"{removed:,} rows were not compared: the history of their time is no longer kept"
        console.print(told, highlight=False)
    before = {(each.view, each.version): each.sequence for each in found.snapshot.views}
    for each in found.views:
        written = each.sequence - before.get((each.view, each.version), 0)
        console.print(f"{written:,} rows of {each.view} were written since", highlight=False)


@app.command()
def delete(snapshot_id: Token, stack: StackFolder = DEFAULT_STACK) -> None:
    """Remove a snapshot and its files.

    Example: setpoint features snapshot delete 019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071
    """
    request = messages.DeleteSnapshotRequest(request_id=ids.uuid7(), snapshot_id=snapshot_id)
    with session(stack) as client:
        client.stubs.snapshots.DeleteSnapshot(request, timeout=TIMEOUT_SECONDS)
    console.print(f"{snapshot_id} is removed", highlight=False)
