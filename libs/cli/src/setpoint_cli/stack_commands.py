"""Running whole stacks: ``up`` and ``demo``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from setpoint_cli import explanation
from setpoint_cli.session import EXIT_FAILED
from setpoint_client import typed_error
from setpoint_demo import story, summary
from setpoint_demo.lifecycle import RunFailedError
from setpoint_devstack import catalogue, stack
from setpoint_devstack import errors as devstack_errors
from setpoint_devstack import up as devstack_up

REPORT_WIDTH = 140


def up(
    directory: Annotated[
        Path, typer.Option(help="Folder of the stack's state; kept between runs.")
    ] = stack.DEFAULT_FOLDER,
    service: Annotated[
        list[str] | None, typer.Option(help="Run this service alone; repeat for several.")
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(help="Run a service so many times, e.g. inference=2; repeat for several."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a service again when it dies.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Leave the services' logs in their files.")
    ] = False,
) -> None:
    """Run PostgreSQL, Valkey and every service until Ctrl-C.

    Example: setpoint up --directory var/stack
    """
    try:
        numbers = catalogue.parse_replicas(replicas or ())
    except devstack_errors.DevstackError as error:
        raise typer.BadParameter(str(error), param_hint="--replicas") from error
    raise typer.Exit(
        devstack_up.run(directory, service, replicas=numbers, restart=restart, quiet=quiet)
    )


def demo(
    directory: Annotated[
        Path, typer.Option(help="Folder for state, logs and summary.json.")
    ] = Path("var/demo"),
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the flights that are asked about.")
    ] = story.DEFAULT_SHARE,
    last_month: Annotated[
        int, typer.Option(min=4, max=12, help="Last month of 2013 to replay.")
    ] = 12,
    approve: Annotated[
        bool, typer.Option(help="Give the approvals that a person would give.")
    ] = True,
) -> None:
    """Replay a year of flights: train, serve, drift, retrain, canary, promote, explain.

    Example: setpoint demo --last-month 6
    """
    console = Console()
    if not console.is_terminal:
        # Tables in a file or a pipe need not be squeezed into a terminal's width.
        console = Console(width=REPORT_WIDTH)
    options = story.Options(directory, share, last_month, approve)
    try:
        told = asyncio.run(story.run(options, console))
    except (RunFailedError, devstack_errors.DevstackError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(EXIT_FAILED) from None
    except grpc.RpcError as error:
        told_error = typed_error(error)
        console.print(f"[red]{told_error.reason}[/]: {told_error.message}")
        console.print(f"the services' logs are in {directory / 'stack' / 'logs'}")
        raise typer.Exit(EXIT_FAILED) from None
    summary.show(told.summary, console)
    explanation.show(told.prediction, told.route, console)
    console.print(f"summary in {directory / 'summary.json'}")
    if not told.summary.complete:
        raise typer.Exit(EXIT_FAILED)
