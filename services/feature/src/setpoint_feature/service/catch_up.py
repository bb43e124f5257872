"""The owned task that keeps this process and the online store current.

The online store says up to which sequence each view is complete. Rows above are applied in order. A
store that knows nothing of a view was wiped or is new: it is rebuilt from the greatest row of each
key, and its watermark appears only with the last of them.
"""

import asyncio
import logging
from typing import Final

import numpy as np

from setpoint_feature import ports
from setpoint_feature.domain import history, online, plan, point_in_time
from setpoint_feature.service import aggregates, snapshot, writing
from setpoint_runtime import errors

APPLY_ROWS: Final = 5_000
"""Rows read and applied at once."""

_LOGGER = logging.getLogger(__name__)


class CatchUp:
    """Finds views whose online copies lag behind and repairs them."""

    def __init__(
        self,
        history_store: ports.HistoryStore,
        online_store: ports.OnlineStore,
        known: snapshot.Snapshot,
        writer: writing.Writer,
        poll_seconds: float,
    ) -> None:
        """Prepares; `run` does the work."""
        self._history = history_store
        self._online = online_store
        self._known = known
        self._writer = writer
        self._aggregates = aggregates.Aggregates(history_store, online_store, known)
        self._poll_seconds = poll_seconds
        self._seen: dict[int, int | None] = {}
        self._is_failing = False
        self._failing: set[int] = set()
        """Views that could not be repaired at the last try."""
        self.lag: dict[str, int] = {}
        """Rows that the online copy of each view lacks, as of the last look."""

    async def run(self) -> None:
        """Looks again and again, for as long as the process lives."""
        while True:
            await self.tick()
            _end_if_cancelled()
            await asyncio.sleep(self._poll_seconds)

    async def tick(self) -> None:
        """Looks once; what is out of reach is tried again at the next look."""
        try:
            await self._known.refresh()
            await self._repair_all(patient=True)
        except errors.UnavailableError as error:
            if not self._is_failing:
                _LOGGER.warning("online copies cannot be checked: %s", error)
            self._is_failing = True
        else:
            if self._is_failing:
                _LOGGER.info("online copies are checked again")
            self._is_failing = False

    async def repair(self) -> None:
        """Brings every online copy up to date now.

        Raises:
            UnavailableError: The database or the online store cannot be reached.
            DataLossError: SEGMENT_DAMAGED.
        """
        await self._known.refresh()
        await self._repair_all(patient=False)

    async def _repair_all(self, *, patient: bool) -> None:
        views = self._known.catalog.compiled_views()
        marks = await self._online.watermarks([view.view.version for view in views])
        for view, mark in zip(views, marks, strict=True):
            last = self._known.last_sequences.get(view.stream, 0)
            self.lag[f"{view.view.name}@{view.view.version}"] = max(0, last - (mark or 0))
            if last <= (mark or 0):
                self._seen.pop(view.number, None)
                continue
            # Most lags are writes on their way, here or in another replica; they move by themselves. Where
            # something is missing nothing moves, however much is written: no batch joins on to it.
            is_stuck = view.number in self._seen and self._seen[view.number] == mark
            self._seen[view.number] = mark
            if patient and not is_stuck:
                continue
            try:
                await self._repair(view, mark, last)
            except (errors.UnavailableError, errors.DataLossError) as error:
                if not patient:
                    raise
                # A damaged segment of one view is no reason to leave the others behind, or to end the process.
                if view.number not in self._failing:
                    _LOGGER.error("online copy of %s cannot catch up: %s", view.view.name, error)
                self._failing.add(view.number)
            else:
                self._failing.discard(view.number)

    async def _repair(self, view: plan.CompiledView, mark: int | None, last: int) -> None:
        name = view.view.name
        if view.number not in self._failing:
            _LOGGER.info("online copy of %s lags: it has seen %s of %s rows", name, mark, last)
        if view.blueprint is not None and mark is None:
            await self._aggregates.rebuild(view, last)
        elif view.blueprint is not None:
            await self._aggregates.follow(view, mark or 0, last)
        else:
            if mark is None:
                await self._rebuild(view, last)
            else:
                await self._follow(view, mark, last)
            await self._join_on(view, last)
        _LOGGER.info("online copy of %s has caught up", name)

    async def _follow(self, view: plan.CompiledView, mark: int, last: int) -> None:
        while mark < last:
            upto = min(mark + APPLY_ROWS, last)
            found = await self._history.read_sequences(view.number, mark, upto)
            values = await asyncio.to_thread(_greatest_values, found)
            await self._online.apply(view.view.version, values, mark, upto)
            mark = upto

    async def _join_on(self, view: plan.CompiledView, mark: int) -> None:
        """Takes in what was written meanwhile, so that the next batch of this process joins on to it.

        Else a view that is written to all the time would stay behind for ever.
        """
        last = self._known.last_sequences[view.number]
        await self._follow(view, mark, last)
        async with self._writer.held(view.number):
            await self._follow(view, last, self._known.last_sequences[view.number])

    async def _rebuild(self, view: plan.CompiledView, last: int) -> None:
        version = view.view.version
        begun = await self._online.begin(version)
        after = b""
        while True:
            found = await self._history.read_greatest(view.number, after, APPLY_ROWS)
            if not found.keys:
                break
            values = await asyncio.to_thread(_values, found)
            # No watermark yet: reads must not take a part for the whole.
            await self._online.apply(version, values, -1, -1)
            after = found.keys[-1]
        await self._online.finish(version, begun, last)


def _end_if_cancelled() -> None:
    """Ends the task when a library swallowed its cancellation, which would make it immortal.

    Raises:
        CancelledError: The task was asked to end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _values(found: history.NamedRows) -> dict[bytes, bytes]:
    rows = found.rows
    return {
        key: online.pack_value(event, created, sequence, rows.row(index))
        for index, (key, event, created, sequence) in enumerate(
            zip(
                found.keys,
                rows.event_times.tolist(),
                rows.created_times.tolist(),
                rows.sequences.tolist(),
                strict=True,
            )
        )
    }


def _greatest_values(found: history.NamedRows) -> dict[bytes, bytes]:
    """Returns the online value of the greatest row of each key."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(found.keys))}
    rows = found.rows
    values = point_in_time.Values(
        np.fromiter(map(numbers.__getitem__, found.keys), np.int64, len(found.keys)),
        rows.event_times,
        rows.created_times,
        rows.sequences,
    )
    return {
        found.keys[index]: online.pack_value(
            int(rows.event_times[index]),
            int(rows.created_times[index]),
            int(rows.sequences[index]),
            rows.row(index),
        )
        for index in point_in_time.greatest(values).tolist()
    }
