"""Numbered migrations of one service's schema, run by Alembic through an async engine.

A service keeps `store/migrations/versions/0001_<what>.py` in its package and nothing else: the
environment script that Alembic wants lives here, once. The table of applied versions lies inside
the schema, each migration is one transaction, and an advisory lock lets any number of replicas
start at the same moment.
"""

import asyncio
import importlib.util
import io
import logging
import pathlib
import random
import time
from collections.abc import Awaitable, Callable

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import sqlalchemy
import tenacity
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import failures, names, provision
from setpoint_runtime import errors

VERSION_TABLE = "alembic_version"
WAIT_SECONDS = 30.0
"""How long the database may take to come up; a stack starts it at the same time."""
CONNECT_SECONDS = 5.0
LOCK_SECONDS = 3.0
"""A migration that waits longer for a table lock would block everyone who queues behind it."""
STATEMENT_SECONDS = 300.0
TURN_SECONDS = 120.0
"""How long one replica waits for another that is migrating."""
TURN_POLL_SECONDS = 0.2

_LOGGER = logging.getLogger(__name__)


class SchemaVersionError(RuntimeError):
    """The schema is not at the version this program was written for."""


def versions_folder(package: str) -> pathlib.Path:
    """Returns the folder of a package's migrations.

    Raises:
        FileNotFoundError: if the package or the folder does not exist.
    """
    spec = importlib.util.find_spec(package)
    locations = None if spec is None else spec.submodule_search_locations
    if not locations:
        raise FileNotFoundError(f"there is no package {package}")
    folder = pathlib.Path(next(iter(locations))) / "store" / "migrations" / "versions"
    if not folder.is_dir():
        raise FileNotFoundError(f"{package} has no migrations in {folder}")
    return folder


def _config(package: str) -> alembic.config.Config:
    config = alembic.config.Config(stdout=io.StringIO())
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "script_location", _escaped(pathlib.Path(__file__).parent / "environment")
    )
    config.set_main_option("version_locations", _escaped(versions_folder(package)))
    return config


def _escaped(path: pathlib.Path) -> str:
    """Returns a path for Alembic's configuration, which gives % a meaning."""
    return str(path).replace("%", "%%")


def head(package: str) -> str:
    """Returns the newest revision that a package knows.

    Raises:
        SchemaVersionError: if its migrations do not form one line.
    """
    heads = alembic.script.ScriptDirectory.from_config(_config(package)).get_heads()
    if len(heads) != 1:
        raise SchemaVersionError(f"{package} has {len(heads)} newest migrations; there must be one")
    return heads[0]


def _engine(url: str, schema: str) -> sqlalchemy_asyncio.AsyncEngine:
    """Returns an engine without a pool: it makes one connection and closes it for good."""
    return sqlalchemy_asyncio.create_async_engine(
        engines.database_url(url),
        poolclass=sqlalchemy.NullPool,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "server_settings": {
                "application_name": f"setpoint-migrate-{schema}",
                "search_path": names.check_schema(schema),
                "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
                "lock_timeout": str(int(LOCK_SECONDS * 1000)),
                "timezone": "UTC",
            },
        },
    )


async def upgrade(
    url: str,
    *,
    schema: str,
    package: str,
    role: str | None = None,
    role_password: str | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> None:
    """Brings a service's schema to the newest version; one that is there is left alone.

    Waits for a database that is still starting, and tries again when another session holds a
    table for too long: every migration is a transaction, so nothing is left half done.

    Args:
        url: address of the database; its user must own the schema or be allowed to make it.
        schema: the service's schema, made when missing.
        package: the service's package, such as `setpoint_registry`.
        role: a login role that works with the tables but cannot change them, made when missing
            and when the user may; None leaves roles alone.
        role_password: password of that role.
        wait_seconds: how long to wait for the database.

    Raises:
        UnavailableError: if the database does not become usable in time.
    """
    await _with_retry(
        lambda: _upgrade(url, schema, package, role, role_password), schema, wait_seconds
    )


async def _with_retry(
    attempt: Callable[[], Awaitable[None]], schema: str, wait_seconds: float
) -> None:
    def log(state: tenacity.RetryCallState) -> None:
        _LOGGER.info("schema %s: waiting for the database (try %d)", schema, state.attempt_number)

    async for retrying in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(errors.UnavailableError),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
        stop=tenacity.stop_after_delay(wait_seconds),
        before_sleep=log,
        reraise=True,
    ):
        with retrying:
            await attempt()


