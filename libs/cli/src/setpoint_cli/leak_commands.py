"""What a training table knows before its time: ``features leaks``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from setpoint.feature.v1 import audit_service_pb2 as messages
from setpoint.feature.v1 import feature_service_pb2
from setpoint_cli.feature_commands import table_of
from setpoint_cli.session import (
    DEFAULT_STACK,
    EXIT_FAILED,
    StackFolder,
    console,
    session,
)
from setpoint_cli.tables import pieces, read_table
from setpoint_columns import Columns, proto

MEASURE_SECONDS = 600.0


def leaks(
    table: Annotated[Path, typer.Argument(help="The training table: Parquet, CSV or Arrow.")],
    feature_set: Annotated[
        str,
        typer.Option(
            help="Judge its features: columns of their names, or else what the join would give."
        ),
    ] = "",
    version: Annotated[str, typer.Option(help="Version of the feature set.")] = "",
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="COLUMN=VIEW.FIELD, what a column holds; may be repeated."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="KEY=COLUMN, where they differ, for --column."),
    ] = None,
    time_column: Annotated[str, typer.Option(help="Column with each row's time.")] = "event_time",
    by_event_time: Annotated[
        bool, typer.Option("--by-event-time", help="Judge the join that ignores arrival.")
    ] = False,
    find: Annotated[
        bool, typer.Option(help="Look for stored fields that other columns hold.")
    ] = True,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Measure which columns of a training table hold values that were not known at their rows' times.

    Ends with exit code 1 where a column leaks.

    Example: setpoint features leaks flights.parquet --feature-set flight_features
    """
    rows = read_table(table, "TABLE")
    header = messages.MeasureLeaksRequest(
        columns=list(_claims(column or (), key or ())),
        time_column=time_column,
        as_of_event_time=by_event_time,
        find_columns=find,
    )
    if feature_set:
        header.feature_set.name, header.feature_set.version = feature_set, version
    with session(stack) as client:
        found = client.stubs.audit.MeasureLeaks(_requests(header, rows), timeout=MEASURE_SECONDS)
    _show(found)
    if any(each.leaked for each in found.findings):
        raise typer.Exit(EXIT_FAILED)


def _claims(
    columns: Sequence[str], keys: Sequence[str]
) -> Iterator[feature_service_pb2.LeakageColumn]:
    renamed = {}
    for pair in keys:
        name, separator, target = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{pair!r} must be KEY=COLUMN", param_hint="--key")
        renamed[name] = target
    for pair in columns:
        name, _, stored = pair.partition("=")
        view, separator, field = stored.partition(".")
        if not separator:
            raise typer.BadParameter(f"{pair!r} must be COLUMN=VIEW.FIELD", param_hint="--column")
        yield feature_service_pb2.LeakageColumn(
            column=name, view=view, field=field, key_columns=renamed
        )


def _requests(
    header: messages.MeasureLeaksRequest, rows: Columns
) -> Iterator[messages.MeasureLeaksRequest]:
    for piece in pieces(rows):
        header.table.CopyFrom(proto.to_proto(piece))
        yield header
        header = messages.MeasureLeaksRequest()


_ORIGINS = {
    messages.LEAK_ORIGIN_CLAIMED: "",
    messages.LEAK_ORIGIN_FEATURE_SET: "",
    messages.LEAK_ORIGIN_JOINED: ", as the join gives it",
}
_CAUSES = {
    messages.LEAK_CAUSE_FUTURE: "became true later",
    messages.LEAK_CAUSE_LATE_ARRIVAL: "arrived later",
    messages.LEAK_CAUSE_BOUNDARY: "became true at that very time",
}
_JOINS = {
    messages.LEAK_JOIN_AS_OF_EVENT_TIME: "a join by event time, whatever had arrived",
    messages.LEAK_JOIN_LATEST: "a join by key alone, newest row",
    messages.LEAK_JOIN_NEXT: "a join with the first row after",
}


def _show(found: messages.MeasureLeaksResponse) -> None:
    table = table_of("column", "holds", "values", "leaked", "why", "let in by", "at its time")
    for each in found.findings:
        origin = _ORIGINS.get(each.origin, f", in {each.held_share:.0%} of its rows")
        table.add_row(
            escape(each.column),
            f"{escape(each.view)}.{escape(each.field)}{origin}",
            f"{each.values:,}",
            f"[red]{each.leaked:,}[/]" if each.leaked else "[green]0[/]",
            "; ".join(_why(count) for count in each.causes),
            _way(each),
            f"{each.at_boundary:,}" if each.at_boundary else "",
        )
    console.print(table if found.findings else "no column holds a stored field")
    if found.unjudged_columns:
        names = ", ".join(found.unjudged_columns)
        console.print(f"not judged: {names}", markup=False, highlight=False, soft_wrap=True)
    leaking = sum(1 for each in found.findings if each.leaked)
    console.print(f"{found.rows:,} rows; {leaking} of {len(found.findings)} columns leak")


def _why(count: messages.LeakCount) -> str:
    shortest, longest = count.shortest_microseconds, count.longest_microseconds
    hours = f"{shortest / 3.6e9:.2g} to {longest / 3.6e9:.2g} h"
    return f"{count.values:,} {_CAUSES.get(count.cause, '?')}, by {hours}"


def _way(finding: messages.LeakFinding) -> str:
    if not finding.joins:
        return ""
    best = finding.joins[0]
    return f"{_JOINS.get(best.join, '?')} ({best.values / finding.leaked:.0%})"
