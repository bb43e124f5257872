"""Explains single values: what was known of an entity, and why one row of it won."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregating,
    assemble,
    explaining,
    history,
    online,
    plan,
    retention,
    visibility,
)
from setpoint_feature.service import snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

_FIELD = "entity"


@dataclass(frozen=True, slots=True)
class Question:
    """Which value is asked about; a feature set with a column, or a view with a field."""

    feature_set: str
    version: str
    column: str
    view: str
    view_version: str
    field: str
    time: int
    """0 means now."""
    arrival: bool
    """False joins as of event time alone."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What the online store holds for the entity."""

    problem: str = ""
    place: tuple[int, int, int] | None = None
    """Event time, created time and sequence of the row, None where there is none."""
    value: object = None
    is_greatest: bool = False
    served: assemble.Served | None = None
    """What it answers for the time of the question; None where it could not be asked."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One value, explained."""

    view: plan.CompiledView
    field: int
    time: int
    upto: int
    """Sequence up to which rows are candidates."""
    past: history.Past
    explanation: explaining.Explanation
    served: assemble.Served
    online: Copy


class Explainer:
    """Explains values from the history and the online store."""

    def __init__(
        self,
        store: ports.HistoryStore,
        online_store: ports.OnlineStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
    ) -> None:
        """Uses the stores and the known definitions."""
        self._store = store
        self._online = online_store
        self._known = known
        self._clock = clock

    async def explain(
        self, question: Question, entity: Columns, upto: int | None = None
    ) -> Explained:
        """Explains one value.

        Args:
            question: Which value.
            entity: One row with the keys.
            upto: Only rows with sequences up to this one; None means all that there are now.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND, FEATURE_VIEW_NOT_FOUND.
            InvalidArgumentError: A column, field or key is missing or of another type.
            OutOfRangeError: HISTORY_REMOVED, when rows that were known at the time are gone.
            UnavailableError: HISTORY_REMOVED, when rows up to `upto` gave way to later ones.
        """
        if entity.rows != 1:
            raise errors.invalid(f"{_FIELD}.rows", entity.rows, "must be 1")
        view, field, keys = await self._find(question)
        aggregating.refuse(view.view, "view" if question.view else "column")
        key = view.codec.encode(entity, keys, _FIELD)[0]
        time = question.time or self._clock.now_us()
        if upto is None:
            upto = (await self._store.last_sequences()).get(view.number, 0)
        rule = visibility.Rule.of(view.view, arrival=question.arrival)
        past = await self._past(view, rule, key, upto)
        kept = await self._store.retained()
        since = retention.complete_from(view, (), kept)
        if since is not None and time < since:
            raise retention.removed(view.view.name, "time", time, since)
        retention.check_reach(view, upto, kept)
        found = await asyncio.to_thread(explaining.explain, past, time)
        served = explaining.served(past, field, time)
        copy = await self._copy(view, field, key, time, past, found)
        return Explained(view, field, time, upto, past, found, served, copy)

    async def _find(self, question: Question) -> tuple[plan.CompiledView, int, Mapping[str, str]]:
        """Returns the view and the field that are asked about, and where the keys stand."""
        if not question.feature_set:
            view = await self._known.find(
                lambda found: found.view(question.view, question.view_version)
            )
            return view, _field(view, question.field, "field"), {}
        compiled = await self._known.find(
            lambda found: found.plan(question.feature_set, question.version)
        )
        for group in compiled.groups:
            for field, place in zip(group.fields, group.places, strict=True):
                if compiled.columns[place] == question.column:
                    return group.view, field, group.key_columns
        rule = f"must be a feature of the set {question.feature_set} that a view holds"
        raise errors.invalid("column", question.column, rule, errors.Reason.UNKNOWN_FIELD)

    async def _past(
        self, view: plan.CompiledView, rule: visibility.Rule, key: bytes | None, upto: int
    ) -> history.Past:
        if key is None or upto == 0:
            return history.Past(view, rule, np.zeros(0, np.int64), [])
        found = await self._store.read_keys(view.number, [key], upto)
        return await asyncio.to_thread(history.Past, view, rule, found.keys, [found.rows])

    async def _copy(
        self,
        view: plan.CompiledView,
        field: int,
        key: bytes | None,
        time: int,
        past: history.Past,
        found: explaining.Explanation,
    ) -> Copy:
        if key is None:
            return Copy(problem="a null key matches nothing")
        version = view.view.version
        try:
            (copies,) = await self._online.read([ports.Lookup(version, [key])])
        except errors.UnavailableError as error:
            return Copy(problem=error.message)
        if copies.mark is None and len(past.rows):
            return Copy(problem="the online copy of the view is being rebuilt")
        times = np.full(1, time, np.int64)
        winners = online.judge(view, copies.values, np.zeros(1, np.intp), times)
        served = assemble.serve(explaining.single(view, field), 1, [winners])
        (stored,) = copies.values
        if stored is None:
            return Copy(served=served, is_greatest=len(past.rows) == 0)
        place = online.HEADER.unpack_from(stored)
        (column,) = view.layout.unpack(winners.data, winners.starts, (field,))
        return Copy("", place, column.item(0), place == _greatest(past, found), served)


def _field(view: plan.CompiledView, name: str, path: str) -> int:
    field = view.view.field_index(name)
    if field is None:
        rule = f"must be a field of the view {view.view.name}"
        raise errors.invalid(path, name, rule, errors.Reason.UNKNOWN_FIELD)
    return field


def _greatest(past: history.Past, found: explaining.Explanation) -> tuple[int, int, int] | None:
    if not len(found.order):
        return None
    rows, first = past.rows, int(found.order[0])
    return int(rows.event_times[first]), int(rows.created_times[first]), int(rows.sequences[first])
