"""Looking around: ``models`` and ``drift``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from setpoint.common.v1 import reference_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2, report_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint_cli.session import (
    DEFAULT_STACK,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    read_time,
    session,
    show_time,
)
from setpoint_client import Client

PAGE = 1000
DAY = 86_400_000_000


def _table(*headings: str) -> Table:
    table = Table(show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def models(
    model: Annotated[str | None, typer.Argument(help="This model's versions alone.")] = None,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """List models, their versions, and which of them is the champion.

    Example: setpoint models flight_late
    """
    table = _table("model", "version", "state", "trained until", "rows", "metrics", "manifest")
    with session(stack) as client:
        names = [model] if model else _model_names(client)
        for name in names:
            champion = _champion(client, name)
            listed = client.stubs.registry.ListModelVersions(
                registry_service_pb2.ListModelVersionsRequest(model=name, page_size=PAGE),
                timeout=TIMEOUT_SECONDS,
            )
            for version in listed.model_versions:
                table.add_row(*_version_row(version, version.version == champion))
    console.print(table if table.row_count else "there are no model versions")


def _model_names(client: Client) -> list[str]:
    listed = client.stubs.registry.ListModels(
        registry_service_pb2.ListModelsRequest(page_size=PAGE), timeout=TIMEOUT_SECONDS
    )
    return [each.name for each in listed.models]


def _champion(client: Client, model: str) -> int:
    events = client.stubs.registry.ListAliasEvents(
        registry_service_pb2.ListAliasEventsRequest(model=model, page_size=PAGE),
        timeout=TIMEOUT_SECONDS,
    ).events
    return next((each.version for each in events if each.alias == "champion"), 0)


def _version_row(version: model_pb2.ModelVersion, champion: bool) -> list[str]:
    state = model_pb2.ApprovalState.Name(version.approval_state)
    manifest = version.manifest
    measured = ", ".join(
        f"{each.name} {each.value:.4f}" for each in manifest.metrics if not each.slice
    )
    return [
        version.model,
        f"{version.version}{' champion' if champion else ''}",
        state.removeprefix("APPROVAL_STATE_").lower(),
        show_time(manifest.snapshot.known_at_time),
        f"{manifest.snapshot.train_rows:,}",
        measured,
        version.manifest_digest[:12],
    ]


def drift(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(min=1, help="Version whose reference is meant.")],
    since: Annotated[str, typer.Option(help="First event time, such as 2013-04-01.")],
    until: Annotated[str, typer.Option(help="End of the range, such as 2013-05-01.")],
    days: Annotated[int, typer.Option(min=0, help="Length of a window; 0: one window.")] = 0,
    every: Annotated[
        bool, typer.Option("--all", help="Show columns that have not moved, too.")
    ] = False,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Compare what a version saw with what it was trained on, column by column.

    Example: setpoint drift flight_late 1 --since 2013-04-01 --until 2013-05-01
    """
    with session(stack) as client:
        request = monitoring_service_pb2.GetDriftRequest(
            model_version=reference_pb2.ModelVersionReference(model=model, version=version),
            range=reference_pb2.TimeRange(
                start_time=read_time("--since", since), end_time=read_time("--until", until)
            ),
            window_microseconds=days * DAY,
        )
        found = client.stubs.monitoring.GetDrift(request, timeout=TIMEOUT_SECONDS).findings
    table = _table("window", "column", "rows", "PSI", "p adjusted", "level", "what moved")
    shown = [each for each in found if every or each.level >= report_pb2.DRIFT_LEVEL_WARNING]
    for each in shown:
        level = report_pb2.DriftLevel.Name(each.level).removeprefix("DRIFT_LEVEL_").lower()
        colour = "red" if each.level == report_pb2.DRIFT_LEVEL_ALARM else "default"
        table.add_row(
            show_time(each.window.start_time),
            each.column,
            f"{each.rows:,}",
            f"{each.population_stability_index:.3f}",
            f"{each.adjusted_p_value:.2g}",
            f"[{colour}]{level}[/]",
            "; ".join(each.moved_bins),
        )
    if shown:
        console.print(table)
    console.print(f"{len(shown)} of {len(found)} measurements shown" if found else "no predictions")
