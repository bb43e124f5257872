"""Proof that what was served is what was known: ``features skew``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.markup import escape

from setpoint.feature.v1 import audit_service_pb2 as messages
from setpoint.feature.v1 import definition_pb2
from setpoint_cli.feature_commands import table_of
from setpoint_cli.session import (
    DEFAULT_STACK,
    EXIT_FAILED,
    StackFolder,
    console,
    exact_time,
    read_time,
    session,
    show_time,
)
from setpoint_client import Client

REPLAY_SECONDS = 120.0
WHOLE = 10_000
"""Basis points."""


@dataclass(slots=True)
class _Found:
    """What was found of one version of a feature set."""

    predictions: int = 0
    differing: int = 0
    values: int = 0
    removed: int = 0
    differences: Counter[tuple[str, messages.SkewCause.ValueType]] = field(default_factory=Counter)
    examples: dict[tuple[str, messages.SkewCause.ValueType], messages.SkewExample] = field(
        default_factory=dict
    )

    def add(self, skew: messages.FeatureSetSkew) -> None:
        """Takes in what an answer says."""
        self.predictions += skew.predictions
        self.differing += skew.differing_predictions
        self.values += skew.values
        self.removed += skew.removed_predictions
        for each in skew.differences:
            key = (each.feature, each.cause)
            self.differences[key] += each.values
            if each.examples:
                self.examples.setdefault(key, each.examples[0])


def skew(
    feature_set: Annotated[
        str | None, typer.Argument(help="This feature set alone.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only predictions stored from this day on.")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Replay every stored prediction now.")
    ] = False,
    share: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="With --replay: a share of the records.")
    ] = 1.0,
    stack: StackFolder = DEFAULT_STACK,
) -> None:
    """Tell whether what was served is what was known: recomputed from history, compared to the bit.

    Ends with exit code 1 where anything differs, and says why it does.

    Example: setpoint features skew --replay
    """
    found: dict[tuple[str, str], _Found] = {}
    start = read_time("--since", since)
    with session(stack) as client:
        if replay:
            state = _replay(client, round(share * WHOLE), found)
        else:
            state = _report(client, feature_set or "", start, found)
    shown = {key: each for key, each in sorted(found.items()) if feature_set in (None, key[0])}
    _show(shown)
    console.print(state, highlight=False)
    if any(each.differences for each in shown.values()):
        raise typer.Exit(EXIT_FAILED)


def _take(found: dict[tuple[str, str], _Found], skews: Sequence[messages.FeatureSetSkew]) -> None:
    for each in skews:
        key = (each.feature_set.name, each.feature_set.version)
        found.setdefault(key, _Found()).add(each)


def _report(
    client: Client, feature_set: str, since: int, found: dict[tuple[str, str], _Found]
) -> str:
    """Asks what the continuous replay has found; returns how far it is."""
    request = messages.GetSkewReportRequest(since_time=since, examples=1)
    request.feature_set.name = feature_set
    answer = client.stubs.audit.GetSkewReport(request, timeout=REPLAY_SECONDS)
    _take(found, answer.feature_sets)
    if not answer.replay_time:
        return "nothing has been replayed yet; --replay does it now"
    behind = answer.newest_record_id - answer.through_record_id
    way = "all records" if behind <= 0 else f"all but the newest {behind:,} records"
    going_on = "and it goes on" if answer.is_replaying else "and it is switched off now"
    return f"{way} were considered at {show_time(answer.replay_time)}, {going_on}"


def _replay(client: Client, share: int, found: dict[tuple[str, str], _Found]) -> str:
    """Replays what there is now; returns how much that was."""
    after, newest = 0, None
    while newest is None or after < newest:
        request = messages.ReplayPredictionsRequest(after_record_id=after, basis_points=share)
        answer = client.stubs.audit.ReplayPredictions(request, timeout=REPLAY_SECONDS)
        _take(found, answer.feature_sets)
        newest = answer.newest_record_id if newest is None else newest
        after = answer.through_record_id
    part = "all" if share == WHOLE else f"{share / 100:g} % of the"
    return f"{part} records up to number {after:,} were replayed now"


def _show(found: dict[tuple[str, str], _Found]) -> None:
    if not found:
        console.print("no prediction with features of this service was found")
        return
    table = table_of("feature set", "version", "predictions", "values", "equal", "differ")
    for (name, version), each in found.items():
        differing = sum(each.differences.values())
        table.add_row(
            name,
            version,
            f"{each.predictions:,}",
            f"{each.values:,}",
            f"{each.values - differing:,}",
            f"[{'red' if differing else 'green'}]{differing:,}[/]",
        )
    console.print(table)
    for (name, version), each in found.items():
        if each.removed:
            console.print(
                f"{each.removed:,} predictions with {name}@{version[:12]} were not replayed: "
                "the history of their time is no longer kept"
            )
    causes = table_of("feature", "cause", "values", "for example", "served", "known")
    for each in found.values():
        for (feature, cause), count in sorted(each.differences.items()):
            example = each.examples.get((feature, cause))
            sides = ("", "", "") if example is None else _example(example)
            causes.add_row(feature, _cause(cause), f"{count:,}", *sides)
    if causes.row_count:
        console.print(causes)


def _example(example: messages.SkewExample) -> tuple[str, str, str]:
    sides = []
    for side in ("served", "known"):
        value = getattr(example, side) if example.HasField(side) else "(not shown)"
        number = getattr(example, f"{side}_status")
        status = definition_pb2.FeatureStatus.Name(number).removeprefix("FEATURE_STATUS_")
        text = f"{escape(value)}, {status.lower()}"
        if example.HasField(f"{side}_event_time"):  # type: ignore[arg-type]  # names of fields
            text += f", of {exact_time(getattr(example, f'{side}_event_time'))}"
        sides.append(text)
    where = f"{example.prediction_id} as of {exact_time(example.as_of_time)}"
    if example.note:
        where += f": {escape(example.note)}"
    return where, sides[0], sides[1]


def _cause(number: messages.SkewCause.ValueType) -> str:
    name = messages.SkewCause.Name(number)
    return name.removeprefix("SKEW_CAUSE_").lower().replace("_", " ")
