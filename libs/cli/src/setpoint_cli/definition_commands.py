"""Definitions as code: ``features plan``, ``features apply`` and ``features history``."""

from __future__ import annotations

import difflib
import getpass
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, TypeVar

import grpc
import typer
from rich.text import Text

from setpoint.feature.v1 import definition_service_pb2 as pb
from setpoint_cli.session import (
    DEFAULT_STACK,
    EXIT_FAILED,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    session,
    show_time,
)
from setpoint_client import Client, typed_error
from setpoint_features import definitions, loading, messages
from setpoint_runtime import ids

EXIT_CHANGES = 5
"""Of ``plan --exit-code``: there is something to apply. 2 is wrong usage everywhere else."""
PAGE = 20
_VERSION_SHOWN = 12
_KINDS = {
    pb.DEFINITION_KIND_ENTITY: "entity",
    pb.DEFINITION_KIND_FEATURE_VIEW: "view",
    pb.DEFINITION_KIND_FEATURE_SET: "feature set",
}
_MARKS = {
    pb.CHANGE_ACTION_UNCHANGED: (" ", "dim"),
    pb.CHANGE_ACTION_CREATE: ("+", "green"),
    pb.CHANGE_ACTION_METADATA: ("~", "cyan"),
    pb.CHANGE_ACTION_NEW_VERSION: ("~", "yellow"),
    pb.CHANGE_ACTION_RESTORE: ("~", "yellow"),
}
_WORDS = {
    pb.CHANGE_ACTION_UNCHANGED: "unchanged",
    pb.CHANGE_ACTION_CREATE: "new",
    pb.CHANGE_ACTION_METADATA: "in words only",
    pb.CHANGE_ACTION_NEW_VERSION: "new version",
    pb.CHANGE_ACTION_RESTORE: "an earlier version again",
}
_SEVERITIES = {
    pb.CONSEQUENCE_SEVERITY_NOTE: ("note", "dim"),
    pb.CONSEQUENCE_SEVERITY_WARNING: ("warning", "yellow"),
    pb.CONSEQUENCE_SEVERITY_REFUSED: ("refused", "bold red"),
    pb.CONSEQUENCE_SEVERITY_UNKNOWN: ("unknown", "bold red"),
}
_HINDERING = (pb.CONSEQUENCE_SEVERITY_REFUSED, pb.CONSEQUENCE_SEVERITY_UNKNOWN)
_T = TypeVar("_T")

Target = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A YAML or Python file, a folder of them, or the dotted name of a Python package.",
    ),
]
ShowAll = Annotated[bool, typer.Option("--all", help="Show what does not change, too.")]


def plan(
    target: Target,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 5 when anything would change.")
    ] = False,
    every: ShowAll = False,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Say what applying definitions would do, field by field and to whom. Changes nothing.

    Example: setpoint features plan features/
    """
    with session(stack) as client:
        found = loading.load(target)
        planned = _plan(client, found, messages.to_message(found))
    _show(planned.changes, every=every)
    if _is_hindered(planned.changes):
        raise typer.Exit(EXIT_FAILED)
    if exit_code and _count(planned.changes):
        raise typer.Exit(EXIT_CHANGES)


def apply(
    target: Target,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with what was applied.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Although live models are harmed; needs --reason.")
    ] = False,
    actor: Annotated[
        str | None, typer.Option(help="Who applies; by default who is logged in.")
    ] = None,
    every: ShowAll = False,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Apply definitions, all of them or none, after showing what that would do.

    Example: setpoint features apply features/ --reason "weather by the hour"
    """
    if force and not reason:
        raise typer.BadParameter("must be given with --force", param_hint="--reason")
    with session(stack) as client:
        found = loading.load(target)
        message = messages.to_message(found)
        planned = _plan(client, found, message)
        _show(planned.changes, every=every)
        if _is_hindered(planned.changes) and not force:
            raise typer.Exit(EXIT_FAILED)
        if not _count(planned.changes):
            return
        if not yes:
            typer.confirm("Apply?", abort=True)
        request = pb.ApplyDefinitionsRequest(
            request_id=ids.uuid7(),
            definitions=message,
            revision=planned.revision,
            actor=_user() if actor is None else actor,
            reason=reason,
            force=force,
        )
        applied = _told(
            found,
            lambda: client.stubs.definition.ApplyDefinitions(request, timeout=TIMEOUT_SECONDS),
        )
    console.print(f"applied: revision {applied.revision}", highlight=False)


