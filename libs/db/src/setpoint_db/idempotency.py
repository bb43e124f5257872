"""A mutating call that may be repeated: the first one works, the others get its answer.

The answer is stored in the transaction of the work, so there is no moment at which one exists
without the other. A second call with the same id waits for the first one's transaction (PostgreSQL
makes it wait on the unique key), then replays its answer; had the first one failed, the second
does the work.
"""

import datetime as dt
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import alembic
import sqlalchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids
from setpoint_runtime import forgetting as forgettings

TABLE = "requests"
FIELD = "request_id"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _columns() -> list[sqlalchemy.Column[object]]:
    """Returns new column objects; SQLAlchemy ties each to one table."""
    return [
        sqlalchemy.Column("request_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
        sqlalchemy.Column("method", sqlalchemy.Text, nullable=False),
        sqlalchemy.Column("fingerprint", sqlalchemy.LargeBinary, nullable=False),
        # Null only inside the transaction that does the work.
        sqlalchemy.Column("response", sqlalchemy.LargeBinary),
        sqlalchemy.Column(
            "create_time",
            sqlalchemy.DateTime(timezone=True),
            nullable=False,
            server_default=sqlalchemy.func.now(),
        ),
    ]


def requests_table(metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
    """Returns the table of remembered requests as part of a service's metadata."""
    return sqlalchemy.Table(
        TABLE, metadata, *_columns(), sqlalchemy.Index("requests_create_time", "create_time")
    )


def create_table_op() -> None:
    """Makes the table, inside a migration's `upgrade`."""
    alembic.op.create_table(TABLE, *_columns())
    alembic.op.create_index("requests_create_time", TABLE, ["create_time"])


def drop_table_op() -> None:
    """Drops the table, inside a migration's `downgrade`."""
    alembic.op.drop_table(TABLE)


def fingerprint(*parts: str | bytes) -> bytes:
    """Returns a digest of what a request asks for, for example of its serialised message.

    Parts are told apart by their lengths: ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


async def once(
    connection: sqlalchemy_asyncio.AsyncConnection,
    table: sqlalchemy.Table,
    request_id: str,
    method: str,
    fingerprint: bytes,
    work: Callable[[], Awaitable[bytes]],
) -> tuple[bytes, bool]:
    """Does the work once per request id and returns its answer each time.

    Args:
        connection: the transaction that the work itself uses.
        table: the service's `requests_table`.
        request_id: a UUID chosen by the caller, the same for each try of one wish.
        method: name of the RPC; one id serves one method.
        fingerprint: digest of what is asked for; see `fingerprint`.
        work: does it, in the same transaction, and returns the serialised answer.

    Returns:
        The answer, and whether it is a replay.

    Raises:
        InvalidArgumentError: if the request id is empty or no UUID.
        AlreadyExistsError: REQUEST_ID_REUSED, if the id came before with another wish.
    """
    request_id = check_request_id(request_id)
    statement = (
        postgresql.insert(table)
        .values(request_id=request_id, method=method, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(table.c.request_id)
    )
    while (await connection.execute(statement)).first() is None:
        row = await _earlier(connection, table, request_id)
        if row is None:
            # It was forgotten in between, so this call is the first after all.
            continue
        _check_same(row, request_id, method, fingerprint)
        if row.response is not None:
            return row.response, True
        break
    response = await work()
    await connection.execute(
        sqlalchemy.update(table).where(table.c.request_id == request_id).values(response=response)
    )
    return response, False


def check_request_id(request_id: str) -> str:
    """Returns the id in its canonical form.

    An empty id is refused too: a call without one cannot be repeated safely, and silently
    inventing one would hide that from the caller.

    Raises:
        InvalidArgumentError: if it is not a UUID.
    """
    if not request_id:
        raise errors.invalid(
            FIELD, request_id, "must be a UUID chosen by the caller", errors.Reason.MISSING_FIELD
        )
    canonical = request_id.lower()
    if not ids.is_uuid(canonical):
        raise errors.invalid(
            FIELD, request_id, "must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057"
        )
    return canonical


async def _earlier(
    connection: sqlalchemy_asyncio.AsyncConnection, table: sqlalchemy.Table, request_id: str
) -> sqlalchemy.Row[Any, Any, Any] | None:
    """Returns an earlier call, without an answer when its work was given up; None when there is none.

    The row lock makes a third call wait while a second one repeats work that was given up.
    """
    query = (
        sqlalchemy.select(table.c.method, table.c.fingerprint, table.c.response)
        .where(table.c.request_id == request_id)
        .with_for_update()
    )
    return (await connection.execute(query)).one_or_none()


def _check_same(
    row: sqlalchemy.Row[Any, Any, Any], request_id: str, method: str, fingerprint: bytes
) -> None:
    if row.method != method or row.fingerprint != fingerprint:
        raise errors.AlreadyExistsError(
            errors.Reason.REQUEST_ID_REUSED,
            f"{FIELD} {request_id} was used before for another request; choose a new one",
            violations=(errors.FieldViolation(FIELD, "was used before for another request"),),
            metadata={FIELD: request_id},
        )


async def forget(
    connection: sqlalchemy_asyncio.AsyncConnection,
    table: sqlalchemy.Table,
    before_us: int,
    limit: int,
) -> int:
    """Deletes remembered requests older than a time and returns how many.

    Args:
        connection: a transaction.
        table: the service's `requests_table`.
        before_us: keep what came at or after this time, in microseconds since 1970, UTC.
        limit: the most to delete at once, so that the transaction stays short.
    """
    before = _EPOCH + dt.timedelta(microseconds=before_us)
    old = (
        sqlalchemy.select(table.c.request_id)
        .where(table.c.create_time < before)
        .order_by(table.c.create_time)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    # An array is made once; a subquery could be run again for each row, and find others to lock.
    ids_of_old = sqlalchemy.func.array(old, type_=postgresql.ARRAY(table.c.request_id.type))
    statement = sqlalchemy.delete(table).where(table.c.request_id == sqlalchemy.any_(ids_of_old))
    return (await connection.execute(statement)).rowcount


async def forgetting(
    engine: sqlalchemy_asyncio.AsyncEngine,
    table: sqlalchemy.Table,
    clock: clocks.Clock,
    life_seconds: float,
    rows_at_once: int = forgettings.ROWS_AT_ONCE,
) -> None:
    """Forgets requests that are older than they have to be, again and again; for a task of its own.

    It works in short transactions with rests between them, leaves rows alone that somebody holds, as
    calls and other replicas do, and goes on after the database was away. A request that comes again
    after it was forgotten is the first of its id.

    Args:
        engine: one whose schema is the service's, and has the table already.
        table: the service's `requests_table`.
        clock: tells how old they are.
        life_seconds: how long they are remembered; 0 is for ever, and there is nothing to do.
        rows_at_once: most rows of one transaction.
    """

    async def forget_some(name: str, before_us: int, limit: int) -> int:
        async with engines.transaction(engine) as connection:
            return await forget(connection, table, before_us, limit)

    lives = {table.name: life_seconds}
    await forgettings.Forgetting(forget_some, clock, lives, rows_at_once).run()
