"""The list of segments: which exist, and the transactions that move rows into them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import failures
from setpoint_feature import ports
from setpoint_feature.domain import segments
from setpoint_feature.store import retained, revisions, tables
from setpoint_runtime import errors

# Any constant will do, as long as everything that compacts takes the same lock.
_LOCK_NAME: Final = "setpoint.feature.compaction"

_COLUMNS = tables.segments.c


async def live(
    connection: sqlalchemy_asyncio.AsyncConnection, view: int | None = None
) -> list[segments.Segment]:
    """Returns the segments that hold rows now, of one view or all, by view and sequence."""
    query = sqlalchemy.select(tables.segments).where(_COLUMNS.retired_time.is_(None))
    if view is not None:
        query = query.where(_COLUMNS.view == view)
    found = await connection.execute(query.order_by(_COLUMNS.view, _COLUMNS.first_sequence))
    return [_segment(row) for row in found]


@contextlib.asynccontextmanager
async def turn(engine: sqlalchemy_asyncio.AsyncEngine) -> AsyncIterator["SegmentTurn | None"]:
    """Gives the right to compact for the length of a block, None while somebody else has it.

    The lock belongs to the connection that also commits, so nobody commits who has lost it.

    Raises:
        UnavailableError: DATABASE_UNAVAILABLE.
    """
    async with contextlib.AsyncExitStack() as stack:
        with failures.translated():
            connection = await stack.enter_async_context(engine.connect())
        parameters = {"name": _LOCK_NAME}
        lock = sqlalchemy.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        is_ours = (await connection.execute(lock, parameters)).scalar_one()
        await connection.commit()
        if not is_ours:
            yield None
            return
        try:
            yield SegmentTurn(connection)
            _check(connection)
            unlock = sqlalchemy.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
            await connection.execute(unlock, parameters)
            await connection.commit()
        except BaseException:
            # A connection that might still hold the lock does not go back into the pool.
            await connection.invalidate()
            raise


class SegmentTurn:
    """Changes the list while nobody else does."""

    def __init__(self, connection: sqlalchemy_asyncio.AsyncConnection) -> None:
        """Uses the connection that holds the lock."""
        self._connection = connection

    async def live(self) -> dict[int, list[segments.Segment]]:
        """Returns the live segments of each view, in the order of their sequences."""
        found: dict[int, list[segments.Segment]] = {}
        async with self._transaction():
            for each in await live(self._connection):
                found.setdefault(each.view, []).append(each)
        return found

    async def move(self, added: segments.Segment) -> None:
        """Lists a segment and deletes its rows from the database, in one transaction."""
        async with self._transaction():
            await self._add(added)
            history = tables.history.c
            deleted = await self._connection.execute(
                sqlalchemy.delete(tables.history).where(
                    history.view == added.view,
                    history.sequence >= added.first,
                    history.sequence <= added.last,
                )
            )
            if deleted.rowcount != added.rows:
                raise _changed(added)

    async def replace(
        self,
        old: Sequence[segments.Segment],
        new: segments.Segment,
        now: int,
        removed: ports.Removed | None,
    ) -> None:
        """Puts a segment in the place of neighbours, whose files stay for now.

        Args:
            old: Those that it replaces.
            new: Holds what is kept of their rows.
            now: The service's time.
            removed: What retention took out of them; None when no row went.
        """
        async with self._transaction():
            if removed is not None:
                if not await revisions.is_at(self._connection, removed.revision):
                    raise _outdated(new)
                await retained.note(self._connection, new.view, removed.retained)
            retired = await self._connection.execute(
                sqlalchemy.update(tables.segments)
                .where(
                    _COLUMNS.segment_id.in_([each.segment_id for each in old]),
                    _COLUMNS.retired_time.is_(None),
                )
                .values(retired_time=now)
            )
            if retired.rowcount != len(old):
                raise _changed(new)
            await self._add(new)

    async def thinned(self, segment: segments.Segment, horizon: int) -> None:
        """Notes that retention was applied to a segment and too little had to go."""
        async with self._transaction():
            await self._connection.execute(
                sqlalchemy.update(tables.segments)
                .where(_COLUMNS.segment_id == segment.segment_id)
                .values(thinned_time=horizon)
            )

    async def retired(self, before: int) -> list[segments.Segment]:
        """Returns segments that were replaced before a time."""
        async with self._transaction():
            found = await self._connection.execute(
                sqlalchemy.select(tables.segments).where(_COLUMNS.retired_time <= before)
            )
            return [_segment(row) for row in found]

    async def forget(self, retired: segments.Segment) -> None:
        """Takes a replaced segment, whose file is gone, off the list."""
        async with self._transaction():
            await self._connection.execute(
                sqlalchemy.delete(tables.segments).where(
                    _COLUMNS.segment_id == retired.segment_id,
                    _COLUMNS.retired_time.is_not(None),
                )
            )

    async def paths(self) -> set[str]:
        """Returns the paths of all segments on the list, replaced ones included."""
        async with self._transaction():
            return set((await self._connection.execute(sqlalchemy.select(_COLUMNS.path))).scalars())

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        _check(self._connection)
        async with self._connection.begin():
            yield

    async def _add(self, added: segments.Segment) -> None:
        await self._connection.execute(
            sqlalchemy.insert(tables.segments).values(
                segment_id=added.segment_id,
                view=added.view,
                first_sequence=added.first,
                last_sequence=added.last,
                rows=added.rows,
                bytes=added.size,
                digest=added.digest,
                path=added.path,
                min_event_time=added.event_times[0],
                max_event_time=added.event_times[1],
                min_created_time=added.created_times[0],
                max_created_time=added.created_times[1],
                thinned_time=added.thinned,
            )
        )


def _check(connection: sqlalchemy_asyncio.AsyncConnection) -> None:
    """Refuses to go on after a lost connection, in whose place SQLAlchemy would put one without the lock."""
    if connection.invalidated:
        raise errors.UnavailableError(
            errors.Reason.DATABASE_UNAVAILABLE,
            "the connection that held the right to compact was lost",
        )


def _changed(segment: segments.Segment) -> errors.AbortedError:
    return errors.AbortedError(
        errors.Reason.INTERNAL,
        f"the history of view {segment.view} changed while {segment.path} was written",
    )


def _outdated(segment: segments.Segment) -> errors.AbortedError:
    return errors.AbortedError(
        errors.Reason.ETAG_MISMATCH,
        f"retention of view {segment.view} waits until the newest definitions are known here",
    )


def _segment(row: Any) -> segments.Segment:
    return segments.Segment(
        segment_id=str(row.segment_id),
        view=row.view,
        first=row.first_sequence,
        last=row.last_sequence,
        rows=row.rows,
        size=row.bytes,
        digest=bytes(row.digest),
        path=row.path,
        event_times=(row.min_event_time, row.max_event_time),
        created_times=(row.min_created_time, row.max_created_time),
        thinned=row.thinned_time,
    )
