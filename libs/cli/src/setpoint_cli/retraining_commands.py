"""Renewing: ``retrain`` and ``approve``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from setpoint.retraining.v1 import retraining_pb2, retraining_service_pb2
from setpoint_cli.session import (
    DEFAULT_STACK,
    EXIT_FAILED,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    problems,
    read_time,
    session,
)
from setpoint_client import Client, errors, typed_error
from setpoint_runtime import ids

WATCH_SECONDS = 3600.0
STEPS = ("snapshot", "validate", "train", "evaluate", "package", "register")


def retrain(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    known_at: Annotated[
        str | None, typer.Option(help="Use data as known at this time; now by default.")
    ] = None,
    trigger: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for by a person",
    wait: Annotated[
        bool, typer.Option(help="Wait until the run ends or needs an approval.")
    ] = True,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Start a retraining run and follow it.

    Example: setpoint retrain flight_late --known-at 2013-07-01
    """
    with session(stack) as client:
        started = client.stubs.retraining.StartRun(
            retraining_service_pb2.StartRunRequest(
                request_id=ids.uuid7(),
                policy=policy,
                known_at_time=read_time("--known-at", known_at),
                trigger=trigger,
            ),
            timeout=TIMEOUT_SECONDS,
        )
        console.print(f"run {started.run.run_id}", highlight=False)
        run = _follow(client, started.run) if wait else started.run
    _report(run)


def _follow(client: Client, run: retraining_pb2.Run) -> retraining_pb2.Run:
    request = retraining_service_pb2.WatchRunRequest(run_id=run.run_id, stop_at_approval=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    told: set[str] = set()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waits for a worker", total=len(STEPS))
        for changed in _changes(client, request, run):
            run = changed
            for step in run.steps:
                if step.done and step.name not in told:
                    told.add(step.name)
                    summary = escape(step.summary)
                    console.print(f"[green]{step.name}[/]: {summary}", soft_wrap=True)
            going = [step.name for step in run.steps if not step.done]
            done = len(told & set(STEPS))
            progress.update(task, completed=done, description=going[0] if going else "stored")
    return run


def _changes(
    client: Client, request: retraining_service_pb2.WatchRunRequest, run: retraining_pb2.Run
) -> Iterator[retraining_pb2.Run]:
    """Yields a run after each change; a stream that ends with its connection is opened again."""
    while run.state in (retraining_pb2.RUN_STATE_QUEUED, retraining_pb2.RUN_STATE_RUNNING):
        try:
            for response in client.stubs.retraining.WatchRun(request, timeout=WATCH_SECONDS):
                run = response.run
                yield run
        except grpc.RpcError as error:
            if not isinstance(typed_error(error), errors.UnavailableError):
                raise


def _report(run: retraining_pb2.Run) -> None:
    state = retraining_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    console.print(f"run {run.run_id} is {state.replace('_', ' ')}", highlight=False)
    if run.state == retraining_pb2.RUN_STATE_AWAITING_APPROVAL:
        console.print(
            f"version {run.version}, manifest {run.manifest_digest}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"let it go live with: setpoint approve {run.run_id}", highlight=False)
    if run.error:
        problems.print(f"[red]{run.error_reason}[/] {escape(run.error)}", soft_wrap=True)
    bad = (retraining_pb2.RUN_STATE_FAILED, retraining_pb2.RUN_STATE_REJECTED)
    if run.state in bad:
        raise typer.Exit(EXIT_FAILED)


def approve(
    run_id: Annotated[str, typer.Argument(help="Id of the run.")],
    approver: Annotated[str, typer.Option(envvar="USER", help="Who decides.")] = "",
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Reject it instead.")] = False,
    as_of: Annotated[
        str | None, typer.Option(help="Event time at which the rollout starts; now by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Approve (or reject) the version that a run made; its rollout begins.

    The decision is bound to the manifest that is shown: another manifest voids it.

    Example: setpoint approve 019a1b2c-3d4e-7f00-8a1b-2c3d4e5f6071 --comment "better on all months"
    """
    if not approver:
        raise typer.BadParameter("must name who decides", param_hint="--approver")
    with session(stack) as client:
        run = client.stubs.retraining.GetRun(
            retraining_service_pb2.GetRunRequest(run_id=run_id), timeout=TIMEOUT_SECONDS
        ).run
        _show(run)
        word = "reject" if reject else "approve"
        if not yes and not typer.confirm(f"{word} version {run.version}?"):
            raise typer.Exit(EXIT_FAILED)
        decided = client.stubs.retraining.DecideRun(
            retraining_service_pb2.DecideRunRequest(
                request_id=ids.uuid7(),
                run_id=run_id,
                approve=not reject,
                manifest_digest=run.manifest_digest,
                approver=approver,
                comment=comment,
                as_of_time=read_time("--as-of", as_of),
            ),
            timeout=TIMEOUT_SECONDS,
        )
    state = retraining_pb2.RunState.Name(decided.run.state).removeprefix("RUN_STATE_").lower()
    console.print(f"run {run_id} is {state.replace('_', ' ')}", highlight=False)


def _show(run: retraining_pb2.Run) -> None:
    console.print(f"model {run.model}, version {run.version}, manifest {run.manifest_digest}")
    for name, value in sorted(run.metrics.items()):
        champion = run.champion_metrics.get(name)
        compared = f", champion {champion:.4f}" if champion is not None else ""
        console.print(f"  {name} {value:.4f}{compared}")
