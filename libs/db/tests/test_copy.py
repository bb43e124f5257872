import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import copy, failures
from setpoint_db import engine as engines

METADATA = sqlalchemy.MetaData()
VALUES = sqlalchemy.Table(
    "values",
    METADATA,
    sqlalchemy.Column("id", sqlalchemy.BigInteger, primary_key=True),
    sqlalchemy.Column("select", sqlalchemy.Text),
    sqlalchemy.Column("time", sqlalchemy.DateTime(timezone=True)),
    sqlalchemy.CheckConstraint("id >= 0", name="values_id_positive"),
)
NOW = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)


@pytest_asyncio.fixture
async def store(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> AsyncIterator[sqlalchemy_asyncio.AsyncEngine]:
    """A database with one table, its names in need of quotes."""
    async with engines.transaction(engine) as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine


async def _count(engine: sqlalchemy_asyncio.AsyncEngine) -> int:
    async with engines.transaction(engine) as connection:
        query = sqlalchemy.select(sqlalchemy.func.count()).select_from(VALUES)
        return int((await connection.execute(query)).scalar_one())


def _rows(numbers: range) -> list[tuple[int, str | None, dt.datetime]]:
    return [(n, None if n % 3 == 0 else f"größe\t{n}\n\\N", NOW) for n in numbers]


async def test_copies_rows_as_they_are(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """Nulls, tabs, newlines and backslashes arrive unchanged."""
    async with engines.transaction(store) as connection:
        assert (
            await copy.copy_rows(connection, VALUES, ["id", "select", "time"], _rows(range(100)))
            == 100
        )
    async with engines.transaction(store) as connection:
        query = sqlalchemy.select(VALUES).order_by(VALUES.c.id)
        found = [tuple(row) for row in (await connection.execute(query)).all()]
    assert found == _rows(range(100))


async def test_belongs_to_the_transaction(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A COPY that comes first in a transaction is rolled back with it."""
    with pytest.raises(ZeroDivisionError):
        async with engines.transaction(store) as connection:
            await copy.copy_rows(connection, VALUES, ["id"], [(1,)])
            raise ZeroDivisionError
    assert await _count(store) == 0


async def test_says_which_constraint_was_broken(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A broken rule keeps its constraint's name, by COPY and by INSERT."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 — the driver's class is of no interest.
        async with engines.transaction(store) as connection:
            await copy.copy_rows(connection, VALUES, ["id"], [(-1,)])
    assert failures.constraint_name(caught.value) == "values_id_positive"
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        async with engines.transaction(store) as connection:
            await connection.execute(sqlalchemy.insert(VALUES).values(id=-1))
    assert failures.constraint_name(refused.value) == "values_id_positive"
    assert failures.constraint_name(ValueError()) is None


async def test_inserts_only_what_is_new(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """Rows that are there, and doubles within one call, are skipped and not counted."""
    columns = ["id", "select", "time"]
    async with engines.transaction(store) as connection:
        assert await copy.insert_new(connection, VALUES, columns, _rows(range(10))) == 10
        assert await copy.insert_new(connection, VALUES, columns, _rows(range(5, 15)) * 2) == 5
        assert await copy.insert_new(connection, VALUES, ["id"], [(14,), (15,)]) == 1
    async with engines.transaction(store) as connection:
        assert await copy.insert_new(connection, VALUES, columns, _rows(range(16))) == 0
    assert await _count(store) == 16


async def test_inserts_the_same_rows_from_many_sides(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """Deliveries of overlapping rows at the same time neither deadlock nor double."""

    async def deliver(rows: list[tuple[int, str | None, dt.datetime]]) -> int:
        async with engines.transaction(store) as connection:
            return await copy.insert_new(connection, VALUES, ["id", "select", "time"], rows)

    rows = _rows(range(2000))
    counts = await asyncio.gather(
        deliver(rows), deliver(rows[::-1]), deliver(rows[500:] + rows[:500]), deliver(rows)
    )
    assert sum(counts) == 2000
    assert await _count(store) == 2000
