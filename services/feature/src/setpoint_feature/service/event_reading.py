"""The history of a source view, read as events of an aggregate view."""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import blueprint, events, history, plan, visibility, windows

PAGE_ROWS: Final = 50_000
SCAN_ROWS: Final = 20_000
SINGLE_TIMES: Final = 4
"""So many different times are looked up one by one; for more the history is read once, as a whole."""
_FIELD: Final = "spine"


class EventReader:
    """Reads events."""

    def __init__(self, store: ports.HistoryStore) -> None:
        """Reads from a history."""
        self._store = store

    async def read_all(self, view: plan.CompiledView, upto: int, rule: visibility.Rule) -> "Past":
        """Returns all events of an aggregate view, up to a sequence of its source."""
        made = blueprint_of(view)
        past = Past(made, rule)
        for after in range(0, upto, PAGE_ROWS):
            page = await self._store.read_sequences(
                view.stream, after, min(after + PAGE_ROWS, upto)
            )
            await asyncio.to_thread(past.add, page)
        await asyncio.to_thread(past.close)
        return past

    async def read_known(
        self, view: plan.CompiledView, start: int, end: int, known_at: int, upto: int
    ) -> history.NamedRows:
        """Returns the winning version of each event in [start, end), as known at a time."""
        scan = ports.Scan(start, end, known_at, upto)
        pages = self._store.scan(view.stream, scan, SCAN_ROWS)
        return history.concat_named([page async for page in pages])

    async def answer(
        self,
        group: plan.Group,
        keys: Sequence[bytes],
        rows: npt.NDArray[np.intp],
        times: visibility.Times,
    ) -> blueprint.Computed:
        """Returns what the history answers for some groups; `rows` are positions among the keys."""
        view = group.view
        made = blueprint_of(view)
        moments = np.unique(times)
        if len(moments) > SINGLE_TIMES:
            upto = (await self._store.last_sequences()).get(view.stream, 0)
            past = await self.read_all(view, upto, view.rule)
            numbers = np.append(past.groups_of(keys), -1)[rows]
            return await asyncio.to_thread(past.answer, group.fields, numbers, times)
        numbers_of = {key: number for number, key in enumerate(keys)}
        if not len(moments):
            moments = np.zeros(1, np.int64)
        parts = []
        for moment in moments.tolist():
            end = moment if view.rule.exclusive else min(moment + 1, blueprint.LATEST)
            start = max(moment - made.span, blueprint.EARLIEST)
            page = await self.read_known(view, start, end, moment, blueprint.LATEST)
            found = await asyncio.to_thread(known_events, made, page, numbers_of, view.rule)
            # Only this moment may see what was known at it.
            at = np.where(times == moment, rows, -1)
            parts.append((moment, found, at))
        return await asyncio.to_thread(_join_moments, made, group.fields, parts, rows, times)


class Past:
    """All events of an aggregate view."""

    def __init__(self, made: blueprint.Blueprint, rule: visibility.Rule) -> None:
        """Starts empty; `add` takes the rows in and `close` makes them answer."""
        self._blueprint = made
        self._rule = rule
        self._groups = history.KeyNumbers()
        self._numbers: list[npt.NDArray[np.int64]] = []
        self._entities: list[npt.NDArray[np.int64]] = []
        self._rows: list[history.StoredRows] = []
        self._columns: list[Columns] = []
        self._events: events.Events | None = None

    def add(self, page: history.NamedRows) -> None:
        """Takes rows in; of their values only those that are needed stay."""
        rows = events.Rows(entity_numbers(page.keys), page.rows, page.keys)
        chosen = np.arange(len(rows))
        keys = events.group_keys(self._blueprint, rows, chosen)
        self._numbers.append(
            np.array(
                [-1 if key is None else self._groups.assign([key])[0] for key in keys], np.int64
            )
        )
        self._entities.append(rows.entities)
        self._rows.append(history.without_values(page.rows))
        self._columns.append(
            Columns(len(rows), events.columns(self._blueprint, rows, chosen).values())
        )

    def close(self) -> None:
        """Makes events of all rows."""
        stored = history.concat(self._rows)
        entities = np.concatenate([np.zeros(0, np.int64), *self._entities])
        lives = events.lifetimes(events.Rows(entities, stored), self._rule)
        groups = np.concatenate([np.zeros(0, np.int64), *self._numbers])
        joined = Columns.concat(self._columns) if self._columns else Columns(0)
        fields = self._blueprint.source_fields
        named = zip(fields, joined.columns, strict=False)
        all_of_them = events.Events(
            groups,
            stored.event_times,
            stored.created_times,
            stored.sequences,
            lives[0],
            lives[1],
            dict(named),
        )
        self._events = all_of_them.take((groups >= 0) & (lives[0] < lives[1]))
        self._rows, self._columns, self._numbers, self._entities = [], [], [], []

    def groups_of(self, keys: Sequence[bytes | None]) -> npt.NDArray[np.int64]:
        """Returns the number of each group; one for all that have no event, -1 for null."""
        numbers = self._groups.find(keys)
        nothing = len(self._groups)
        return np.array(
            [
                nothing if number < 0 and key is not None else number
                for key, number in zip(keys, numbers.tolist(), strict=True)
            ],
            np.int64,
        )

    def answer(
        self, fields: Sequence[int], groups: npt.NDArray[np.int64], times: visibility.Times
    ) -> blueprint.Computed:
        """Returns what the events answer for each (group, T)."""
        if self._events is None:
            raise AssertionError("closed before it answers")
        found = self._events
        if len(times):
            asked = np.zeros(len(self._groups) + 1, np.bool_)
            asked[groups[groups >= 0]] = True
            since = max(int(times.min()) - self._blueprint.span, blueprint.EARLIEST)
            found = found.take(
                asked[found.groups]
                & (found.event_times >= since)
                & (found.starts <= times.max())
                & (found.stops > times.min())
            )
        return windows.answer(self._blueprint, fields, found, groups, times)


