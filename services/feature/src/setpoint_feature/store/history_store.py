"""The history: recent rows in PostgreSQL, older ones in segments, and one plan to read both."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import copy
from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import batch, history, retention, run, run_reads, segments, visibility
from setpoint_feature.store import queries, retained, segment_cache, segment_list, tables
from setpoint_runtime import errors

LOCK_SECONDS: Final = 20
"""How long a write waits for the writes of other replicas to the same view."""

_COPY_ROWS: Final = 20_000
"""Rows of one COPY; several in one transaction keep each well below the statement's time limit."""

_FIRST: Final = -(1 << 63)
_LAST: Final = (1 << 63) - 1

_T = TypeVar("_T")
_Fetch = Callable[
    [sqlalchemy_asyncio.AsyncConnection, sqlalchemy.TextClause, dict[str, Any]], Awaitable[_T]
]

_SEQUENCES = queries.prepare(queries.SEQUENCES)
_GREATEST = queries.prepare(queries.GREATEST)
_KEYS = queries.prepare(queries.KEYS)
_VERSIONS = queries.prepare(queries.VERSIONS)
_WINDOW_BY_ARRIVAL = queries.prepare(queries.WINDOW_BY_ARRIVAL)
_WINDOW_BY_EVENT = queries.prepare(queries.WINDOW_BY_EVENT)
_EVENT_TIMES = queries.prepare(queries.EVENT_TIMES)
_NEXT_EVENT_TIME = queries.prepare(queries.NEXT_EVENT_TIME)


