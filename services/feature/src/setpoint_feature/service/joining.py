"""Offline reads: the point-in-time join over a streamed spine."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
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
    visibility,
)
from setpoint_feature.service import event_reading, snapshot
from setpoint_runtime import errors

MAX_ROWS: Final = 100_000
PAGE_ROWS: Final = 50_000
"""Rows of history read at once."""
SCAN_ROWS: Final = 20_000
"""Rows of a scan read at once."""
KEYS_AT_ONCE: Final = 5_000
FEW_ROWS: Final = 20_000
"""A view of this many rows is read whole, however small the spine."""
ROWS_PER_SPINE_ROW: Final = 20
"""Reading a row in the order of the history costs about a twentieth of a look-up by key."""
_FIELD: Final = "spine"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a stream asks for."""

    feature_set: str
    version: str
    time_column: str
    arrival: bool
    """False joins as of event time alone."""


class _Source:
    """The history of one view, for the pieces of one stream."""

    def __init__(
        self,
        store: ports.HistoryStore,
        view: plan.CompiledView,
        upto: int,
        *,
        arrival: bool,
        may_keep: bool,
    ) -> None:
        self._store = store
        self._view = view
        self._upto = upto
        self._rule = visibility.Rule.of(view.view, arrival=arrival)
        self._may_keep = may_keep
        self._read = 0
        self._numbers = history.KeyNumbers()
        self._past: history.Past | None = None

    async def join(
        self, group: plan.Group, spine: Columns, times: visibility.Times
    ) -> assemble.Winners:
        """Returns what the history answers for each row of a piece, looked up by a group's key."""
        keys = await asyncio.to_thread(self._view.codec.encode, spine, group.key_columns, _FIELD)
        if self._past is None and self._is_worth_keeping(spine.rows):
            self._past = await self._load()
        if self._past is not None:
            past, numbers = self._past, self._numbers
        else:
            past, numbers = await self._load_window(keys, times)
        return await asyncio.to_thread(lambda: assemble.join(past, numbers.find(keys), times))

    def _is_worth_keeping(self, rows: int) -> bool:
        """Tells whether to read the whole view once rather than a part of it for each piece."""
        few = self._upto <= max(FEW_ROWS, rows * ROWS_PER_SPINE_ROW)
        return self._may_keep and (few or self._read > self._upto // 2)

    async def _load(self) -> history.Past:
        """Reads the whole history of the view, which is small enough to keep."""
        parts = []
        key_numbers = []
        for after in range(0, self._upto, PAGE_ROWS):
            page = await self._store.read_sequences(
                self._view.number, after, min(after + PAGE_ROWS, self._upto)
            )
            parts.append(page.rows)
            key_numbers.append(await asyncio.to_thread(self._numbers.assign, page.keys))
        return await asyncio.to_thread(self._past_of, key_numbers, parts)

    async def _load_window(
        self, keys: Sequence[bytes | None], times: visibility.Times
    ) -> tuple[history.Past, history.KeyNumbers]:
        """Reads what the rows of one piece can see, for their keys alone."""
        numbers = history.KeyNumbers()
        wanted = list(dict.fromkeys(key for key in keys if key is not None))
        numbers.assign(wanted)
        parts = []
        key_numbers = []
        if len(times):
            window = ports.Window(
                int(times.min()),
                int(times.max()),
                self._upto,
                self._rule.exclusive,
                self._rule.arrival,
            )
            for start in range(0, len(wanted), KEYS_AT_ONCE):
                some = wanted[start : start + KEYS_AT_ONCE]
                page = await self._store.read_window(self._view.number, some, window)
                parts.append(page.rows)
                key_numbers.append(page.keys + start)
                self._read += len(page.rows)
        return await asyncio.to_thread(self._past_of, key_numbers, parts), numbers

    def _past_of(
        self, key_numbers: Sequence[visibility.Times], parts: Sequence[history.StoredRows]
    ) -> history.Past:
        joined = np.concatenate(key_numbers) if key_numbers else np.zeros(0, np.int64)
        return history.Past(self._view, self._rule, joined, parts)


_AnySource = _Source | event_reading.EventSource


class Join:
    """One stream's join: every piece sees the history as it was when the stream began."""

    def __init__(self, ask: Ask, compiled: plan.Plan, sources: Mapping[int, _AnySource]) -> None:
        """Prepares; made by `HistoricalReader`."""
        self._ask = ask
        self._compiled = compiled
        self._sources = sources

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
        """Prepares; a stream keeps views of at most `whole_rows` rows together in memory."""
        self._store = store
        self._known = known
        self._whole_rows = whole_rows

    async def begin(self, ask: Ask) -> Join:
        """Begins a join over the history as it stands now.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
        """
        compiled = await self._known.find(lambda found: found.plan(ask.feature_set, ask.version))
        last = await self._store.last_sequences()
        views = {group.view.number: group.view for group in compiled.groups}
        stored = {number: view for number, view in views.items() if view.blueprint is None}
        kept = _affordable({number: last.get(number, 0) for number in stored}, self._whole_rows)
        sources: dict[int, _AnySource] = {
            number: event_reading.EventSource(
                self._store, view, last.get(view.stream, 0), arrival=ask.arrival
            )
            for number, view in views.items()
            if view.blueprint is not None
        }
        sources |= {
            number: _Source(
                self._store,
                view,
                last.get(number, 0),
                arrival=ask.arrival,
                may_keep=number in kept,
            )
            for number, view in stored.items()
        }
        return Join(ask, compiled, sources)

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


def _affordable(rows: Mapping[int, int], budget: int) -> set[int]:
    """Returns the views that may be kept in memory at the same time, small ones first."""
    kept = set()
    for number in sorted(rows, key=rows.__getitem__):
        budget -= rows[number]
        if budget < 0:
            break
        kept.add(number)
    return kept


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
