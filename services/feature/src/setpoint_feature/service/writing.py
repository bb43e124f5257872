"""Writes: durable history first, then the online copy, in one order for each view."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import aggregating, batch, online, plan, refusal
from setpoint_feature.service import aggregates, snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

GROUP_ROWS: Final = 5_000
GROUP_BATCHES: Final = 64
"""Batches of one transaction: at most so many rows, unless a single one has more, and so many batches.

Larger ones go alone: one is stored while the copies of the one before are brought up to date, which gains more.
"""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch."""

    rows_written: int
    online_updated: int
    online_applied: bool
    replayed: bool
    refused: refusal.Refused = refusal.NOTHING


@dataclass(frozen=True, slots=True)
class Order:
    """A batch as it comes in."""

    batch_id: str
    view: str
    rows: Columns
    keep_good_rows: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that was checked and packed."""

    batch_id: str
    view: plan.CompiledView
    content: bytes
    rows: batch.Batch
    refused: refusal.Refused


@dataclass(slots=True)
class Counts:
    """What this process has written so far."""

    rows: int = 0
    refused: int = 0
    """Rows left out of batches whose writers wanted the others kept."""
    online_replaced: int = 0
    online_older: int = 0
    """Keys of batches whose online copy was greater already: late rows, or repeated ones."""
    online_failed: int = 0
    """Batches whose online copies were left to catch up."""


@dataclass(slots=True, eq=False)
class _Turn:
    """A batch that waits to be stored."""

    prepared: Prepared
    gate: Callable[[], None] | None
    outcome: ports.Written | errors.AlreadyExistsError | None = None
    """Known once it is durable or refused."""


class _Lane:
    """Two stages that batches of one view pass one after the other, in the same order.

    Whoever has the first stage stores the batches behind it along with its own: many small batches cost
    about as much as a large one.
    """

    def __init__(self) -> None:
        self.history = asyncio.Lock()
        self.online = asyncio.Lock()
        self.waiting: deque[_Turn] = deque()

    def group(self, first: _Turn) -> list[_Turn]:
        """Returns the batches to store together, the first one's and those behind it.

        Raises:
            SetpointError: The first one may not be stored.
        """
        taken: list[_Turn] = []
        rows = 0
        for turn in self.waiting:
            if turn.outcome is not None:
                # Stored with another one; its online copies are still to come.
                continue
            rows += len(turn.prepared.rows)
            if taken and (rows > GROUP_ROWS or len(taken) >= GROUP_BATCHES):
                break
            try:
                if turn.gate is not None:
                    turn.gate()
            except errors.SetpointError:
                if turn is first:
                    raise
                # It is told when it is its turn.
                continue
            taken.append(turn)
        return taken


class Writer:
    """Takes batches of rows."""

    def __init__(
        self,
        history: ports.HistoryStore,
        online_store: ports.OnlineStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        future_tolerance: int,
    ) -> None:
        """Prepares; `future_tolerance` in microseconds bounds how far clocks may differ."""
        self._aggregates = aggregates.Aggregates(history, online_store, known)
        self._history = history
        self._online = online_store
        self._known = known
        self._clock = clock
        self._tolerance = future_tolerance
        self._lanes: dict[int, _Lane] = {}
        self.counts = Counts()

    @contextlib.asynccontextmanager
    async def held(self, view: int) -> AsyncIterator[None]:
        """Keeps this process from changing the online copies of a view's rows meanwhile."""
        async with self._lanes.setdefault(view, _Lane()).online:
            yield

    async def write(self, order: Order) -> WriteResult:
        """Writes rows of the latest version of a view, once per batch id.

        Raises:
            InvalidArgumentError: A row or column is wrong; nothing was written.
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        return await self.store(await self.prepare(order))

    async def prepare(self, order: Order) -> Prepared:
        """Checks and packs a batch.

        Raises:
            InvalidArgumentError: A row or column is wrong.
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
        """
        batch_id = _checked_id(order.batch_id)
        view = await self._known.find(lambda found: found.view(order.view))
        aggregating.refuse(view.view, "view")
        # Packing a large batch takes long enough to be felt by the calls beside it.
        return await asyncio.to_thread(
            _prepare, batch_id, view, order, self._clock.now_us(), self._tolerance
        )

    async def store(
        self, prepared: Prepared, gate: Callable[[], None] | None = None
    ) -> WriteResult:
        """Makes a batch durable and brings the online copies up to date.

        Batches of a view are stored in the order in which this is called.

        Args:
            prepared: The batch.
            gate: Called when it is the batch's turn; what it raises keeps the batch from being written.

        Raises:
            AlreadyExistsError: REQUEST_ID_REUSED.
        """
        view = prepared.view
        lane = self._lanes.setdefault(view.number, _Lane())
        turn = _Turn(prepared, gate)
        lane.waiting.append(turn)
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with lane.history:
                    if turn.outcome is None:
                        await self._store_group(view, lane.group(turn))
                    # Taken before the first stage is left, so that no batch overtakes another.
                    await stack.enter_async_context(_held(lane.online))
                return await self._finish(turn)
        finally:
            lane.waiting.remove(turn)

    async def _store_group(self, view: plan.CompiledView, turns: Sequence[_Turn]) -> None:
        """Makes batches durable together."""
        entries = [
            ports.Entry(each.batch_id, each.content, each.rows, each.refused.to_bytes())
            for each in (turn.prepared for turn in turns)
        ]
        for turn, outcome in zip(
            turns, await self._history.write(view.number, entries), strict=True
        ):
            turn.outcome = outcome

    async def _finish(self, turn: _Turn) -> WriteResult:
        """Brings the online copies up to date with a batch that is durable."""
        if turn.outcome is None or isinstance(turn.outcome, errors.AlreadyExistsError):
            raise turn.outcome or AssertionError("a group holds its first batch")
        if turn.outcome.replayed:
            return await self._replay(turn.prepared.view, turn.outcome)
        return await self._apply(turn.prepared, turn.outcome)

    async def _apply(self, prepared: Prepared, written: ports.Written) -> WriteResult:
        """Brings the online copy up to date; what fails here is caught up later."""
        view, rows = prepared.view, prepared.rows
        values = await asyncio.to_thread(online_values, rows, written.first)
        updated, applied = 0, True
        try:
            updated = await self._online.apply(
                view.view.version, values, written.first - 1, written.last
            )
            self.counts.online_replaced += updated
            self.counts.online_older += len(values) - updated
            applied = await self._aggregates.wrote(view.number, written.first, rows)
        except errors.UnavailableError as error:
            applied = False
            self.counts.online_failed += 1
            _LOGGER.warning("online copy of %s not updated: %s", view.view.name, error)
        self.counts.rows += written.rows
        self._known.wrote(view.number, written.last)
        self.counts.refused += prepared.refused.rows
        return WriteResult(written.rows, updated, applied, False, prepared.refused)

    async def _replay(self, view: plan.CompiledView, written: ports.Written) -> WriteResult:
        """Answers a batch that was written before; says whether its online copies are there."""
        try:
            version = self._version_of(written.view) or view.view.version
            windows = self._known.catalog.aggregates_of(written.view)
            versions = [version, *(each.view.version for each in windows)]
            marks: Sequence[int | None] = await self._online.watermarks(versions)
        except errors.UnavailableError:
            marks = [None]
        applied = written.rows == 0 or all(
            mark is not None and mark >= written.last for mark in marks
        )
        refused = refusal.Refused.from_bytes(written.refused)
        return WriteResult(written.rows, 0, applied, True, refused)

    def _version_of(self, number: int) -> str | None:
        for each in self._known.catalog.compiled_views():
            if each.number == number:
                return each.view.version
        return None


@contextlib.asynccontextmanager
async def _held(lock: asyncio.Lock) -> AsyncIterator[None]:
    async with lock:
        yield


def _checked_id(batch_id: str) -> str:
    canonical = batch_id.lower()
    if not ids.is_uuid(canonical):
        raise errors.invalid("batch_id", batch_id, "must be a UUID chosen by the caller")
    return canonical


def _prepare(
    batch_id: str, view: plan.CompiledView, order: Order, now: int, tolerance: int
) -> Prepared:
    rows, refused = batch.prepare(view, order.rows, now, tolerance, keep_good=order.keep_good_rows)
    return Prepared(batch_id, view, content_hash(view.view.name, order.rows), rows, refused)


def content_hash(view: str, columns: Columns) -> bytes:
    """Returns a digest of what a batch says, whatever the order of its columns."""
    digest = xxhash.xxh3_128(view.encode("utf-8") + b"\0" + str(columns.rows).encode("ascii"))
    for name in sorted(columns):
        column = columns[name]
        digest.update(f"\0{name}\0{column.dtype}\0".encode())
        values = column.values
        if column.offsets is not None:
            values, offsets = column.text_bounds()
            digest.update(np.ascontiguousarray(offsets).data)
        elif column.validity is not None:
            # What lies below a null means nothing and may differ from one try to the next.
            values = np.where(column.validity, values, values.dtype.type(0))
        digest.update(np.ascontiguousarray(values).data)
        if column.validity is not None:
            digest.update(np.ascontiguousarray(column.validity).data)
    return digest.digest()


def online_values(rows: batch.Batch, first: int) -> dict[bytes, bytes]:
    """Returns for each key the online value of its greatest row; sequences count from `first`."""
    greatest = rows.greatest().tolist()
    events = rows.event_times.tolist()
    created = rows.created_times.tolist()
    return {
        rows.keys[index]: online.pack_value(
            events[index], created[index], first + index, rows.rows[index]
        )
        for index in greatest
    }
