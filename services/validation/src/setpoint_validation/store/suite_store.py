"""Suites in PostgreSQL; implements `ports.SuiteStore`."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_validation import convert, ports
from setpoint_validation.domain import suite as domain
from setpoint_validation.domain.suite import Snapshot, Suite
from setpoint_validation.store import documents, pages
from setpoint_validation.store.tables import requests, rule_revision, suite_versions, suites

_Row = sa.Row[*tuple[Any, ...]]

_VERSION_COLUMNS = (
    suite_versions.c.name,
    suite_versions.c.version,
    suite_versions.c.feature_set,
    suite_versions.c.description,
    suite_versions.c.rules,
    suite_versions.c.create_time,
)
_IS_LATEST = (suites.c.name == suite_versions.c.name) & (
    suites.c.version == suite_versions.c.version
)
_LATEST = (
    sa.select(*_VERSION_COLUMNS).join(suites, _IS_LATEST).where(suites.c.is_deleted == sa.false())
)
_BOUND = _LATEST.where(suite_versions.c.feature_set != "")


class SuiteStore:
    """Every version of every suite; the row of the revision is the lock of those who change them."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Keep the engine; its search path is the schema."""
        self._engine = engine

    async def put_suite(self, request: ports.Request, suite: Suite) -> tuple[Suite, bool]:
        """Make a suite the latest of its name."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await connection.execute(sa.select(rule_revision.c.revision).with_for_update())
                before = await _latest(connection, suite.name)
                size = convert.suite_to_proto(suite).ByteSize()
                if suite.feature_set:
                    domain.check_siblings(suite, await _siblings(connection, suite))
                    domain.check_pushed(size + await _pushed_bytes(connection, suite.name))
                await _write(connection, suite, size)
                is_pushed = suite.feature_set or (before is not None and before.feature_set)
                if is_pushed and (before is None or before.version != suite.version):
                    await _advance(connection)
                return suite.version.encode()

            version, replayed = await idempotency.once(
                connection,
                requests,
                request.request_id,
                "PutSuite",
                idempotency.fingerprint(request.fingerprint),
                work,
            )
            stored = await _version(connection, suite.name, version.decode())
            return stored, replayed

    async def get_suite(self, name: str, version: str) -> Suite:
        """Return the latest version, if the suite is not deleted, or any by its version."""
        async with engines.transaction(self._engine) as connection:
            if version:
                return await _version(connection, name, version)
            return await _live(connection, name)

    async def get_live_suite(self, name: str, version: str) -> Suite:
        """Return the latest or another version, if the suite is not deleted."""
        async with engines.transaction(self._engine) as connection:
            latest = await _live(connection, name)
            return await _version(connection, name, version) if version else latest

    async def list_suites(self, after: str, limit: int) -> tuple[list[Suite], bool]:
        """Return the latest versions by name, those after one, and whether there are more."""
        by_name = _ordered_name()
        sizes = (
            sa.select(suites.c.name, suite_versions.c.size)
            .join(suite_versions, _IS_LATEST)
            .where(suites.c.is_deleted == sa.false())
            .where(by_name > after)
            .order_by(by_name)
            .limit(limit + 1)
        )
        async with engines.transaction(self._engine) as connection:
            found = (await connection.execute(sizes)).all()
            count = pages.fitting([row.size for row in found], limit)
            names = [row.name for row in found[:count]]
            statement = _LATEST.where(suites.c.name.in_(names)).order_by(by_name)
            page = [_to_suite(row) for row in await connection.execute(statement)]
        return page, bool(page) and len(found) > count

    async def delete_suite(self, request: ports.Request, name: str) -> bool:
        """Delete a suite and say whether this was a repetition."""
        async with engines.transaction(self._engine) as connection:

            async def work() -> bytes:
                await connection.execute(sa.select(rule_revision.c.revision).with_for_update())
                before = await _live(connection, name)
                gone = sa.update(suites).where(suites.c.name == name).values(is_deleted=True)
                await connection.execute(gone)
                if before.feature_set:
                    await _advance(connection)
                return b""

            _, replayed = await idempotency.once(
                connection,
                requests,
                request.request_id,
                "DeleteSuite",
                idempotency.fingerprint(request.fingerprint),
                work,
            )
            return replayed

    async def get_revision(self) -> int:
        """Return what changes with the rules that are pushed."""
        async with engines.transaction(self._engine) as connection:
            return await _revision(connection)

    async def get_snapshot(self) -> Snapshot:
        """Return the suites that are bound to feature sets."""
        async with engines.transaction(self._engine) as connection:
            # In this order a change in between is sent once more; in the other it would be missed.
            revision = await _revision(connection)
            rows = await connection.execute(_BOUND.order_by(_ordered_name()))
            return Snapshot(revision, tuple(_to_suite(row) for row in rows))


def _ordered_name() -> sa.ColumnElement[str]:
    """Return the name as an order: names are ASCII, and C is the same on every database."""
    return suites.c.name.collate("C")


async def _revision(connection: AsyncConnection) -> int:
    found: int = (await connection.execute(sa.select(rule_revision.c.revision))).scalar_one()
    return found


async def _advance(connection: AsyncConnection) -> None:
    await connection.execute(sa.update(rule_revision).values(revision=rule_revision.c.revision + 1))


async def _latest(connection: AsyncConnection, name: str) -> Suite | None:
    row = (await connection.execute(_LATEST.where(suites.c.name == name))).first()
    return None if row is None else _to_suite(row)


async def _live(connection: AsyncConnection, name: str) -> Suite:
    found = await _latest(connection, name)
    if found is None:
        raise domain.not_found(name)
    return found


async def _version(connection: AsyncConnection, name: str, version: str) -> Suite:
    statement = sa.select(*_VERSION_COLUMNS).where(
        suite_versions.c.name == name, suite_versions.c.version == version
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        raise domain.not_found(name, version)
    return _to_suite(row)


async def _siblings(connection: AsyncConnection, suite: Suite) -> list[Suite]:
    """Return the other suites that are bound to the same feature set."""
    statement = _LATEST.where(
        suite_versions.c.feature_set == suite.feature_set, suites.c.name != suite.name
    )
    return [_to_suite(row) for row in await connection.execute(statement)]


async def _pushed_bytes(connection: AsyncConnection, without: str) -> int:
    """Return the size of what is pushed, one suite left out."""
    statement = (
        sa.select(sa.func.coalesce(sa.func.sum(suite_versions.c.size), 0))
        .join(suites, _IS_LATEST)
        .where(
            suites.c.is_deleted == sa.false(),
            suite_versions.c.feature_set != "",
            suites.c.name != without,
        )
    )
    return int((await connection.execute(statement)).scalar_one())


async def _write(connection: AsyncConnection, suite: Suite, size: int) -> None:
    version = postgresql.insert(suite_versions).values(
        name=suite.name,
        version=suite.version,
        feature_set=suite.feature_set,
        description=suite.description,
        rules=documents.rules_to_json(suite.rules),
        size=size,
        create_time=suite.create_time,
    )
    # The description is no part of the version, so the same rules may come with another one.
    renewed = {"description": version.excluded.description, "size": version.excluded.size}
    await connection.execute(
        version.on_conflict_do_update(index_elements=["name", "version"], set_=renewed)
    )
    latest = postgresql.insert(suites).values(
        name=suite.name, version=suite.version, is_deleted=False
    )
    current = {"version": latest.excluded.version, "is_deleted": latest.excluded.is_deleted}
    await connection.execute(latest.on_conflict_do_update(index_elements=["name"], set_=current))


def _to_suite(row: _Row) -> Suite:
    return Suite(
        row.name,
        row.version,
        documents.rules_from_json(row.rules),
        row.feature_set,
        row.description,
        row.create_time,
    )
