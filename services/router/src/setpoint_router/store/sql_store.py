"""Routes in PostgreSQL; implements the port `RouteStore`."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_router import ports
from setpoint_router.convert import stored
from setpoint_router.domain import layer as layers
from setpoint_router.domain.route import Route
from setpoint_router.service.book import route_not_found
from setpoint_router.service.route_service import CREATE, UPDATE
from setpoint_router.store import tables
from setpoint_runtime import errors

_LOCK_LAYER = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_REVISION = (tables.revisions.c.content, tables.revisions.c.slots)


class SqlStore:
    """Keeps routes and all their revisions."""

    def __init__(self, engine: sqlalchemy_asyncio.AsyncEngine) -> None:
        """Use an engine whose schema is at the newest version."""
        self._engine = engine

    async def find_replay(self, request_id: str, method: str, fingerprint: bytes) -> Route | None:
        """Return what a request made before.

        Raises:
            AlreadyExistsError: The request_id belongs to another request.
        """
        request_id = idempotency.check_request_id(request_id)
        table = tables.requests
        async with engines.transaction(self._engine) as connection:
            # The lock keeps it from being forgotten before it is replayed.
            query = sa.select(table.c.response).where(table.c.request_id == request_id)
            row = (await connection.execute(query.with_for_update())).first()
            if row is None or row.response is None:
                return None
            answer, _ = await idempotency.once(
                connection, table, request_id, method, fingerprint, _never
            )
            return await _stored_route(connection, answer)

    async def create(self, request_id: str, fingerprint: bytes, route: Route) -> ports.StoredRoute:
        """Store revision 1.

        Raises:
            AlreadyExistsError: The name is taken, or the request_id.
        """
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await _check_layer(connection, route)
                values = {
                    "name": route.name,
                    "model": route.content.model,
                    "salt": route.content.salt,
                    "current_revision": route.revision,
                }
                statement = (
                    postgresql.insert(tables.routes)
                    .values(values)
                    .on_conflict_do_nothing()
                    .returning(tables.routes.c.name)
                )
                if (await connection.execute(statement)).first() is None:
                    raise errors.AlreadyExistsError(
                        errors.Reason.NAME_TAKEN,
                        f"there is a route {route.name} already; update it instead",
                        metadata={"route": route.name},
                    )
                await _insert_revision(connection, route)
                return _reference(route)

            return await self._once(connection, request_id, CREATE, fingerprint, work)

    async def append(
        self,
        request_id: str,
        fingerprint: bytes,
        name: str,
        expected_revision: int,
        make: ports.MakeRevision,
    ) -> ports.StoredRoute:
        """Store the next revision, made from the current one while nobody else can.

        Raises:
            NotFoundError: There is no such route.
            AbortedError: The current revision is not the expected one.
        """
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                current = await _current(connection, name, is_locked=True)
                if expected_revision and current.revision != expected_revision:
                    raise errors.AbortedError(
                        errors.Reason.ETAG_MISMATCH,
                        f"route {name} is at revision {current.revision}, not {expected_revision}",
                        metadata={"route": name, "revision": str(current.revision)},
                    )
                route = make(current)
                await _check_layer(connection, route)
                await _insert_revision(connection, route)
                await connection.execute(
                    sa.update(tables.routes)
                    .where(tables.routes.c.name == name)
                    .values(current_revision=route.revision)
                )
                return _reference(route)

            return await self._once(connection, request_id, UPDATE, fingerprint, work)

    async def _once(
        self,
        connection: sqlalchemy_asyncio.AsyncConnection,
        request_id: str,
        method: str,
        fingerprint: bytes,
        work: Any,
    ) -> ports.StoredRoute:
        answer, is_replay = await idempotency.once(
            connection, tables.requests, request_id, method, fingerprint, work
        )
        return ports.StoredRoute(await _stored_route(connection, answer), is_replay)

    async def get(self, name: str, revision: int = 0) -> Route:
        """Return a revision, the current one by default.

        Raises:
            NotFoundError: There is no such route or revision.
        """
        async with engines.transaction(self._engine) as connection:
            if not revision:
                return await _current(connection, name)
            found = await _revision(connection, name, revision)
            if found is None:
                await _require_route(connection, name)
                raise _revision_not_found(f"route {name} has no revision {revision}")
            return found

    async def in_force(self, name: str, time_us: int) -> Route:
        """Return the revision that was in force at a time.

        Raises:
            NotFoundError: There is no such route, or none was in force.
        """
        table = tables.revisions
        statement = (
            sa.select(*_REVISION)
            .where(table.c.name == name, table.c.valid_from <= time_us)
            .order_by(table.c.revision.desc())
            .limit(1)
        )
        async with engines.transaction(self._engine) as connection:
            row = (await connection.execute(statement)).first()
            if row is None:
                await _require_route(connection, name)
                raise _revision_not_found(f"route {name} was not in force at {time_us}")
            return stored.route_from_bytes(row.content, row.slots)

    async def page(self, after: str, limit: int) -> list[Route]:
        """Return current revisions by name."""
        table = tables.revisions
        statement = (
            sa.select(*_REVISION)
            .join(
                tables.routes,
                (tables.routes.c.name == table.c.name)
                & (tables.routes.c.current_revision == table.c.revision),
            )
            .where(table.c.name > after)
            .order_by(table.c.name)
            .limit(limit)
        )
        return await self._read(statement)

    async def page_revisions(self, name: str, before: int, limit: int) -> list[Route]:
        """Return revisions of a route, newest first.

        Raises:
            NotFoundError: There is no such route.
        """
        table = tables.revisions
        statement = sa.select(*_REVISION).where(table.c.name == name)
        if before:
            statement = statement.where(table.c.revision < before)
        statement = statement.order_by(table.c.revision.desc()).limit(limit)
        found = await self._read(statement)
        if not found:
            async with engines.transaction(self._engine) as connection:
                await _require_route(connection, name)
        return found

    async def current_revisions(self) -> dict[str, int]:
        """Return the number of the current revision of every route."""
        table = tables.routes
        async with engines.transaction(self._engine) as connection:
            rows = await connection.execute(sa.select(table.c.name, table.c.current_revision))
            return {row.name: row.current_revision for row in rows}

    async def _read(self, statement: sa.Select[Any]) -> list[Route]:
        async with engines.transaction(self._engine) as connection:
            rows: Sequence[Any] = (await connection.execute(statement)).all()
        return [stored.route_from_bytes(row.content, row.slots) for row in rows]


async def _never() -> bytes:
    raise AssertionError("a request that was answered before does no work")


def _reference(route: Route) -> bytes:
    """Returns what is remembered of an answer: revisions never change, so their number will do."""
    return f"{route.name} {route.revision}".encode()


async def _stored_route(connection: sqlalchemy_asyncio.AsyncConnection, reference: bytes) -> Route:
    name, _, revision = reference.decode().partition(" ")
    found = await _revision(connection, name, int(revision))
    if found is None:
        raise _revision_not_found(f"route {name} has no revision {revision}")
    return found


async def _insert_revision(connection: sqlalchemy_asyncio.AsyncConnection, route: Route) -> None:
    await connection.execute(
        sa.insert(tables.revisions).values(
            name=route.name,
            revision=route.revision,
            valid_from=route.valid_from,
            actor=route.content.actor,
            reason=route.content.reason,
            content=stored.content_bytes(route),
            slots=stored.slot_bytes(route),
        )
    )


async def _check_layer(connection: sqlalchemy_asyncio.AsyncConnection, route: Route) -> None:
    """Refuse a part of a layer of which another route has some slots.

    Raises:
        FailedPreconditionError: Names the other route.
    """
    layer = route.content.layer
    if layer is None:
        return
    # One route of a layer at a time, until its transaction is over.
    await connection.execute(_LOCK_LAYER, {"name": layer.salt})
    revisions = tables.revisions
    statement = sa.select(revisions.c.name, revisions.c.content).join(
        tables.routes,
        (tables.routes.c.name == revisions.c.name)
        & (tables.routes.c.current_revision == revisions.c.revision),
    )
    rows = (await connection.execute(statement)).all()
    others = [(row.name, stored.content_from_bytes(row.content).layer) for row in rows]
    layers.check_exclusive(route.name, layer, others)


async def _current(
    connection: sqlalchemy_asyncio.AsyncConnection, name: str, *, is_locked: bool = False
) -> Route:
    statement = sa.select(tables.routes.c.current_revision).where(tables.routes.c.name == name)
    if is_locked:
        statement = statement.with_for_update()
    revision = (await connection.execute(statement)).scalar()
    found = None if revision is None else await _revision(connection, name, revision)
    if found is None:
        raise route_not_found(name)
    return found


async def _revision(
    connection: sqlalchemy_asyncio.AsyncConnection, name: str, revision: int
) -> Route | None:
    table = tables.revisions
    row = (
        await connection.execute(
            sa.select(*_REVISION).where(table.c.name == name, table.c.revision == revision)
        )
    ).first()
    return None if row is None else stored.route_from_bytes(row.content, row.slots)


async def _require_route(connection: sqlalchemy_asyncio.AsyncConnection, name: str) -> None:
    statement = sa.select(tables.routes.c.name).where(tables.routes.c.name == name)
    if (await connection.execute(statement)).first() is None:
        raise route_not_found(name)


def _revision_not_found(message: str) -> errors.NotFoundError:
    return errors.NotFoundError(errors.Reason.ROUTE_REVISION_NOT_FOUND, message)
