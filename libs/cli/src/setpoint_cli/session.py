"""What commands that talk to a stack share: where it is, how errors end, what times look like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from setpoint_client import Client, errors, typed_error
from setpoint_devstack import stack

CALLER = "setpoint-cli"
TIMEOUT_SECONDS = 30.0

EXIT_FAILED = 1
EXIT_NOT_FOUND = 3
EXIT_UNAVAILABLE = 4

console = Console()
problems = Console(stderr=True)

StackFolder = Annotated[
    Path,
    typer.Option(
        "--stack",
        envvar="SETPOINT_STACK",
        help="Folder of the running stack; the default ports are used when none runs there.",
    ),
]
DEFAULT_STACK = stack.DEFAULT_FOLDER


@contextmanager
def session(folder: Path) -> Iterator[Client]:
    """Opens a client to a stack; failures end the command with a message and an exit code.

    Exit codes: 1 the request was refused or failed, 2 wrong usage, 3 not found, 4 unavailable.
    """
    with Client(**_settings(folder)) as client:
        try:
            yield client
        except errors.SetpointError as error:
            _end(error)
        except grpc.RpcError as error:
            _end(typed_error(error))


def _settings(folder: Path) -> Any:
    addresses = stack.running_addresses(folder) or {}
    services = ("router", "inference", "feature", "validation", "monitoring", "retraining")
    others = ("registry", "batch")
    told = {
        f"{name}_address": addresses[name] for name in (*services, *others) if name in addresses
    }
    return {**told, "caller": CALLER}


def _end(error: errors.SetpointError) -> None:
    told = escape(error.message)
    problems.print(f"[red]{error.reason}[/]: {told}", highlight=False, soft_wrap=True)
    for violation in error.violations:
        problems.print(
            f"  {violation.field}: {violation.description}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    code = EXIT_FAILED
    if isinstance(error, errors.NotFoundError):
        code = EXIT_NOT_FOUND
    elif isinstance(error, errors.UnavailableError | errors.DeadlineExceededError):
        code = EXIT_UNAVAILABLE
        problems.print("Is the stack running? Start it with: setpoint up")
    raise typer.Exit(code)


def read_values(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """Reads name=value pairs; a value is read as JSON if it is a number, true, false or null."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{pair!r} must be name=value", param_hint=option)
        values[name] = _read(text)
    return values


def _read(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | list) else value


def read_time(option: str, text: str | None) -> int:
    """Reads a date or time in ISO form, UTC unless it says otherwise; nothing is 0."""
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} must be a time such as 2013-07-04T12:00", param_hint=option
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def show_time(time: int) -> str:
    """Writes a time in microseconds UTC; nothing for 0."""
    return f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M}" if time else ""


def exact_time(time: int) -> str:
    """Writes a time in microseconds UTC to the microsecond where it has any."""
    try:
        moment = datetime.fromtimestamp(time // 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time} µs"
    fraction = f".{time % 1_000_000:06d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction}"
