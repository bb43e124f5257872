"""Stored rows of a source view as events: who counts for which group, from when until when."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns
from setpoint_feature.domain import blueprint, history, packing, visibility

Times = visibility.Times
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Events:
    """Versions of events; each is the one that counts at the times T in [start, stop)."""

    groups: npt.NDArray[np.int64]
    """Numbers of the groups they count for."""
    event_times: Times
    created_times: Times
    sequences: npt.NDArray[np.int64]
    starts: Times
    stops: Times
    columns: Mapping[int, Column]
    """The fields of the source that the view reads, by position."""

    def __len__(self) -> int:
        """Returns the number of versions."""
        return len(self.groups)

    def take(self, chosen: Positions | visibility.Flags) -> "Events":
        """Returns some of the versions."""
        positions = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return Events(
            self.groups[positions],
            self.event_times[positions],
            self.created_times[positions],
            self.sequences[positions],
            self.starts[positions],
            self.stops[positions],
            {field: column.take(positions) for field, column in self.columns.items()},
        )

    def shifted(self, by: int) -> "Events":
        """Returns the same versions with other numbers for their groups."""
        return dataclasses.replace(self, groups=self.groups + by)


def concat(parts: Sequence[Events]) -> Events:
    """Joins events of one view, at least one part."""
    names = list(parts[0].columns)
    joined = Columns.concat([Columns(len(part), part.columns.values()) for part in parts])
    return Events(
        np.concatenate([part.groups for part in parts]),
        np.concatenate([part.event_times for part in parts]),
        np.concatenate([part.created_times for part in parts]),
        np.concatenate([part.sequences for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.stops for part in parts]),
        dict(zip(names, joined.columns, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Stored rows of the source, with numbers for the keys of their entities."""

    entities: npt.NDArray[np.int64]
    stored: history.StoredRows
    names: Sequence[bytes] | None = None
    """The keys themselves, for views that group by them."""

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.entities)

    def take(self, chosen: Positions) -> "Rows":
        """Returns some of the rows."""
        names = None if self.names is None else [self.names[row] for row in chosen.tolist()]
        return Rows(self.entities[chosen], history.chosen(self.stored, chosen), names)


def lifetimes(rows: Rows, rule: visibility.Rule) -> tuple[Times, Times]:
    """Returns from when and until when each row is the greatest known version of its event.

    Versions of one event share its event time, so they become known in the order in which they win, and
    each counts until the next one is known.
    """
    stored = rows.stored
    order = np.lexsort((stored.sequences, stored.created_times, stored.event_times, rows.entities))
    entities, event_times = rows.entities[order], stored.event_times[order]
    starts = rule.visible_from(stored.event_times, stored.created_times)
    stops = np.full(len(rows), blueprint.LATEST, np.int64)
    same = (entities[1:] == entities[:-1]) & (event_times[1:] == event_times[:-1])
    stops[order[:-1][same]] = starts[order[1:][same]]
    return starts, stops


def group_keys(plan: blueprint.Blueprint, rows: Rows, chosen: Positions) -> list[bytes | None]:
    """Returns the key of the group of each chosen row, None for one that counts nowhere."""
    named = list(columns(plan, rows, chosen).values())
    if plan.needs_keys:
        if rows.names is None:
            raise AssertionError("a view that groups by its source's keys is given them")
        named += plan.source.codec.decode([rows.names[row] for row in chosen.tolist()])
    return plan.codec.encode(Columns(len(chosen), named), plan.group_by, "events")


def collect(
    plan: blueprint.Blueprint,
    rows: Rows,
    lives: tuple[Times, Times],
    chosen: Positions,
    groups: npt.NDArray[np.int64],
) -> Events:
    """Returns the chosen rows as events, without those that count nowhere.

    Args:
        plan: The view.
        rows: Stored rows.
        lives: Their lifetimes.
        chosen: Positions of the wanted rows.
        groups: The group's number for each of them, negative for none.
    """
    kept = chosen[groups >= 0]
    stored = rows.stored
    return Events(
        groups[groups >= 0],
        stored.event_times[kept],
        stored.created_times[kept],
        stored.sequences[kept],
        lives[0][kept],
        lives[1][kept],
        columns(plan, rows, kept),
    )


def columns(plan: blueprint.Blueprint, rows: Rows, chosen: Positions) -> dict[int, Column]:
    """Returns the fields of the source that the view reads, of the chosen rows."""
    fields = plan.source_fields
    if not fields:
        return {}
    starts = rows.stored.starts[chosen]
    layout: packing.Layout = plan.source.layout
    return dict(zip(fields, layout.unpack(rows.stored.data, starts, fields), strict=True))
