"""Keeps the online states of aggregate views current with the rows of their sources.

States follow the source's sequences, like every online copy: each says up to which one it is complete, the
view's watermark says it for all, and what is behind is read from the history in order. A state that has
more replaces one that has less, so batches that are applied twice, or by two replicas, count once.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_feature import ports
from setpoint_feature.domain import (
    batch,
    blueprint,
    events,
    history,
    plan,
    tiles,
    updating,
    visibility,
)
from setpoint_feature.service import event_reading, snapshot
from setpoint_runtime import errors

PAGE_ROWS: Final = 5_000
"""Rows of a source applied at once."""
SOON_ROWS: Final = 20_000
"""A writer makes up for so many rows itself; the task that catches up does the rest."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Page:
    """New rows of a source with all other versions of the same events."""

    rows: events.Rows
    groups: list[bytes | None]


class Aggregates:
    """Brings states up to date."""

    def __init__(
        self,
        history_store: ports.HistoryStore,
        online_store: ports.OnlineStore,
        known: snapshot.Snapshot,
    ) -> None:
        """Uses the history and the online store."""
        self._history = history_store
        self._events = event_reading.EventReader(history_store)
        self._online = online_store
        self._known = known

    async def wrote(self, source: int, first: int, rows: batch.Batch) -> bool:
        """Follows a batch of a source that is durable; returns whether all states are up to date.

        Args:
            source: Number of the source.
            first: Sequence of its first row.
            rows: The rows.

        Raises:
            UnavailableError: The history or the online store cannot be reached.
        """
        views = self._known.catalog.aggregates_of(source)
        if not views or not len(rows):
            return True
        last = first + len(rows) - 1
        marks = await self._online.watermarks([view.view.version for view in views])
        complete = True
        for view, mark in zip(views, marks, strict=True):
            known = 0 if mark is None and first == 1 else mark
            if known is None or first - known > SOON_ROWS:
                # States are being rebuilt, or far behind: the task that catches up is on its way.
                complete = False
                continue
            try:
                if known == first - 1 and len(rows) <= PAGE_ROWS:
                    values = await self._states(view, known, last, rows.keys, rows.event_times)
                    await self._online.apply(view.view.version, values, known, last)
                else:
                    await self.follow(view, known, last)
            except errors.DataLossError as error:
                # The batch is durable, and its writer can do nothing about a damaged segment.
                _LOGGER.error("windows of %s cannot follow: %s", view.view.name, error)
                complete = False
        return complete

    async def follow(self, view: plan.CompiledView, mark: int, last: int) -> None:
        """Applies the rows of the source after one sequence and up to another."""
        while mark < last:
            upto = min(mark + PAGE_ROWS, last)
            values = await self._page(view, mark, upto)
            await self._online.apply(view.view.version, values, mark, upto)
            mark = upto

    async def rebuild(self, view: plan.CompiledView, last: int) -> None:
        """Makes all states from the history; the watermark appears with the last of them."""
        version = view.view.version
        begun = await self._online.begin(version)
        for mark in range(0, last, PAGE_ROWS):
            values = await self._page(view, mark, min(mark + PAGE_ROWS, last))
            await self._online.apply(version, values, -1, -1)
        await self._online.finish(version, begun, last)

    async def _page(self, view: plan.CompiledView, mark: int, upto: int) -> dict[bytes, bytes]:
        """Returns the new states of the groups that some rows of the history concern."""
        found = await self._history.read_sequences(view.stream, mark, upto)
        if not found.keys:
            return {}
        return await self._states(view, mark, upto, found.keys, found.rows.event_times)

    async def _states(
        self,
        view: plan.CompiledView,
        mark: int,
        upto: int,
        entities: Sequence[bytes],
        event_times: visibility.Times,
    ) -> dict[bytes, bytes]:
        """Returns the new states of the groups that some events concern."""
        made = event_reading.blueprint_of(view)
        versions = await self._versions(view, entities, event_times, upto)
        groups = await asyncio.to_thread(
            events.group_keys, made, versions, np.arange(len(versions))
        )
        keys = list(dict.fromkeys(key for key in groups if key is not None))
        (copies,) = await self._online.read([ports.Lookup(view.view.version, keys)])
        update, current = await asyncio.to_thread(
            _begin, view, _Page(versions, groups), keys, copies.values, mark, upto
        )
        numbers = {key: number for number, key in enumerate(keys)}
        parts = [
            await asyncio.to_thread(
                event_reading.known_events,
                made,
                await self._events.read_known(view, start, end, blueprint.LATEST, upto),
                numbers,
                view.rule,
            )
            for start, end in update.wanted
        ]
        if parts:
            await asyncio.to_thread(update.refill, parts)
        values = await asyncio.to_thread(update.finish, upto)
        return {
            key: value
            for key, value, is_current in zip(keys, values, current, strict=True)
            if not is_current
        }

    async def _versions(
        self,
        view: plan.CompiledView,
        entities: Sequence[bytes],
        event_times: visibility.Times,
        upto: int,
    ) -> events.Rows:
        """Returns all versions of some events."""
        keys = list(dict.fromkeys(entities))
        numbers_of = {key: number for number, key in enumerate(keys)}
        numbers = np.fromiter(map(numbers_of.__getitem__, entities), np.int64, len(entities))
        pairs = np.unique(np.stack([numbers, event_times]), axis=1)
        others = await self._history.read_versions(view.stream, keys, (pairs[0], pairs[1]), upto)
        return await asyncio.to_thread(_same_events, keys, pairs, others)


