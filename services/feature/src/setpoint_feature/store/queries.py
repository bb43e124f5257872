"""Queries that read many rows as a few long byte strings.

PostgreSQL joins the values of each column itself, so that this side turns them into arrays without
touching single rows: several times as fast as fetching them.
"""
# ruff: noqa: S608 — the queries are put together from constants of this module alone.

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_feature.domain import history

_ROWS: Final = r"""
    string_agg(int8send(page.event_time), ''::bytea),
    string_agg(int8send(page.created_time), ''::bytea),
    string_agg(int8send(page.sequence), ''::bytea),
    string_agg(int4send(octet_length(page.packed)), ''::bytea),
    string_agg(page.packed, ''::bytea)
"""
_NAMED: Final = rf"""
SELECT string_agg(int4send(octet_length(page.entity_key)), ''::bytea),
       string_agg(page.entity_key, ''::bytea), {_ROWS} FROM page
"""
_NUMBERED: Final = rf"SELECT string_agg(int4send(page.number::int4), ''::bytea), {_ROWS} FROM page"

_WANTED: Final = "SELECT * FROM unnest(:keys) WITH ORDINALITY AS wanted(entity_key, number)"

# What looks keys up says `view + 0`, as their index does, and `sequence + 0`: then no other index
# fits. With the bare columns PostgreSQL, while its statistics lag behind the rows, reads a whole
# view for each key.
_OF_KEY: Final = "h.view + 0 = :view AND h.entity_key = wanted.entity_key"
_BETWEEN: Final = "h.sequence + 0 > :after AND h.sequence + 0 <= :upto"

SEQUENCES: Final = f"""
WITH page AS (
  SELECT * FROM history WHERE view = :view AND sequence > :after AND sequence <= :upto ORDER BY sequence
) {_NAMED}
"""

GREATEST: Final = f"""
WITH RECURSIVE entity(entity_key) AS (
  (SELECT entity_key FROM history WHERE view + 0 = :view AND entity_key > :after
    ORDER BY entity_key LIMIT 1)
  UNION ALL
  SELECT (SELECT h.entity_key FROM history h WHERE h.view + 0 = :view AND h.entity_key > entity.entity_key
           ORDER BY h.entity_key LIMIT 1)
    FROM entity WHERE entity.entity_key IS NOT NULL
), page AS (
  SELECT greatest.*
    FROM (SELECT entity_key FROM entity WHERE entity_key IS NOT NULL LIMIT :limit) AS next
   CROSS JOIN LATERAL (
     SELECT h.* FROM history h WHERE h.view + 0 = :view AND h.entity_key = next.entity_key
      ORDER BY h.event_time DESC, h.created_time DESC, h.sequence DESC LIMIT 1
   ) AS greatest
) {_NAMED}
"""

# OFFSET 0 keeps each key's rows an index scan of their own, whatever the planner believes about
# the number of keys.
KEYS: Final = f"""
WITH page AS (
  SELECT wanted.number, found.* FROM ({_WANTED}) AS wanted CROSS JOIN LATERAL (
    SELECT * FROM history h
     WHERE {_OF_KEY} AND {_BETWEEN} OFFSET 0
  ) AS found
) {_NUMBERED}
"""

VERSIONS: Final = f"""
WITH page AS (
  SELECT wanted.number, found.*
    FROM unnest(:keys, :times, :numbers) AS wanted(entity_key, event_time, number)
   CROSS JOIN LATERAL (
    SELECT * FROM history h
     WHERE {_OF_KEY} AND h.event_time = wanted.event_time AND {_BETWEEN} OFFSET 0
  ) AS found
) {_NUMBERED}
"""

# Of the rows known before the first time only the greatest can win; the others become known later.
WINDOW_BY_ARRIVAL: Final = f"""
WITH page AS (
  SELECT wanted.number, found.* FROM ({_WANTED}) AS wanted CROSS JOIN LATERAL (
    (SELECT * FROM history h
      WHERE {_OF_KEY} AND {_BETWEEN}
        AND h.event_time <= :first_event AND h.created_time <= :first
      ORDER BY h.event_time DESC, h.created_time DESC, h.sequence DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM history h
      WHERE {_OF_KEY} AND {_BETWEEN}
        AND h.event_time <= :last AND h.created_time <= :last
        AND (h.event_time > :first_event OR h.created_time > :first) OFFSET 0)
  ) AS found
) {_NUMBERED}
"""

