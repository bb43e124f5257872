"""Definitions in PostgreSQL."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_feature import ports
from setpoint_feature.domain import catalog, definitions, registration
from setpoint_feature.store import documents, tables

# Any constant will do, as long as everything that registers takes the same lock.
_REGISTRATION_LOCK = "setpoint.feature.registration"


class SQLDefinitionStore:
    """Keeps definitions; registrations take turns, so revisions grow in commit order."""

    def __init__(self, engine: sqlalchemy_asyncio.AsyncEngine) -> None:
        """Uses an engine whose schema is the service's."""
        self._engine = engine

    async def store_id(self) -> str:
        """Returns the name of this history, made with the schema and never changed."""
        async with engines.transaction(self._engine) as connection:
            found = await connection.execute(sqlalchemy.select(tables.identity.c.store_id))
            return str(found.scalar_one())

    async def load(self, since: int) -> list[catalog.Stored]:
        """Returns definitions whose revision is greater, in the order of their revisions."""
        async with engines.transaction(self._engine) as connection:
            return await _load(connection, since)

    async def register(
        self, wish: ports.Wish, decide: ports.Decide
    ) -> tuple[definitions.Definition, bool]:
        """Stores what `decide` returns, given all definitions, once per request id."""
        async with engines.transaction(self._engine) as connection:
            await connection.execute(
                sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": _REGISTRATION_LOCK},
            )

            async def work() -> bytes:
                known = catalog.Catalog()
                known.update(await _load(connection, 0))
                definition = decide(known)
                if not registration.is_latest(known, definition):
                    await _put(connection, definition, known.revision + 1)
                document = documents.to_document(definition)
                return json.dumps([documents.kind_of(definition), document]).encode("utf-8")

            answer, replayed = await idempotency.once(
                connection, tables.requests, wish.request_id, wish.method, wish.fingerprint, work
            )
        kind, document = json.loads(answer)
        return documents.from_document(kind, document), replayed


async def _load(connection: sqlalchemy_asyncio.AsyncConnection, since: int) -> list[catalog.Stored]:
    table = tables.definitions.c
    query = (
        sqlalchemy.select(table.kind, table.number, table.revision, table.content)
        .where(table.revision > since)
        .order_by(table.revision)
    )
    rows: Sequence[Any] = (await connection.execute(query)).all()
    return [
        catalog.Stored(documents.from_document(row.kind, row.content), row.revision, row.number)
        for row in rows
    ]


async def _put(
    connection: sqlalchemy_asyncio.AsyncConnection,
    definition: definitions.Definition,
    revision: int,
) -> None:
    values = {"revision": revision, "content": documents.to_document(definition)}
    statement = postgresql.insert(tables.definitions).values(
        kind=documents.kind_of(definition),
        name=definition.name,
        version=documents.version_of(definition),
        **values,
    )
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["kind", "name", "version"], set_=values)
    )
