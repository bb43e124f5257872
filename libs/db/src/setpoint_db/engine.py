"""Engines and transactions that fail fast and say why.

Every wait has a bound below a caller's deadline: for a connection from the pool, for the
handshake, for a statement on the server (`statement_timeout`) and for its answer on this side
(`command_timeout`), which alone notices a server that hangs.
"""

import contextlib
from collections.abc import AsyncIterator

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import failures, names

DRIVER = "postgresql+asyncpg"
STATEMENT_SECONDS = 2.5
ANSWER_MARGIN_SECONDS = 0.5
"""The server gives up first, so that its clear answer arrives before this side stops waiting."""
LOCK_SECONDS = 2.0
IDLE_IN_TRANSACTION_SECONDS = 15.0
CONNECT_SECONDS = 5.0
POOL_SECONDS = 2.0
MAX_OVERFLOW = 5
RECYCLE_SECONDS = 1800


def database_url(url: str) -> sqlalchemy.URL:
    """Returns the address with the driver used here, whichever driver it names.

    Raises:
        ValueError: if it is not the address of a PostgreSQL database; its text is not shown,
            since it may hold a password.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise ValueError("the database URL cannot be read") from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"{parsed.get_backend_name()} is no PostgreSQL URL")
    return parsed.set(drivername=DRIVER)


def create_engine(
    url: str,
    *,
    application_name: str,
    schema: str,
    pool_size: int = 5,
    statement_seconds: float = STATEMENT_SECONDS,
) -> sqlalchemy_asyncio.AsyncEngine:
    """Returns an engine whose unqualified names mean one schema.

    No connection is made yet. Long work (a report, a large read) gets its own engine with
    a larger `statement_seconds` instead of weakening the one that requests use.

    Args:
        url: address of the database, `postgresql://…`.
        application_name: shown in `pg_stat_activity`, such as `setpoint-registry`.
        schema: becomes the search path.
        pool_size: connections kept; five more may come and go.
        statement_seconds: longest time a statement may run.
    """
    engine = sqlalchemy_asyncio.create_async_engine(
        database_url(url),
        pool_size=pool_size,
        max_overflow=MAX_OVERFLOW,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        pool_recycle=RECYCLE_SECONDS,
        pool_use_lifo=True,
        # Parameters are data of users; they do not belong into logs.
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": statement_seconds + ANSWER_MARGIN_SECONDS,
            "server_settings": {
                "application_name": application_name,
                "search_path": names.check_schema(schema),
                "statement_timeout": _milliseconds(statement_seconds),
                "lock_timeout": _milliseconds(LOCK_SECONDS),
                "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_SECONDS),
                "timezone": "UTC",
            },
        },
    )
    event.listen(engine.sync_engine, "handle_error", _name_failure)
    return engine


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _name_failure(context: ExceptionContext) -> None:
    """Turns what the driver raises while the database is away into our error.

    Raises:
        UnavailableError: for those failures; others go on as they are.
    """
    if context.is_pre_ping:
        # The pool replaces a dead connection itself; nobody has to hear of it.
        return
    error = context.original_exception
    if isinstance(error, TimeoutError) or "another operation is in progress" in str(error):
        # The server did not answer, or not all of it was taken. In what state the session is is
        # unknown, so it is not used again; the others of the pool may well be fine.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    failure = failures.unavailable(error)
    if failure is not None:
        raise failure from error


@contextlib.asynccontextmanager
async def transaction(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> AsyncIterator[sqlalchemy_asyncio.AsyncConnection]:
    """Runs the block in one transaction: committed at its end, rolled back when it raises.

    The connection belongs to one task; never share it between tasks that run at the same time.

    Raises:
        UnavailableError: if the database is away, hangs, or is too slow.
    """
    failure: BaseException | None = None
    try:
        async with contextlib.AsyncExitStack() as stack:
            with failures.translated():
                connection = await stack.enter_async_context(engine.begin())
            try:
                yield connection
            except BaseException as error:
                failure = error
                raise
    except Exception:
        if failure is None:
            raise
        # A session that broke off cannot be rolled back either; what broke it off is what happened.
        raise failure from failure.__cause__


async def check(engine: sqlalchemy_asyncio.AsyncEngine) -> None:
    """Asks the database for a sign of life, for health checks.

    Raises:
        UnavailableError: if there is none.
    """
    async with transaction(engine) as connection:
        await connection.execute(sqlalchemy.text("SELECT 1"))
