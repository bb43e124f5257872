"""History in PostgreSQL."""

import itertools
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import copy
from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import batch, history
from setpoint_feature.store import queries, tables
from setpoint_runtime import errors

LOCK_SECONDS: Final = 20
"""How long a write waits for the writes of other replicas to the same view."""

_COPY_ROWS: Final = 20_000
"""Rows of one COPY; several in one transaction keep each well below the statement's time limit."""

_FIRST: Final = (-(1 << 63), -(1 << 63), 0)

_SEQUENCES = queries.prepare(queries.SEQUENCES)
_GREATEST = queries.prepare(queries.GREATEST)
_KEYS = queries.prepare(queries.KEYS)
_WINDOW_BY_ARRIVAL = queries.prepare(queries.WINDOW_BY_ARRIVAL)
_WINDOW_BY_EVENT = queries.prepare(queries.WINDOW_BY_EVENT)
_SCAN = queries.prepare(queries.SCAN)


class SQLHistoryStore:
    """Keeps every row ever written."""

    def __init__(
        self, engine: sqlalchemy_asyncio.AsyncEngine, long_engine: sqlalchemy_asyncio.AsyncEngine
    ) -> None:
        """Uses one engine for short questions and one for writes and large reads."""
        self._engine = engine
        self._long_engine = long_engine

    async def write(
        self, view: int, batch_id: str, content: bytes, rows: batch.Batch, refused: bytes = b""
    ) -> ports.Written:
        """Stores a batch in one transaction, once."""
        async with engines.transaction(self._long_engine) as connection:
            await connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            last = await _lock_stream(connection, view)
            written = ports.Written(last + 1, last + len(rows), replayed=False)
            earlier = await _remember(connection, view, batch_id, content, written, refused)
            if earlier is not None:
                return earlier
            await _copy(connection, view, written.first, rows)
            await connection.execute(
                sqlalchemy.update(tables.streams)
                .where(tables.streams.c.view == view)
                .values(last_sequence=written.last)
            )
        return written

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
        return await self._named(_SEQUENCES, {"view": view, "after": after, "upto": upto})

    async def read_greatest(self, view: int, after: bytes, limit: int) -> history.NamedRows:
        """Returns the greatest row of each of the next keys, in the order of the keys."""
        return await self._named(_GREATEST, {"view": view, "after": after, "limit": limit})

    async def read_window(
        self, view: int, keys: Sequence[bytes], window: ports.Window
    ) -> history.NumberedRows:
        """Returns, for some keys, rows that suffice to answer any time in a window."""
        parameters = {
            "view": view,
            "keys": list(keys),
            "upto": window.upto,
            "first_event": window.first - 1 if window.exclusive else window.first,
            "last": window.last,
        }
        if not window.arrival:
            return await self._numbered(_WINDOW_BY_EVENT, parameters)
        return await self._numbered(_WINDOW_BY_ARRIVAL, {**parameters, "first": window.first})

    async def read_keys(self, view: int, keys: Sequence[bytes], upto: int) -> history.NumberedRows:
        """Returns all rows of some keys."""
        return await self._numbered(_KEYS, {"view": view, "keys": list(keys), "upto": upto})

    async def scan(
        self, view: int, scan: ports.Scan, after: ports.Cursor | None, limit: int
    ) -> history.NamedRows:
        """Returns the next rows of a scan in the order of their times, and none at its end."""
        event, created, sequence = after or _FIRST
        parameters = {
            "view": view,
            "start": max(scan.start, event),
            "end": scan.end,
            "known_at": scan.known_at,
            "upto": scan.upto,
            "after_event": event,
            "after_created": created,
            "after_sequence": sequence,
            "limit": limit,
        }
        return await self._named(_SCAN, parameters)

    async def _named(
        self, statement: sqlalchemy.TextClause, parameters: dict[str, Any]
    ) -> history.NamedRows:
        async with engines.transaction(self._long_engine) as connection:
            return await queries.named(connection, statement, parameters)

    async def _numbered(
        self, statement: sqlalchemy.TextClause, parameters: dict[str, Any]
    ) -> history.NumberedRows:
        async with engines.transaction(self._long_engine) as connection:
            return await queries.numbered(connection, statement, parameters)


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
    batch_id: str,
    content: bytes,
    written: ports.Written,
    refused: bytes,
) -> ports.Written | None:
    """Notes the batch; returns what became of it earlier when it is not the first of its id."""
    columns = tables.batches.c
    noted = await connection.execute(
        postgresql.insert(tables.batches)
        .values(
            batch_id=batch_id,
            view=view,
            content=content,
            first_sequence=written.first,
            last_sequence=written.last,
            refused=refused,
        )
        .on_conflict_do_nothing()
        .returning(columns.batch_id)
    )
    if noted.first() is not None:
        return None
    row = (
        await connection.execute(
            sqlalchemy.select(
                columns.view,
                columns.content,
                columns.first_sequence,
                columns.last_sequence,
                columns.refused,
            ).where(columns.batch_id == batch_id)
        )
    ).one()
    if bytes(row.content) != content:
        raise errors.AlreadyExistsError(
            errors.Reason.REQUEST_ID_REUSED,
            f"batch {batch_id} was written before with other rows",
            metadata={"batch_id": batch_id},
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