class SQLHistoryStore:
    """Keeps every row ever written, but what retention removed."""

    def __init__(
        self,
        engine: sqlalchemy_asyncio.AsyncEngine,
        long_engine: sqlalchemy_asyncio.AsyncEngine,
        cache: segment_cache.SegmentCache | None,
    ) -> None:
        """Uses one engine for short questions and one for writes and large reads.

        Args:
            engine: For short questions.
            long_engine: For writes and large reads.
            cache: Opens segments; None where there is no folder for them.
        """
        self._engine = engine
        self._long_engine = long_engine
        self._snapshots = long_engine.execution_options(isolation_level="REPEATABLE READ")
        self._segments = cache

    async def write(
        self, view: int, entries: Sequence[ports.Entry]
    ) -> list[ports.Written | errors.AlreadyExistsError]:
        """Stores batches in one transaction, in their order, each once."""
        outcomes: list[ports.Written | errors.AlreadyExistsError] = []
        new: list[batch.Batch] = []
        async with engines.transaction(self._long_engine) as connection:
            await connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            first = last = await _lock_stream(connection, view)
            for entry in entries:
                written = ports.Written(last + 1, last + len(entry.rows), replayed=False)
                earlier = await _remember(connection, view, entry, written)
                outcomes.append(earlier or written)
                if earlier is None:
                    new.append(entry.rows)
                    last = written.last
            if last > first:
                await _copy(connection, view, first + 1, batch.concat(new))
                await connection.execute(
                    sqlalchemy.update(tables.streams)
                    .where(tables.streams.c.view == view)
                    .values(last_sequence=last)
                )
        return outcomes

    async def last_sequences(self) -> dict[int, int]:
        """Returns the greatest sequence of every view that has rows."""
        columns = tables.streams.c
        async with engines.transaction(self._engine) as connection:
            found = await connection.execute(
                sqlalchemy.select(columns.view, columns.last_sequence).where(
                    columns.last_sequence > 0
                )
            )
            return {row.view: row.last_sequence for row in found}

    async def read_sequences(self, view: int, after: int, upto: int) -> history.NamedRows:
        """Returns the rows with sequences after one and up to another, in their order."""
        parameters = {"view": view, "after": after, "upto": upto}
        found, rest = await self._read(view, (after, upto), _SEQUENCES, parameters, queries.named)

        def select() -> history.NamedRows:
            parts = [each.named(run_reads.by_sequence(each, after, upto)) for each in found]
            return history.concat_named([*parts, rest])

        return await asyncio.to_thread(select) if found else rest

    async def read_greatest(self, view: int, after: bytes, limit: int) -> history.NamedRows:
        """Returns the greatest row of each of the next keys, in the order of the keys."""
        parameters = {"view": view, "after": after, "limit": limit}
        found, rest = await self._read(view, (0, _LAST), _GREATEST, parameters, queries.named)

        def select() -> history.NamedRows:
            parts = [each.named(run_reads.greatest(each, after, limit)) for each in found]
            return run_reads.next_greatest(history.concat_named([*parts, rest]), limit)

        return await asyncio.to_thread(select) if found else rest

    async def read_window(
        self, view: int, keys: Sequence[bytes], window: ports.Window
    ) -> history.NumberedRows:
        """Returns, for some keys, rows that suffice to answer any time in a window."""
        parameters = {
            "view": view,
            "keys": list(keys),
            "after": window.after,
            "upto": window.upto,
            "first_event": max(_FIRST, window.first - 1) if window.exclusive else window.first,
            "last": window.last,
        }
        statement = _WINDOW_BY_EVENT
        if window.arrival:
            statement = _WINDOW_BY_ARRIVAL
            parameters["first"] = window.first
        found, rest = await self._read(
            view, (window.after, window.upto), statement, parameters, queries.numbered
        )
        rule = visibility.Rule(0, window.exclusive, window.arrival)

        def select() -> history.NumberedRows:
            parts = [
                run_reads.in_window(
                    each, keys, (window.after, window.upto), rule, (window.first, window.last)
                )
                for each in found
            ]
            return history.concat_numbered([*parts, rest])

        return await asyncio.to_thread(select) if found else rest

    async def read_keys(self, view: int, keys: Sequence[bytes], upto: int) -> history.NumberedRows:
        """Returns all rows of some keys."""
        parameters = {"view": view, "keys": list(keys), "after": 0, "upto": upto}
        found, rest = await self._read(view, (0, upto), _KEYS, parameters, queries.numbered)

        def select() -> history.NumberedRows:
            parts = [run_reads.of_keys(each, keys, upto) for each in found]
            return history.concat_numbered([*parts, rest])

        return await asyncio.to_thread(select) if found else rest

    async def read_versions(
        self,
        view: int,
        keys: Sequence[bytes],
        pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        upto: int,
    ) -> history.NumberedRows:
        """Returns all rows of some keys at some event times, and perhaps others of these keys."""
        numbers, times = (each.tolist() for each in pairs)
        parameters = {
            "view": view,
            "keys": [keys[number] for number in numbers],
            "times": times,
            # As those of WITH ORDINALITY they count from 1.
            "numbers": [number + 1 for number in numbers],
            "after": 0,
            "upto": upto,
        }
        found, rest = await self._read(view, (0, upto), _VERSIONS, parameters, queries.numbered)

        def select() -> history.NumberedRows:
            parts = [run_reads.versions(each, keys, pairs, upto) for each in found]
            return history.concat_numbered([*parts, rest])

        return await asyncio.to_thread(select) if found else rest

    async def scan(
        self, view: int, scan: ports.Scan, limit: int
    ) -> AsyncIterator[history.NamedRows]:
        """Yields the rows of a scan in the order of their times, at most `limit` at once."""
        opened = await self.open(view, scan.upto)
        sources = [
            await asyncio.to_thread(run_reads.Timed, each, (scan.start, scan.end), scan.known_at)
            for each in opened.runs
        ]
        start = scan.start
        while start < scan.end:
            stop = min(
                [each.stop(limit, scan.end) for each in sources]
                + [await self._stop(view, start, scan, limit, opened.upto)]
            )
            # Rows of one event time are seen together, since one may stand in for another.
            rest = await self._read_event_times(view, (start, stop), scan, opened.upto)
            page = await asyncio.to_thread(run_reads.next_page, sources, stop, rest)
            for first in range(0, len(page.keys), limit):
                yield run_reads.part(page, first, first + limit)
            opened.release()
            start = stop

    async def _stop(self, view: int, start: int, scan: ports.Scan, limit: int, after: int) -> int:
        """Returns an event time before which about `limit` rows lie outside the segments."""
        if scan.upto - after <= limit:
            return scan.end
        parameters = {"view": view, "start": start, "end": scan.end, "rows": limit}
        async with engines.transaction(self._long_engine) as connection:
            found = (await connection.execute(_NEXT_EVENT_TIME, parameters)).scalar()
        return scan.end if found is None else int(found) + 1

    async def _read_event_times(
        self, view: int, span: tuple[int, int], scan: ports.Scan, after: int
    ) -> history.NamedRows:
        parameters = {
            "view": view,
            "after": after,
            "upto": scan.upto,
            "known_at": scan.known_at,
            "start": span[0],
            "end": span[1],
        }
        found, rest = await self._read(
            view, (after, scan.upto), _EVENT_TIMES, parameters, queries.named
        )

        def select() -> history.NamedRows:
            inside = (after, scan.upto)
            parts = [
                each.named(run_reads.by_event_time(each, span, scan.known_at, inside))
                for each in found
            ]
            return history.concat_named([*parts, rest])

        return await asyncio.to_thread(select) if found else rest

    async def open(self, view: int, upto: int) -> ports.Opened:
        """Returns the rows that lie in segments, as far as they end with a sequence or before."""

        async def listed() -> tuple[list[segments.Segment], None]:
            async with engines.transaction(self._engine) as connection:
                live = await segment_list.live(connection, view)
            return [each for each in live if each.last <= upto], None

        found, runs, _ = await self._opened(listed)
        release = self._segments.release if self._segments is not None else _nothing
        return ports.Opened(runs, found[-1].last if found else 0, release)

    async def retained(self) -> dict[int, retention.Retained]:
        """Returns what retention left of the history of each view that it removed rows of."""
        async with engines.transaction(self._engine) as connection:
            return await retained.load(connection)

    async def _read(
        self,
        view: int,
        span: tuple[int, int],
        statement: sqlalchemy.TextClause,
        parameters: Mapping[str, Any],
        fetch: _Fetch[_T],
    ) -> tuple[list[run.Run], _T]:
        """Returns the segments with sequences of a span, and what the database itself answers.

        Both come from one snapshot, so a row that is on its way into a segment is in one place.
        """
        after, upto = span

        async def listed() -> tuple[list[segments.Segment], _T]:
            async with engines.transaction(self._snapshots) as connection:
                live = await segment_list.live(connection, view)
                rest = await fetch(connection, statement, dict(parameters))
            return [each for each in live if each.last > after and each.first <= upto], rest

        _, runs, rest = await self._opened(listed)
        return runs, rest

    async def _opened(
        self, listed: Callable[[], Awaitable[tuple[list[segments.Segment], _T]]]
    ) -> tuple[list[segments.Segment], list[run.Run], _T]:
        """Opens listed segments; lists them anew where one was replaced and removed meanwhile."""
        missing: segments.Segment | None = None
        while True:
            found, rest = await listed()
            if missing is not None and missing in found:
                raise segment_cache.damaged(missing, "its file is gone")
            runs = []
            for each in found:
                if self._segments is None:
                    raise _no_folder(each)
                try:
                    runs.append(await self._segments.open(each))
                except segment_cache.MissingError:
                    missing = each
                    break
            else:
                return found, runs, rest