def _same_events(
    keys: Sequence[bytes], pairs: npt.NDArray[np.int64], others: history.NumberedRows
) -> events.Rows:
    """Returns those of a few entities' rows that are versions of some events."""
    moments = np.unique(pairs[1])
    wanted = pairs[0] * len(moments) + np.searchsorted(moments, pairs[1])
    at = np.minimum(np.searchsorted(moments, others.rows.event_times), len(moments) - 1)
    same = moments[at] == others.rows.event_times
    same &= np.isin(others.keys * len(moments) + at, wanted)
    chosen = np.flatnonzero(same)
    names = [keys[number] for number in others.keys[chosen].tolist()]
    return events.Rows(others.keys[chosen], history.chosen(others.rows, chosen), names)


def _begin(
    view: plan.CompiledView,
    page: _Page,
    keys: Sequence[bytes],
    values: Sequence[bytes | None],
    mark: int,
    upto: int,
) -> tuple[updating.Update, npt.NDArray[np.bool_]]:
    """Puts a page into states; also tells which of these have seen it already."""
    made = event_reading.blueprint_of(view)
    parts = tiles.tables(made)
    states = tiles.unpack(parts, values)
    current = states.applied >= upto
    # Up to the watermark every state is complete, whatever it names itself.
    seen = np.maximum(states.applied, mark)
    numbers = {key: number for number, key in enumerate(keys)}
    groups = np.array([-1 if key is None else numbers[key] for key in page.groups], np.int64)
    starts, after = events.lifetimes(page.rows, view.rule)
    sequences = page.rows.stored.sequences
    seen_of = np.append(seen, 0)[groups]
    before = np.full(len(page.rows), blueprint.EARLIEST, np.int64)
    for limit in np.unique(seen_of).tolist():
        old = np.flatnonzero(sequences <= limit)
        _, stops = events.lifetimes(page.rows.take(old), view.rule)
        at = seen_of[old] == limit
        before[old[at]] = stops[at]
    concerned = groups >= 0
    concerned[concerned] = ~current[groups[concerned]]
    is_new = sequences > seen_of
    added = np.flatnonzero(concerned & is_new & (starts < after))
    ended = np.flatnonzero(concerned & ~is_new & (starts < before) & (after < before))
    lives = starts, after
    update = updating.Update(
        parts,
        states,
        events.collect(made, page.rows, lives, added, groups[added]),
        events.collect(made, page.rows, lives, ended, groups[ended]),
    )
    return update, current