WINDOW_BY_EVENT: Final = f"""
WITH page AS (
  SELECT wanted.number, found.* FROM ({_WANTED}) AS wanted CROSS JOIN LATERAL (
    (SELECT * FROM history h
      WHERE {_OF_KEY} AND {_BETWEEN}
        AND h.event_time <= :first_event
      ORDER BY h.event_time DESC, h.created_time DESC, h.sequence DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM history h
      WHERE {_OF_KEY} AND {_BETWEEN}
        AND h.event_time <= :last AND h.event_time > :first_event OFFSET 0)
  ) AS found
) {_NUMBERED}
"""

EVENT_TIMES: Final = f"""
WITH page AS (
  SELECT * FROM history
   WHERE view = :view AND sequence > :after AND sequence <= :upto AND created_time <= :known_at
     AND event_time >= :start AND event_time < :end
) {_NAMED}
"""

NEXT_EVENT_TIME: Final = """
SELECT event_time FROM history
 WHERE view = :view AND event_time >= :start AND event_time < :end
 ORDER BY event_time OFFSET :rows LIMIT 1
"""

_TYPES: Final[dict[str, Any]] = {
    "view": sqlalchemy.Integer(),
    "keys": postgresql.ARRAY(sqlalchemy.LargeBinary()),
    "times": postgresql.ARRAY(sqlalchemy.BigInteger()),
    "numbers": postgresql.ARRAY(sqlalchemy.BigInteger()),
}


def prepare(sql: str) -> sqlalchemy.TextClause:
    """Returns a statement whose parameters have the types of the columns."""
    statement = sqlalchemy.text(sql)
    names = sorted(statement.compile().params)
    binary = sql is GREATEST
    return statement.bindparams(
        *(
            sqlalchemy.bindparam(
                name,
                type_=sqlalchemy.LargeBinary()
                if binary and name == "after"
                else _TYPES.get(name, sqlalchemy.BigInteger()),
            )
            for name in names
        )
    )


async def named(
    connection: sqlalchemy_asyncio.AsyncConnection,
    statement: sqlalchemy.TextClause,
    parameters: dict[str, Any],
) -> history.NamedRows:
    """Runs a query that returns rows with the bytes of their keys."""
    row: Sequence[Any] = (await connection.execute(statement, parameters)).one()
    if row[0] is None:
        return history.NamedRows([], history.EMPTY)
    starts = _starts(row[0]).tolist()
    data = row[1]
    stops = [*starts[1:], len(data)]
    keys = [data[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return history.NamedRows(keys, _stored(row[2:]))


async def numbered(
    connection: sqlalchemy_asyncio.AsyncConnection,
    statement: sqlalchemy.TextClause,
    parameters: dict[str, Any],
) -> history.NumberedRows:
    """Runs a query that returns rows with the positions of their keys."""
    row: Sequence[Any] = (await connection.execute(statement, parameters)).one()
    if row[0] is None:
        return history.NumberedRows(np.zeros(0, np.int64), history.EMPTY)
    # WITH ORDINALITY counts from 1.
    numbers = np.frombuffer(row[0], ">i4").astype(np.int64) - 1
    return history.NumberedRows(numbers, _stored(row[1:]))


def _stored(columns: Sequence[bytes]) -> history.StoredRows:
    times = [np.frombuffer(column, ">i8").astype(np.int64) for column in columns[:3]]
    return history.StoredRows(times[0], times[1], times[2], columns[4], _starts(columns[3]))


def _starts(lengths: bytes) -> npt.NDArray[np.int64]:
    sizes = np.frombuffer(lengths, ">i4").astype(np.int64)
    return np.cumsum(sizes) - sizes
