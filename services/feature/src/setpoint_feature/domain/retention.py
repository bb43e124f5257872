"""From when on the history answers as if nothing had been removed.

Retention as of a time H removes rows that were known at H and that another known row of their entity surpasses.
A question at H or later finds what it would have found: the row that wins at H stays, however old it is, so a
TTL changes nothing about that. One before H may have been about a row that is gone, and nothing tells whether it
was; it is refused, never answered with less.

A window needs every event in it, not the greatest alone. So it is complete from the time on at which the last
event that may be gone has left it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_feature.domain import (
    aggregation,
    blueprint,
    definitions,
    plan,
    visibility,
    wording,
)
from setpoint_runtime import errors

_COMPLETE_FROM: Final = "complete_from_time"
AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Retained:
    """What retention left of a view's history.

    Joins at `time` or later that see all rows up to `sequence` or further find what they would have found
    without retention. Others may lack rows.
    """

    time: int
    sequence: int
    rows: int
    """Rows that are gone."""


def last_removed(view: definitions.FeatureView, retained: Retained) -> int:
    """Returns the latest event time of which rows of a view may be gone."""
    return visibility.Rule.of(view).last_event(retained.time)


def windows_from(
    source: definitions.FeatureView,
    fields: Iterable[aggregation.AggregateField],
    retained: Retained,
) -> int:
    """Returns from when on windows over the rows of a source miss no event."""
    last = np.array([last_removed(source, retained)], np.int64)
    return max(
        int(blueprint.expiries(blueprint.buckets(last, each.hop), each.hop, each.window)[0])
        for each in fields
    )


def complete_from(
    view: plan.CompiledView, fields: Sequence[int], kept: Mapping[int, Retained]
) -> int | None:
    """Returns from when on fields of a view are complete; None where nothing is gone.

    Args:
        view: The view.
        fields: Positions of the fields; those of an aggregate view reach back as far as their windows.
        kept: What retention left, by the number of the view.
    """
    retained = kept.get(view.stream)
    made = view.blueprint
    if retained is None or made is None:
        return None if retained is None else retained.time
    return windows_from(made.source.view, (made.fields[each].spec for each in fields), retained)


def check(
    view: plan.CompiledView,
    fields: Sequence[int],
    times: visibility.Times,
    kept: Mapping[int, Retained],
    field: str,
) -> None:
    """Refuses questions about times at which fields of a view may lack rows.

    Args:
        view: The view.
        fields: Positions of its fields.
        times: When they are asked for.
        kept: What retention left, as it was told after the rows were read.
        field: Name of the times in what was asked.

    Raises:
        OutOfRangeError: HISTORY_REMOVED.
    """
    since = complete_from(view, fields, kept)
    if since is not None and (times < since).any():
        row = int(np.argmin(times))
        raise removed(view.view.name, f"{field}[{row}]", int(times[row]), since)


def check_reach(view: plan.CompiledView, upto: int, kept: Mapping[int, Retained]) -> None:
    """Refuses to go on with a read that sees too little of a view: rows gave way to later ones.

    Windows are above this: no row of an event time that they need is gone.

    Raises:
        UnavailableError: HISTORY_REMOVED; a read that begins now sees more.
    """
    retained = kept.get(view.number)
    if retained is not None and upto < retained.sequence:
        raise errors.UnavailableError(
            errors.Reason.HISTORY_REMOVED,
            f"while it was being read, retention removed rows of view {view.view.name} that later ones had "
            "surpassed; begin again",
            metadata={"view": view.view.name},
            retry_after_seconds=AGAIN_SECONDS,
        )


def removed(view: str, field: str, time: int, since: int) -> errors.OutOfRangeError:
    """Returns the refusal of a question about a time at which a view may lack rows."""
    rule = (
        f"is {wording.moment(time)}, and retention has removed rows of view {view} that were known then; "
        f"it answers from {wording.moment(since)} on"
    )
    return errors.OutOfRangeError(
        errors.Reason.HISTORY_REMOVED,
        f"{field} {rule}",
        violations=[errors.FieldViolation(field, rule)],
        metadata=metadata(view, time, since),
    )


def metadata(view: str, time: int, since: int) -> dict[str, str]:
    """Returns what a refusal tells programs: the view, the time asked for, and from when on it is complete."""
    return {"view": view, "time": str(time), _COMPLETE_FROM: str(since)}


def complete_from_of(error: errors.SetpointError) -> int | None:
    """Returns the time from which on a refused question would be answered; None of any other error."""
    if error.reason is not errors.Reason.HISTORY_REMOVED:
        return None
    told = error.metadata.get(_COMPLETE_FROM)
    return None if told is None else int(told)
