"""Routes: ``routes`` lists them, ``routes preview`` says who would move."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.markup import escape
from rich.table import Table

from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_cli import explanation
from setpoint_cli.session import (
    DEFAULT_STACK,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    session,
    show_time,
)
from setpoint_client import Client

PAGE = 1000
KEYS_AT_ONCE = 10_000
SHOWN_KEYS = 20
STANDARD_INPUT = Path("-")


class RoutesGroup(typer.core.TyperGroup):
    """Lists where no command is named, so that ``routes`` and ``routes ROUTE`` are enough."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command that is meant in front."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RoutesGroup,
    help="List routes, or one route's revisions; preview who a change would move.\n\n"
    "Example: setpoint routes flight_late",
)


def _table(*headings: str) -> Table:
    table = Table(show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


@app.command("list")
def list_routes(
    route: Annotated[str | None, typer.Argument(help="This route's revisions.")] = None,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """List routes with their weights and shadows, or one route's revisions with who, when and why.

    Example: setpoint routes flight_late
    """
    table = _table("route", "revision", "from", "weights", "moved", "by", "why")
    with session(stack) as client:
        if route:
            request = router_service_pb2.ListRouteRevisionsRequest(name=route, page_size=PAGE)
            found = client.stubs.router.ListRouteRevisions(request, timeout=TIMEOUT_SECONDS).routes
        else:
            every = router_service_pb2.ListRoutesRequest(page_size=PAGE)
            found = client.stubs.router.ListRoutes(every, timeout=TIMEOUT_SECONDS).routes
    for each in found:
        table.add_row(
            each.name,
            str(each.revision),
            show_time(each.valid_from),
            explanation.versions(each),
            f"{each.moved_slots / 100:g} %",
            each.actor,
            each.reason,
        )
    console.print(table if table.row_count else "there are no routes")


@app.command()
def preview(
    route: Annotated[str, typer.Argument(help="Name of the route.")],
    weight: Annotated[
        list[str], typer.Option(help="VERSION=PERCENT, for each version that shall answer.")
    ],
    key: Annotated[list[str] | None, typer.Option(help="An assignment key to look at.")] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="A file of assignment keys, one a line; - reads standard input."),
    ] = None,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Say which keys other weights would move, without changing anything.

    Example: setpoint routes preview flight_late --weight 1=90 --weight 2=10 --key JFK
    """
    weights = read_weights(weight)
    asked = [*(key or ()), *(_lines(keys) if keys else ())]
    with session(stack) as client:
        answers = list(_ask(client, route, weights, asked))
    first = answers[0]
    table = _table("from", "to", "share of keys")
    for each in first.movements:
        table.add_row(
            f"v{each.from_version}", f"v{each.to_version}", f"{each.basis_points / 100:g} %"
        )
    console.print(table if first.movements else "nobody would move")
    # A key with an override comes with every answer.
    moved = {each.assignment_key: each for answer in answers for each in answer.moved_keys}
    for one in itertools.islice(moved.values(), SHOWN_KEYS):
        before, after = one.before.model_version.version, one.after.model_version.version
        told = f"{escape(one.assignment_key)}: v{before} to v{after}"
        console.print(told, highlight=False, soft_wrap=True)
    if len(moved) > SHOWN_KEYS:
        console.print(f"and {len(moved) - SHOWN_KEYS:,} more")
    if asked:
        different = set(asked)
        console.print(f"{len(different & moved.keys()):,} of {len(different):,} keys would move")
    console.print(f"against revision {first.base_revision}; nothing was changed")


def read_weights(pairs: Sequence[str]) -> list[route_pb2.VersionWeight]:
    """Reads VERSION=PERCENT pairs; a percentage has at most two decimals."""
    weights = []
    for pair in pairs:
        version, _, percent = pair.partition("=")
        try:
            share = Decimal(percent) * 100
            weights.append(
                route_pb2.VersionWeight(version=int(version), basis_points=_whole(share))
            )
        except (ValueError, InvalidOperation):
            raise typer.BadParameter(
                f"{pair!r} must be VERSION=PERCENT, such as 2=12.5", param_hint="--weight"
            ) from None
    return weights


def _whole(number: Decimal) -> int:
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError(number)
    return int(number)


def _lines(path: Path) -> list[str]:
    try:
        text = sys.stdin.read() if path == STANDARD_INPUT else path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--keys") from None
    # A key may hold other characters that separate lines elsewhere.
    return text.removesuffix("\n").split("\n") if text else []


def _ask(
    client: Client,
    name: str,
    weights: Sequence[route_pb2.VersionWeight],
    keys: Sequence[str],
) -> Iterator[router_service_pb2.PreviewSplitResponse]:
    found = client.stubs.router.GetRoute(
        router_service_pb2.GetRouteRequest(name=name), timeout=TIMEOUT_SECONDS
    )
    route = found.route
    route.ClearField("ensemble")
    route.ClearField("valid_from")
    del route.weights[:]
    route.weights.extend(weights)
    for at in range(0, max(1, len(keys)), KEYS_AT_ONCE):
        some = keys[at : at + KEYS_AT_ONCE]
        request = router_service_pb2.PreviewSplitRequest(route=route, assignment_keys=some)
        yield client.stubs.router.PreviewSplit(request, timeout=TIMEOUT_SECONDS)