async def _upgrade(
    url: str, schema: str, package: str, role: str | None, role_password: str | None
) -> None:
    wanted = head(package)
    engine = _engine(url, schema)
    try:
        with failures.translated():
            async with engine.connect() as connection:
                found = await _current(connection, schema)
                if _is_newer(package, found):
                    _LOGGER.warning("schema %s is at %s, newer than %s", schema, found, package)
                    return
                if found == wanted and role is None:
                    return
                await _take_turn(connection, schema)
                await provision.create_schema(connection, schema)
                await connection.commit()
                await connection.run_sync(_run, schema, package, "head")
                await connection.commit()
                if role is not None:
                    await provision.grant(connection, schema, role, role_password)
                    await connection.commit()
    finally:
        await asyncio.shield(engine.dispose())


def _is_newer(package: str, revision: str | None) -> bool:
    """Says whether a schema is at a revision that this package has never heard of.

    That is the database of a later release, seen by an earlier one that runs beside it or came
    back; migrations keep it usable for both.
    """
    if revision is None:
        return False
    scripts = alembic.script.ScriptDirectory.from_config(_config(package))
    return all(script.revision != revision for script in scripts.walk_revisions())


async def _take_turn(connection: sqlalchemy_asyncio.AsyncConnection, schema: str) -> None:
    """Waits until no other session migrates this schema.

    By asking again and again, each time in a transaction of its own: a session that waits inside
    the server holds a snapshot, and CREATE INDEX CONCURRENTLY would wait for that, forever. The
    lock belongs to the session and ends with it: the engine keeps no connection.

    Raises:
        UnavailableError: if the other session takes too long.
    """
    query = sqlalchemy.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        result = await connection.execute(query, {"name": f"setpoint.migrate.{schema}"})
        has_turn = result.scalar_one()
        await connection.commit()
        if has_turn:
            return
        if time.monotonic() > deadline:
            raise errors.UnavailableError(
                errors.Reason.DATABASE_UNAVAILABLE, f"another process keeps migrating {schema}"
            )
        await asyncio.sleep(random.uniform(0.5, 1.0) * TURN_POLL_SECONDS)  # noqa: S311 — spreads replicas.


def _run(
    connection: sqlalchemy.Connection, schema: str, package: str, revision: str, down: bool = False
) -> None:
    config = _config(package)
    config.attributes.update(connection=connection, schema=schema, version_table=VERSION_TABLE)
    command = alembic.command.downgrade if down else alembic.command.upgrade
    command(config, revision)


async def downgrade(url: str, *, schema: str, package: str, revision: str = "base") -> None:
    """Takes a schema back to an older version, for tests and for a person in need.

    Args:
        url: address of the database; its user must own the schema.
        schema: the service's schema.
        package: the service's package.
        revision: where to stop; `base` is before the first migration.

    Raises:
        UnavailableError: if the database cannot be used.
    """
    engine = _engine(url, schema)
    try:
        with failures.translated():
            async with engine.connect() as connection:
                await _take_turn(connection, schema)
                await connection.run_sync(_run, schema, package, revision, True)
                await connection.commit()
    finally:
        await asyncio.shield(engine.dispose())


async def _current(connection: sqlalchemy_asyncio.AsyncConnection, schema: str) -> str | None:
    def read(sync_connection: sqlalchemy.Connection) -> str | None:
        context = alembic.migration.MigrationContext.configure(
            sync_connection,
            opts={"version_table": VERSION_TABLE, "version_table_schema": schema},
        )
        return context.get_current_revision()

    revision = await connection.run_sync(read)
    await connection.rollback()
    return revision


async def require_head(
    engine: sqlalchemy_asyncio.AsyncEngine, *, schema: str, package: str
) -> None:
    """Makes sure at start that the schema is one this program can work with.

    For services whose user may not change the schema; migrations then run before, as a job. A
    newer schema is accepted, since migrations keep the previous release working.

    Raises:
        SchemaVersionError: if it is older or missing.
        UnavailableError: if the database cannot be used.
    """
    async with engines.transaction(engine) as connection:
        found = await _current(connection, schema)
    wanted = head(package)
    if found != wanted and not _is_newer(package, found):
        raise SchemaVersionError(
            f"schema {schema} is at {found or 'no version'}, {package} needs {wanted}: migrate first"
        )
