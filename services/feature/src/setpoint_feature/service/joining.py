"""Offline reads: the point-in-time join over a streamed spine."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_columns import Columns, DataType
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregating,
    assemble,
    definitions,
    derived,
    history,
    plan,
    training_set,
    visibility,
)
from setpoint_feature.service import event_reading, snapshot, view_history
from setpoint_runtime import errors

MAX_ROWS: Final = 100_000
SCAN_ROWS: Final = 20_000
"""Rows of a scan read at once."""
CACHED_ROWS: Final = 500_000
"""Recent rows of all views that stay in memory between joins."""
_FIELD: Final = "spine"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a stream asks for."""

    feature_set: str
    version: str
    time_column: str
    arrival: bool
    """False joins as of event time alone."""


_Source = view_history.ViewHistory | event_reading.EventSource


class Join:
    """One stream's join: every piece sees the history as it was when the stream began."""

    def __init__(
        self,
        ask: Ask,
        compiled: plan.Plan,
        sources: Mapping[int, _Source],
        sequences: tuple[training_set.ViewSequence, ...],
    ) -> None:
        """Prepares; made by `HistoricalReader`."""
        self._ask = ask
        self._compiled = compiled
        self._sources = sources
        self.sequences = sequences
        """How far the history of each view reaches, of an aggregate view that of its events."""

    @property
    def feature_set(self) -> definitions.FeatureSet:
        """The exact set that is read."""
        return self._compiled.feature_set

    async def piece(self, spine: Columns) -> assemble.Served:
        """Returns the features of one piece of the spine, row by row.

        Raises:
            InvalidArgumentError: The piece lacks its time column or a key, or is too large.
        """
        if spine.rows > MAX_ROWS:
            rule = f"must be at most {MAX_ROWS}"
            raise errors.invalid(f"{_FIELD}.rows", spine.rows, rule, errors.Reason.TOO_LARGE)
        times = spine_times(spine, self._ask.time_column, _FIELD)
        recipe = self._compiled.recipe
        given = None if recipe is None else recipe.given(spine, _FIELD)
        winners = [
            await self._sources[group.view.number].join(group, spine, times)
            for group in self._compiled.groups
        ]
        served = await asyncio.to_thread(assemble.serve, self._compiled, spine.rows, winners)
        if recipe is None or given is None:
            return served
        # What is learned from must not depend on which rows came together.
        return await asyncio.to_thread(derived.derive, recipe, served, given, is_checked=True)


class HistoricalReader:
    """Answers from the history."""

    def __init__(
        self, store: ports.HistoryStore, known: snapshot.Snapshot, whole_rows: int
    ) -> None:
        """Prepares; a join keeps at most `whole_rows` recent rows of its views in memory."""
        self._store = store
        self._known = known
        self._whole_rows = whole_rows
        self._tails = view_history.Tails(CACHED_ROWS)

    async def begin(self, ask: Ask) -> Join:
        """Begins a join over the history as it stands now.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
        """
        compiled = await self._known.find(lambda found: found.plan(ask.feature_set, ask.version))
        last = await self._store.last_sequences()
        views = {group.view.number: group.view for group in compiled.groups}
        budget = view_history.Budget(self._whole_rows)
        sources: dict[int, _Source] = {}
        for number, view in views.items():
            upto = last.get(view.stream, 0)
            if view.blueprint is not None:
                source = event_reading.EventSource(self._store, view, upto, arrival=ask.arrival)
                sources[number] = source
            else:
                rule = visibility.Rule.of(view.view, arrival=ask.arrival)
                sources[number] = view_history.ViewHistory(
                    self._store, view, upto, rule, (budget, self._tails)
                )
        sequences = tuple(
            training_set.ViewSequence(view.view.name, view.view.version, last.get(view.stream, 0))
            for view in views.values()
        )
        return Join(ask, compiled, sources, sequences)

    async def scan(
        self, view_name: str, start: int, end: int, known_at: int
    ) -> AsyncIterator[tuple[plan.CompiledView, history.NamedRows]]:
        """Yields the stored rows of a view whose event times lie in a range, in their order.

        Args:
            view_name: Name of the view; its latest version is read.
            start: First event time.
            end: First event time that is not wanted.
            known_at: Only rows known by then.

        Raises:
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
        """
        view = await self._known.find(lambda found: found.view(view_name))
        aggregating.refuse(view.view, "view")
        upto = (await self._store.last_sequences()).get(view.number, 0)
        latest_event = known_at - 1 if view.rule.exclusive else known_at
        scan = ports.Scan(start, min(end, latest_event + 1), known_at, upto)
        async for page in self._store.scan(view.number, scan, SCAN_ROWS):
            yield view, page


def spine_times(table: Columns, name: str, field: str) -> visibility.Times:
    """Returns the time of each row of a table.

    Raises:
        InvalidArgumentError: The column is absent, of another type, or has a null.
    """
    column = table.by_name.get(name)
    path = f"{field}.{name}"
    if column is None:
        raise errors.invalid(
            path, None, "must be a column with each row's time", errors.Reason.MISSING_FIELD
        )
    if column.dtype is not DataType.TIMESTAMP:
        raise errors.invalid(path, column.dtype.name, "must be TIMESTAMP", errors.Reason.WRONG_TYPE)
    if column.validity is not None:
        row = int(np.flatnonzero(~column.validity)[0])
        raise errors.invalid(f"{path}[{row}]", None, "must not be null", errors.Reason.NULL_REFUSED)
    return column.values
