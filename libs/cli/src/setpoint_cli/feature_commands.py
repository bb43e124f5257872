"""Features: ``features`` lists them, its commands explain and prove what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer
import typer.core
from rich.markup import escape
from rich.table import Table

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.feature.v1 import audit_service_pb2, definition_pb2, feature_service_pb2
from setpoint_cli.session import (
    DEFAULT_STACK,
    TIMEOUT_SECONDS,
    StackFolder,
    console,
    exact_time,
    read_time,
    read_values,
    session,
)
from setpoint_client import Client
from setpoint_columns import Column, Columns, DataType, proto, value
from setpoint_runtime import errors

PAGE = 1000
_Tagged = TypeVar("_Tagged", definition_pb2.FeatureView, definition_pb2.FeatureSet)


class FeaturesGroup(typer.core.TyperGroup):
    """Lists where no command is named, so that ``features`` is enough."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command that is meant in front."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=FeaturesGroup,
    help="List feature sets and views; explain and prove what they hold.\n\n"
    "Example: setpoint features",
)


def table_of(*headings: str) -> Table:
    """Makes a table whose cells fold rather than lose text."""
    table = Table(show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


@app.command("list")
def list_features(
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only those with it, name=value or name.")
    ] = None,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """List feature sets and the views that they take features from.

    Example: setpoint features --tag team=ops
    """
    table = table_of("view", "entity", "fields", "time to live", "version", "owner", "tags")
    sets = table_of(
        "feature set", "features", "computed", "request fields", "version", "owner", "tags"
    )
    with session(stack) as client:
        views = client.stubs.feature.ListFeatureViews(
            feature_service_pb2.ListFeatureViewsRequest(page_size=PAGE), timeout=TIMEOUT_SECONDS
        ).views
        bundles = client.stubs.feature.ListFeatureSets(
            feature_service_pb2.ListFeatureSetsRequest(page_size=PAGE), timeout=TIMEOUT_SECONDS
        ).feature_sets
    for view in _tagged(views, tag):
        fields = ", ".join(f"{each.name} {_type(each.dtype)}" for each in view.fields)
        hours = view.ttl_microseconds / 3.6e9
        table.add_row(
            view.name,
            view.entity,
            fields,
            f"{hours:g} h" if hours else "for ever",
            view.version[:12],
            view.owner,
            _tags(view.tags),
        )
    for bundle in _tagged(bundles, tag):
        sets.add_row(
            bundle.name,
            ", ".join(each.alias or each.field for each in bundle.features),
            ", ".join(each.name for each in bundle.transformations),
            ", ".join(each.name for each in bundle.request_fields),
            bundle.version[:12],
            bundle.owner,
            _tags(bundle.tags),
        )
    console.print(table if table.row_count else "there are no views")
    console.print(sets if sets.row_count else "there are no feature sets")


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={tags[name]}" for name in sorted(tags))


def _tagged(found: Iterable[_Tagged], wanted: Iterable[str] | None) -> list[_Tagged]:
    """Returns the definitions that have all tags, each written name=value or name."""
    pairs = [each.partition("=") for each in wanted or ()]
    return [
        each
        for each in found
        if all(
            name in each.tags and (not equals or each.tags[name] == value)
            for name, equals, value in pairs
        )
    ]


def _type(dtype: column_pb2.DataType.ValueType) -> str:
    return column_pb2.DataType.Name(dtype).removeprefix("DATA_TYPE_").lower()


@app.command()
def explain(
    feature: Annotated[
        str,
        typer.Argument(help="SET.COLUMN of a feature set, or VIEW.FIELD with --view."),
    ],
    entity: Annotated[
        list[str] | None, typer.Option("--entity", "-e", help="An entity key, name=value.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="As of when; now by default.")] = None,
    view: Annotated[
        bool, typer.Option("--view", help="The first part names a view, not a feature set.")
    ] = False,
    version: Annotated[
        str, typer.Option(help="Version of the set or the view; the latest by default.")
    ] = "",
    by_event_time: Annotated[
        bool, typer.Option("--by-event-time", help="Ignore when rows arrived.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, max=PAGE, help="Candidates to show.")] = 20,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Tell why a feature of an entity has its value: every candidate, and why it won or lost.

    Example: setpoint features explain flight_features.temp -e origin=EWR -e carrier=UA -e tailnum=N14228
    --time 2013-07-04T12:00
    """
    first, separator, second = feature.rpartition(".")
    if not separator:
        raise typer.BadParameter(f"{feature!r} must be SET.COLUMN", param_hint="FEATURE")
    request = audit_service_pb2.ExplainFeatureRequest(
        as_of_time=read_time("--time", time), as_of_event_time=by_event_time, page_size=rows
    )
    if view:
        request.view, request.field, request.view_version = first, second, version
    else:
        request.feature_set.name, request.feature_set.version = first, version
        request.column = second
    given = read_values("--entity", entity)
    with session(stack) as client:
        request.entity.CopyFrom(_entity(client, request, given))
        found = client.stubs.audit.ExplainFeature(request, timeout=TIMEOUT_SECONDS)
    _show_explanation(found)


def _entity(
    client: Client, request: audit_service_pb2.ExplainFeatureRequest, given: dict[str, Any]
) -> column_pb2.ColumnBatch:
    """Returns the keys that were given, in the types that the question needs."""
    stub = client.stubs.feature
    if request.view:
        view = stub.GetFeatureView(
            feature_service_pb2.GetFeatureViewRequest(
                name=request.view, version=request.view_version
            ),
            timeout=TIMEOUT_SECONDS,
        ).view
        keys = stub.GetEntity(
            feature_service_pb2.GetEntityRequest(name=view.entity), timeout=TIMEOUT_SECONDS
        ).entity.keys
    else:
        asked = feature_service_pb2.GetFeatureSetRequest(feature_set=request.feature_set)
        keys = stub.GetFeatureSet(asked, timeout=TIMEOUT_SECONDS).key_columns
    return entity_of(keys, given)


def entity_of(keys: Any, given: dict[str, Any]) -> column_pb2.ColumnBatch:
    """Returns one row of key columns; keys that were not given are left to the service to miss.

    Raises:
        BadParameter: A value is not of its key's type.
    """
    columns = []
    for key in keys:
        if key.name not in given:
            continue
        item, dtype = given[key.name], DataType(key.dtype)
        if dtype is DataType.STRING and item is not None:
            item = str(item)
        try:
            columns.append(Column.from_list(key.name, [item], dtype))
        except errors.InvalidArgumentError as error:
            raise typer.BadParameter(error.message, param_hint="--entity") from None
    return proto.to_proto(Columns(1, columns))


_COLOURS = {
    audit_service_pb2.CANDIDATE_VERDICT_WON: "green",
    audit_service_pb2.CANDIDATE_VERDICT_EXPIRED: "yellow",
}


def _show_explanation(found: audit_service_pb2.ExplainFeatureResponse) -> None:
    name = f"{found.view}.{found.field}"
    console.rule(f"[bold]{escape(name)} at {exact_time(found.as_of_time)}")
    counts = {each.verdict: each.candidates for each in found.counts}
    boundary = definition_pb2.Boundary.Name(found.boundary).removeprefix("BOUNDARY_").lower()
    ttl = f"{found.ttl_microseconds / 3.6e9:g} h" if found.ttl_microseconds else "for ever"
    facts = [
        ("served", f"{show_value(found.value)}, {_status(found.status)}"),
        ("version", f"{found.view_version}, valid {ttl}, boundary {boundary}"),
        ("candidates", ", ".join(f"{count:,} {_verdict(each)}" for each, count in counts.items())),
        ("online now", _online(found.online)),
    ]
    for heading, text in facts:
        console.print(f"{heading:<11} {text}", markup=False, highlight=False, soft_wrap=True)
    table = table_of("event time", "arrived", "sequence", "value", "verdict", "why")
    for each in found.candidates:
        colour = _COLOURS.get(each.verdict, "default")
        table.add_row(
            exact_time(each.event_time),
            exact_time(each.created_time),
            str(each.sequence),
            escape(show_value(each.value)),
            f"[{colour}]{_verdict(each.verdict)}[/]",
            each.reason,
        )
    if found.candidates:
        console.print(table)
    hidden = sum(counts.values()) - len(found.candidates)
    if hidden:
        console.print(f"and {hidden:,} candidates farther away; --rows shows more")


def _online(copy: audit_service_pb2.OnlineCopy) -> str:
    if copy.problem:
        return copy.problem
    served = f"serves {show_value(copy.served_value)}, {_status(copy.served_status)}"
    if not copy.is_found:
        return f"holds nothing of this entity; {served}"
    which = "the greatest row" if copy.is_greatest else "not the greatest row"
    held = f"{show_value(copy.value)} of {exact_time(copy.event_time)}, sequence {copy.sequence}"
    return f"holds {held}: {which}; {served}"


def show_value(message: value_pb2.Value) -> str:
    """Writes a single value."""
    if message.WhichOneof("kind") == "timestamp_value":
        return exact_time(message.timestamp_value)
    found = value.from_proto(message)
    return "null" if found is None else str(found)


def _verdict(number: audit_service_pb2.CandidateVerdict.ValueType) -> str:
    name = audit_service_pb2.CandidateVerdict.Name(number)
    return name.removeprefix("CANDIDATE_VERDICT_").lower()


def _status(number: definition_pb2.FeatureStatus.ValueType) -> str:
    return definition_pb2.FeatureStatus.Name(number).removeprefix("FEATURE_STATUS_").lower()