def history(
    count: Annotated[int, typer.Option(min=1, help="How many to show.")] = PAGE,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Show what was applied, newest first: who, when, why, and what changed.

    Example: setpoint features history
    """
    with session(stack) as client:
        listed = list(itertools.islice(_applied(client, count), count))
    if not listed:
        console.print("nothing was applied yet")
    for each in listed:
        line = Text(f"{show_time(each.apply_time)}  revision {each.revision}", "bold")
        line.append(f"  {each.actor}", "cyan")
        line.append(f"  {each.reason}", "default")
        if each.forced:
            line.append("  by force", "bold red")
        console.print(line, soft_wrap=True)
        for change in each.changes:
            console.print(Text("  ").append_text(_headline(change)), soft_wrap=True)


def _user() -> str:
    """Returns who is logged in; in a container its number may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _applied(client: Client, count: int) -> Iterator[pb.AppliedDefinitions]:
    """Yields what was applied, newest first; the service ends a page where it would get too large."""
    request = pb.ListAppliedDefinitionsRequest(page_size=count)
    while True:
        page = client.stubs.definition.ListAppliedDefinitions(request, timeout=TIMEOUT_SECONDS)
        yield from page.applied
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _plan(
    client: Client, found: definitions.Definitions, message: pb.Definitions
) -> pb.PlanDefinitionsResponse:
    request = pb.PlanDefinitionsRequest(definitions=message)
    return _told(
        found, lambda: client.stubs.definition.PlanDefinitions(request, timeout=TIMEOUT_SECONDS)
    )


def _told(found: definitions.Definitions, call: Callable[[], _T]) -> _T:
    """Calls the service; what it says is wrong is told by file and line."""
    try:
        return call()
    except grpc.RpcError as failed:
        error = typed_error(failed)
        located = messages.located(found, error.violations)
        if located != list(error.violations):
            # The text repeats the places as the service numbers them.
            error.message = f"{len(located)} of the definitions' fields are wrong"
        error.violations = tuple(located)
        raise error from failed


def _count(changes: Iterable[pb.DefinitionChange]) -> int:
    return sum(each.action != pb.CHANGE_ACTION_UNCHANGED for each in changes)


def _is_hindered(changes: Iterable[pb.DefinitionChange]) -> bool:
    return any(
        consequence.severity in _HINDERING for each in changes for consequence in each.consequences
    )


def _show(changes: Sequence[pb.DefinitionChange], *, every: bool) -> None:
    for change in changes:
        if change.action == pb.CHANGE_ACTION_UNCHANGED and not every:
            continue
        console.print(_headline(change), soft_wrap=True)
        for difference in change.differences:
            for line in _lines(difference):
                console.print(line, soft_wrap=True)
        for consequence in change.consequences:
            word, style = _SEVERITIES.get(consequence.severity, ("?", "red"))
            console.print(Text(f"    {word}: {consequence.message}", style), soft_wrap=True)
    counts = Counter(each.action for each in changes)
    told = [f"{counts[action]} {word}" for action, word in _WORDS.items() if counts[action]]
    console.print(f"plan: {', '.join(told)}" if _count(changes) else "nothing to do")


def _headline(change: pb.DefinitionChange) -> Text:
    mark, style = _MARKS.get(change.action, ("?", "red"))
    line = Text(f"{mark} {_KINDS.get(change.kind, '?')} {change.name}", style)
    line.append(f"  {_WORDS.get(change.action, '?')}", "dim")
    if change.current_version and change.current_version != change.planned_version:
        before = change.current_version[:_VERSION_SHOWN]
        line.append(f"  {before} → {change.planned_version[:_VERSION_SHOWN]}", "dim")
    return line


def _lines(difference: pb.FieldDifference) -> Iterator[Text]:
    """Yields what differs in one line, or line by line where it is code."""
    before, after, field = difference.before, difference.after, difference.field
    if "\n" in before or "\n" in after:
        yield Text(f"    ~ {field}")
        compared = difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
        for line in list(compared)[2:]:
            style = {"+": "green", "-": "red"}.get(line[:1], "dim")
            yield Text(f"        {line}", style)
    elif not before:
        yield Text(f"    + {field}: {after}", "green")
    elif not after:
        yield Text(f"    - {field}: {before}", "red")
    else:
        yield Text(
            f"    ~ {field}: {before} → {after}", "yellow" if difference.makes_version else ""
        )