def _nothing() -> None:
    """Has nothing to give back."""


def _no_folder(segment: segments.Segment) -> errors.UnavailableError:
    return errors.UnavailableError(
        errors.Reason.SEGMENT_FOLDER_UNAVAILABLE,
        f"the segment {segment.path} is needed and no folder of segments is set",
        metadata={"segment": segment.path},
    )


async def _lock_stream(connection: sqlalchemy_asyncio.AsyncConnection, view: int) -> int:
    """Returns the last sequence of a view; until the commit nobody else writes to it."""
    columns = tables.streams.c
    lock = sqlalchemy.select(columns.last_sequence).where(columns.view == view).with_for_update()
    found = (await connection.execute(lock)).scalar()
    if found is None:
        await connection.execute(
            postgresql.insert(tables.streams)
            .values(view=view, last_sequence=0)
            .on_conflict_do_nothing()
        )
        found = (await connection.execute(lock)).scalar_one()
    return int(found)


async def _remember(
    connection: sqlalchemy_asyncio.AsyncConnection,
    view: int,
    entry: ports.Entry,
    written: ports.Written,
) -> ports.Written | errors.AlreadyExistsError | None:
    """Notes a batch; returns what became of it earlier when it is not the first of its id."""
    columns = tables.batches.c
    note = (
        postgresql.insert(tables.batches)
        .values(
            batch_id=entry.batch_id,
            view=view,
            content=entry.content,
            first_sequence=written.first,
            last_sequence=written.last,
            refused=entry.refused,
        )
        .on_conflict_do_nothing()
        .returning(columns.batch_id)
    )
    find = (
        sqlalchemy.select(
            columns.view,
            columns.content,
            columns.first_sequence,
            columns.last_sequence,
            columns.refused,
        )
        .where(columns.batch_id == entry.batch_id)
        .with_for_update(read=True)
    )
    row = None
    while row is None:
        if (await connection.execute(note)).first() is not None:
            return None
        # None where it was forgotten in between: then it is the first of its id after all.
        row = (await connection.execute(find)).one_or_none()
    if bytes(row.content) != entry.content:
        return errors.AlreadyExistsError(
            errors.Reason.REQUEST_ID_REUSED,
            f"batch {entry.batch_id} was written before with other rows",
            metadata={"batch_id": entry.batch_id},
        )
    return ports.Written(row.first_sequence, row.last_sequence, True, row.view, bytes(row.refused))


async def _copy(
    connection: sqlalchemy_asyncio.AsyncConnection, view: int, first: int, rows: batch.Batch
) -> None:
    for start in range(0, len(rows), _COPY_ROWS):
        stop = min(start + _COPY_ROWS, len(rows))
        records = zip(
            itertools.repeat(view, stop - start),
            range(first + start, first + stop),
            rows.event_times[start:stop].tolist(),
            rows.created_times[start:stop].tolist(),
            rows.keys[start:stop],
            rows.rows[start:stop],
            strict=True,
        )
        await copy.copy_rows(connection, tables.history, tables.HISTORY_COLUMNS, records)
