"""Definitions in PostgreSQL."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_feature import ports
from setpoint_feature.domain import catalog, changes, definitions, registration
from setpoint_feature.store import documents, plan_documents, retained, revisions, tables
from setpoint_runtime import errors


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

    async def apply(
        self, wish: ports.Wish, applied: ports.Applied, plan: ports.PlanAll
    ) -> tuple[ports.Applied, bool]:
        """Stores what `plan` leaves of all definitions, once per request id, and that it was applied."""
        async with engines.transaction(self._engine) as connection:
            await revisions.take_turn(connection)

            async def work() -> bytes:
                known = await _known(connection)
                if known.revision != applied.revision:
                    raise _outdated(applied.revision, known.revision)
                planned = plan(known)
                revision = known.revision
                for each in planned:
                    if each.change.action is not changes.Action.UNCHANGED:
                        revision += 1
                        await _put(connection, each.definition, revision)
                stored = dataclasses.replace(
                    applied, revision=revision, changes=tuple(each.change for each in planned)
                )
                if revision > known.revision:
                    await _record(connection, stored)
                return json.dumps(plan_documents.to_document(stored)).encode("utf-8")

            answer, replayed = await idempotency.once(
                connection, tables.requests, wish.request_id, wish.method, wish.fingerprint, work
            )
        return plan_documents.from_document(json.loads(answer)), replayed

    async def is_answered(self, wish: ports.Wish) -> bool:
        """Tells whether a call has been answered before, so that it is but a replay."""
        request_id = idempotency.check_request_id(wish.request_id)
        table = tables.requests.c
        query = sqlalchemy.select(table.fingerprint).where(
            table.request_id == request_id, table.response.is_not(None)
        )
        async with engines.transaction(self._engine) as connection:
            return (await connection.execute(query)).scalar_one_or_none() is not None

    async def applied(self, before: int, limit: int) -> list[ports.Applied]:
        """Returns what was applied below a revision, newest first."""
        table = tables.applied_definitions.c
        query = (
            sqlalchemy.select(table.content)
            .where(table.revision < before)
            .order_by(table.revision.desc())
            .limit(limit)
        )
        async with engines.transaction(self._engine) as connection:
            found = (await connection.execute(query)).scalars()
            return [plan_documents.from_document(each) for each in found]

    async def register(
        self, wish: ports.Wish, decide: ports.Decide
    ) -> tuple[definitions.Definition, bool]:
        """Stores what `decide` returns, given all definitions, once per request id."""
        async with engines.transaction(self._engine) as connection:
            await revisions.take_turn(connection)

            async def work() -> bytes:
                known = await _known(connection)
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


def _outdated(planned: int, current: int) -> errors.AbortedError:
    return errors.AbortedError(
        errors.Reason.ETAG_MISMATCH,
        f"the plan was made at revision {planned} of the definitions, which are at {current} now; plan again",
        metadata={"planned": str(planned), "current": str(current)},
    )


async def _record(connection: sqlalchemy_asyncio.AsyncConnection, applied: ports.Applied) -> None:
    document = plan_documents.to_document(applied)
    document["changes"] = [
        each for each in document["changes"] if each["action"] != changes.Action.UNCHANGED.value
    ]
    await connection.execute(
        sqlalchemy.insert(tables.applied_definitions).values(
            revision=applied.revision, content=document
        )
    )


async def _known(connection: sqlalchemy_asyncio.AsyncConnection) -> catalog.Catalog:
    """Returns all definitions, to decide on others."""
    found = catalog.Catalog()
    found.update(await _load(connection, 0))
    found.retained = await retained.load(connection)
    return found


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
