"""Results that have outlived their use, in PostgreSQL."""

from collections.abc import Mapping
from typing import Final

import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_feature import ports
from setpoint_feature.domain import skew
from setpoint_feature.store import tables

# Rows that somebody holds, a repeated call for one, are left for the next time.
_DELETE: Final = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
      SELECT ctid FROM {table} WHERE {column} < {before} ORDER BY {column} LIMIT :limit
         FOR UPDATE SKIP LOCKED))
    """
_MOMENT: Final = "to_timestamp(:before / 1000000.0)"


def _delete(table: str, column: str, before: str) -> sqlalchemy.TextClause:
    return sqlalchemy.text(_DELETE.format(table=table, column=column, before=before))


_STATEMENTS: Final[Mapping[ports.Results, tuple[sqlalchemy.TextClause, ...]]] = {
    ports.Results.BATCHES: (_delete("batches", "create_time", _MOMENT),),
    ports.Results.SKEW: tuple(
        _delete(table, "day", f"CAST(:before AS bigint) / {skew.DAY}")
        for table in ("skew_examples", "skew_differences", "skew_days")
    ),
}


class SQLResultStore:
    """Implements `ports.ResultStore`."""

    def __init__(self, engine: sqlalchemy_asyncio.AsyncEngine) -> None:
        """Uses an engine whose schema is the service's."""
        self._engine = engine

    async def forget(self, what: ports.Results, before: int, limit: int) -> int:
        """Deletes some results from before a time; returns how many, less than `limit` when none is left."""
        if what is ports.Results.REQUESTS:
            async with engines.transaction(self._engine) as connection:
                return await idempotency.forget(connection, tables.requests, before, limit)
        gone = 0
        for statement in _STATEMENTS[what]:
            if gone == limit:
                break
            given = {"before": before, "limit": limit - gone}
            async with engines.transaction(self._engine) as connection:
                gone += (await connection.execute(statement, given)).rowcount
        return gone
