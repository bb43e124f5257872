"""Many rows at once, over PostgreSQL's COPY, in the transaction of everything else."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, cast

import asyncpg
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import failures

COPY_SECONDS = 60.0


async def _driver(connection: sqlalchemy_asyncio.AsyncConnection) -> asyncpg.Connection:
    """Returns the driver's connection, its transaction begun.

    SQLAlchemy begins a transaction with its first statement; a COPY given straight to the driver
    before that would commit by itself.
    """
    raw = await connection.get_raw_connection()
    driver = cast(asyncpg.Connection, raw.driver_connection)
    if not driver.is_in_transaction():
        await connection.execute(sqlalchemy.text("SELECT 1"))
    return driver


async def copy_rows(
    connection: sqlalchemy_asyncio.AsyncConnection,
    table: sqlalchemy.Table,
    columns: Sequence[str],
    records: Iterable[Sequence[Any]],
    *,
    timeout_seconds: float = COPY_SECONDS,
) -> int:
    """Writes rows into a table and returns how many.

    Values are given to the driver as they are: it wants Python values of the columns' types
    (str for json) and knows nothing of SQLAlchemy's type conversions.

    Args:
        connection: the transaction.
        table: where to.
        columns: names of the columns, in the order of the values.
        records: one sequence of values per row.
        timeout_seconds: longest time for all of it.

    Raises:
        UnavailableError: if the database is away or too slow.
    """
    with failures.translated():
        driver = await _driver(connection)
        status = await driver.copy_records_to_table(
            table.name,
            columns=list(columns),
            records=records,
            schema_name=table.schema,
            timeout=timeout_seconds,
        )
    return _count(status)


async def insert_new(
    connection: sqlalchemy_asyncio.AsyncConnection,
    table: sqlalchemy.Table,
    columns: Sequence[str],
    records: Iterable[Sequence[Any]],
    *,
    timeout_seconds: float = COPY_SECONDS,
) -> int:
    """Writes the rows that break no unique constraint, skips the others, returns how many are new.

    Rows go by COPY into a temporary table and from there with ON CONFLICT DO NOTHING, which is
    how at-least-once deliveries become exactly-once rows.

    Args:
        connection: the transaction.
        table: where to.
        columns: names of the columns, in the order of the values.
        records: one sequence of values per row.
        timeout_seconds: longest time for the COPY.

    Raises:
        UnavailableError: if the database is away or too slow.
    """
    preparer = connection.dialect.identifier_preparer
    names = ", ".join(preparer.quote(column) for column in columns)
    order = ", ".join(
        preparer.quote(column.name) for column in table.primary_key if column.name in columns
    )
    target = preparer.format_table(table)
    staging = _staging_name(target, columns)
    with failures.translated():
        driver = await _driver(connection)
        # Kept between the transactions of a connection, so that the catalogue does not grow by a
        # table per call; emptied first, since this may be the second call of a transaction.
        await driver.execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS "  # noqa: S608 — all names are quoted.
            f"AS SELECT {names} FROM {target} WITH NO DATA; TRUNCATE {staging}"
        )
        await driver.copy_records_to_table(
            staging, columns=list(columns), records=records, timeout=timeout_seconds
        )
        # In the order of the key, so that two deliveries of the same rows wait for each other
        # instead of deadlocking.
        status = await driver.execute(
            f"INSERT INTO {target} ({names}) SELECT {names} FROM {staging} "  # noqa: S608 — all names are quoted.
            f"{f'ORDER BY {order} ' if order else ''}ON CONFLICT DO NOTHING",
            timeout=timeout_seconds,
        )
    return _count(status)


def _staging_name(target: str, columns: Sequence[str]) -> str:
    """Returns the name of the temporary table for one shape of rows."""
    shape = hashlib.sha256("\0".join((target, *columns)).encode()).hexdigest()[:16]
    return f"staging_{shape}"


def _count(status: str) -> int:
    """Reads the number of rows from PostgreSQL's command tag, such as `COPY 5`."""
    return int(status.rsplit(" ", 1)[1])
