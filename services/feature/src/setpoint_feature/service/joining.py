"""Offline reads: the point-in-time join over a streamed spine."""

import asyncio
import functools
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
    retention,
    training_set,
    visibility,
)
from setpoint_feature.service import apart, event_reading, snapshot, view_history
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
        store: ports.HistoryStore,
        sources: Mapping[int, _Source],
        last: Mapping[int, int],
        threads: apart.Threads,
    ) -> None:
        """Prepares; made by `HistoricalReader`."""
        self._threads = threads
        self._ask = ask
        self._compiled = compiled
        self._store = store
        self._sources = sources
        self._last = last

    @property
    def sequences(self) -> tuple[training_set.ViewSequence, ...]:
        """How far the history of each view reaches, of an aggregate view that of its events."""
        views = {group.view.number: group.view for group in self._compiled.groups}
        return tuple(
            training_set.ViewSequence(
                each.view.name, each.view.version, self._last.get(each.stream, 0)
            )
            for each in views.values()
        )

    @property
    def feature_set(self) -> definitions.FeatureSet:
        """The exact set that is read."""
        return self._compiled.feature_set

    async def piece(self, spine: Columns) -> assemble.Served:
        """Returns the features of one piece of the spine, row by row.

        Raises:
            InvalidArgumentError: The piece lacks its time column or a key, or is too large.
            OutOfRangeError: HISTORY_REMOVED, when retention has removed what a row of it may be about.
            UnavailableError: HISTORY_REMOVED, when it did so while the stream was read; TRANSFORMATION_STUCK,
                when too many calls of the transformations have not returned.
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
        await self._check_retention(times)
        served = await asyncio.to_thread(assemble.serve, self._compiled, spine.rows, winners)
        if recipe is None or given is None:
            return served
        # What is learned from must not depend on which rows came together.
        work = functools.partial(derived.derive, recipe, served, given, is_checked=True)
        return await self._threads.run(recipe, work)

    async def _check_retention(self, times: visibility.Times) -> None:
        """Refuses a piece that was read, where rows may have been gone by then, whoever removed them."""
        kept = await self._store.retained()
        field = f"{_FIELD}.{self._ask.time_column}"
        for group in self._compiled.groups:
            retention.check(group.view, group.fields, times, kept, field)
            retention.check_reach(group.view, self._last.get(group.view.stream, 0), kept)


class HistoricalReader:
    """Answers from the history."""

    def __init__(
        self,
        store: ports.HistoryStore,
        known: snapshot.Snapshot,
        whole_rows: int,
        threads: apart.Threads,
    ) -> None:
        """Prepares; a join keeps at most `whole_rows` recent rows of its views in memory."""
        self._threads = threads
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
        return Join(ask, compiled, self._store, sources, last, self._threads)

    async def scan(
        self, view_name: str, start: int | None, end: int, known_at: int
    ) -> AsyncIterator[tuple[plan.CompiledView, history.NamedRows]]:
        """Yields the stored rows of a view whose event times lie in a range, in their order.

        Args:
            view_name: Name of the view; its latest version is read.
            start: First event time; None means all rows that there are.
            end: First event time that is not wanted.
            known_at: Only rows known by then.

        Raises:
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
            OutOfRangeError: HISTORY_REMOVED, when retention has removed rows from `start` on.
        """
        view = await self._known.find(lambda found: found.view(view_name))
        aggregating.refuse(view.view, "view")
        upto = (await self._store.last_sequences()).get(view.number, 0)
        latest_event = view.rule.last_event(known_at)
        first = visibility.EARLIEST if start is None else start
        scan = ports.Scan(first, min(end, latest_event + 1), known_at, upto)
        pages = self._store.scan(view.number, scan, SCAN_ROWS)
        async for page in pages:
            if start is not None:
                await self._check_start(view, start)
            yield view, page
        if start is not None:
            await self._check_start(view, start)

    async def _check_start(self, view: plan.CompiledView, start: int) -> None:
        """Refuses rows that were read, where some of the first may have been gone by then."""
        retained = (await self._store.retained()).get(view.number)
        if retained is None:
            return
        since = retention.last_removed(view.view, retained) + 1
        if start < since:
            raise retention.removed(view.view.name, "range.start_time", start, since)


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