class EventSource:
    """The events of one aggregate view, for the pieces of one stream."""

    def __init__(
        self, store: ports.HistoryStore, view: plan.CompiledView, upto: int, *, arrival: bool
    ) -> None:
        """Prepares; the first piece reads the events."""
        self._reader = EventReader(store)
        self._view = view
        self._upto = upto
        self._rule = visibility.Rule.of(view.view, arrival=arrival)
        self._past: Past | None = None

    async def join(
        self, group: plan.Group, spine: Columns, times: visibility.Times
    ) -> blueprint.Computed:
        """Returns what the history answers for each row of a piece, looked up by a group's key."""
        keys = await asyncio.to_thread(self._view.codec.encode, spine, group.key_columns, _FIELD)
        if self._past is None:
            self._past = await self._reader.read_all(self._view, self._upto, self._rule)
        past = self._past
        return await asyncio.to_thread(
            lambda: past.answer(group.fields, past.groups_of(keys), times)
        )


def blueprint_of(view: plan.CompiledView) -> blueprint.Blueprint:
    """Returns how an aggregate view is computed."""
    if view.blueprint is None:
        raise AssertionError("only aggregate views are computed from events")
    return view.blueprint


def entity_numbers(keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Returns a number for each key, the same in every page.

    Versions of an event are told by it and by their event time to the microsecond, so two events would have
    to share 64 bits of hash and their time to be taken for one.
    """
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, keys), np.uint64, len(keys)).astype(np.int64)


def known_events(
    made: blueprint.Blueprint,
    page: history.NamedRows,
    numbers_of: dict[bytes, int],
    rule: visibility.Rule,
) -> events.Events:
    """Returns winning versions as events of some groups, by the groups' numbers."""
    rows = events.Rows(np.arange(len(page.keys)), page.rows, page.keys)
    chosen = np.arange(len(rows))
    keys = events.group_keys(made, rows, chosen)
    groups = np.array([-1 if key is None else numbers_of.get(key, -1) for key in keys], np.int64)
    return events.collect(made, rows, events.lifetimes(rows, rule), chosen, groups)


def _join_moments(
    made: blueprint.Blueprint,
    fields: Sequence[int],
    parts: Sequence[tuple[int, events.Events, npt.NDArray[np.intp]]],
    rows: npt.NDArray[np.intp],
    times: visibility.Times,
) -> blueprint.Computed:
    """Returns the answers of several moments, each from the events known at it, in the rows' order."""
    # Groups of different moments are different groups.
    step = int(rows.max(initial=0)) + 1
    groups = np.full(len(rows), -1, np.int64)
    shifted = []
    for number, (_, found, at) in enumerate(parts):
        groups[at >= 0] = at[at >= 0] + number * step
        shifted.append(found.shifted(number * step))
    return windows.answer(made, fields, events.concat(shifted), groups, times)
