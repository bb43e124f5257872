"""Results live as long as is stated, and no longer."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_db import engine as engines
from setpoint_feature import ports, testing
from setpoint_feature.domain import skew
from setpoint_feature.store import result_store, skew_store, skew_tables, tables
from setpoint_feature.testing import NOW, Start
from setpoint_runtime import clock as clocks
from setpoint_runtime import forgetting, ids

DAY = skew.DAY


@pytest.fixture
async def engine(feature_url: str) -> AsyncIterator[sqlalchemy_asyncio.AsyncEngine]:
    """The service's database."""
    made = engines.create_engine(feature_url, application_name="test", schema=tables.SCHEMA)
    yield made
    await made.dispose()


async def count(engine: sqlalchemy_asyncio.AsyncEngine, table: sqlalchemy.Table) -> int:
    """Returns how many rows a table has."""
    async with engines.transaction(engine) as connection:
        query = sqlalchemy.select(sqlalchemy.func.count()).select_from(table)
        return int((await connection.execute(query)).scalar_one())


async def remember(engine: sqlalchemy_asyncio.AsyncEngine, days: list[int]) -> None:
    """Stores a request, a batch, and findings, for each of some days before now."""
    store = skew_store.SQLSkewStore(engine)
    async with engines.transaction(engine) as connection:
        for day in days:
            at = dt.datetime.fromtimestamp((NOW - day * DAY) // 1_000_000, dt.UTC)
            request = {
                "request_id": ids.uuid7(),
                "method": "m",
                "fingerprint": b"",
                "response": b"",
            }
            await connection.execute(tables.requests.insert(), request | {"create_time": at})
            batch = {"batch_id": ids.uuid7(), "view": 1, "content": b"", "refused": b""}
            batch |= {"first_sequence": 1, "last_sequence": 0, "create_time": at}
            await connection.execute(tables.batches.insert(), batch)
    for number, day in enumerate(days):
        tally = skew.Tally("set", "1", NOW // DAY - day, 1, 1, 1)
        tally.differences["count", skew.Cause.VALUE] = 1
        nothing = skew.Seen(0, -1)
        tally.examples.append(
            skew.Example(str(day), "count", skew.Cause.VALUE, NOW, "1", "2", nothing, nothing)
        )
        await store.add(ports.RecordPage((), number, number + 1, 9), NOW, [tally])


KINDS = {
    ports.Results.REQUESTS: (tables.requests,),
    ports.Results.BATCHES: (tables.batches,),
    ports.Results.SKEW: (skew_tables.days, skew_tables.differences, skew_tables.examples),
}


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
async def test_each_kind_is_forgotten_after_its_own_life(
    engine: sqlalchemy_asyncio.AsyncEngine, rows_at_once: int
) -> None:
    """What is older goes, however few rows go at once; what is younger, and what has no end, stays."""
    await remember(engine, [0, 3, 5, 8, 20])
    lives = {ports.Results.REQUESTS: 4.5, ports.Results.BATCHES: 0.0, ports.Results.SKEW: 8.0}
    store = result_store.SQLResultStore(engine)
    seconds = {what: days * 86_400 for what, days in lives.items()}
    cleaner = forgetting.Forgetting(store.forget, clocks.ManualClock(NOW), seconds, rows_at_once)
    for _ in range(2):
        await cleaner.tick()
    left = {what: [await count(engine, each) for each in found] for what, found in KINDS.items()}
    assert left == {
        ports.Results.REQUESTS: [2],
        ports.Results.BATCHES: [5],
        ports.Results.SKEW: [4, 4, 4],
    }
    assert cleaner.counts == {ports.Results.REQUESTS: 3, ports.Results.SKEW: 3}


async def test_several_replicas_get_out_of_each_others_way(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """A row that somebody holds is left alone, and nobody waits for it."""
    await remember(engine, [5, 6])
    store = result_store.SQLResultStore(engine)
    async with engines.transaction(engine) as connection:
        oldest = sqlalchemy.select(tables.batches).order_by(tables.batches.c.create_time).limit(1)
        await connection.execute(oldest.with_for_update())
        assert await store.forget(ports.Results.BATCHES, NOW, 9) == 1
    assert await store.forget(ports.Results.BATCHES, NOW, 9) == 1


def rows(count: int) -> Columns:
    """Returns a row."""
    table: testing.Table = {
        "plane": (DataType.INT64, [1]),
        "event_time": (DataType.TIMESTAMP, [NOW]),
        "created_time": (DataType.TIMESTAMP, [NOW]),
        "count": (DataType.INT64, [count]),
    }
    return Columns.from_dict(table)


async def test_forgotten_batch_is_a_new_one(
    start: Start, engine: sqlalchemy_asyncio.AsyncEngine
) -> None:
    """Until then it is a replay; afterwards it is stored, and no row of the history is lost by it."""
    async with start() as running:
        client = running.client
        await client.entity("plane", plane=DataType.INT64)
        await client.view("planes", "plane", [("count", DataType.INT64)])
        batch = ids.uuid7()
        assert not (await client.write("planes", rows(1), batch)).replayed
        assert (await client.write("planes", rows(1), batch)).replayed
        store = result_store.SQLResultStore(engine)
        # The database's own clock tells when batches came.
        far = int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
        assert await store.forget(ports.Results.BATCHES, far, 9) == 1
        assert not (await client.write("planes", rows(2), batch)).replayed
        pages = client.stub.ReadFeatureView(pb.ReadFeatureViewRequest(view="planes"))
        found = [proto.from_proto(each.rows)["count"].to_list() async for each in pages]
        assert found == [[2]]


async def test_batch_may_be_forgotten_while_it_comes_again(
    start: Start, engine: sqlalchemy_asyncio.AsyncEngine
) -> None:
    """A repeated batch that finds its id, and then does not, is stored as the first."""
    async with start() as running:
        client = running.client
        await client.entity("plane", plane=DataType.INT64)
        await client.view("planes", "plane", [("count", DataType.INT64)])
        batch = ids.uuid7()
        await client.write("planes", rows(1), batch)
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.select(tables.batches).with_for_update())
            again = asyncio.create_task(client.write("planes", rows(1), batch))
            # It has found its id, and waits for what becomes of it.
            waiting = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not (await connection.execute(waiting)).scalar_one():
                await asyncio.sleep(0)
            await connection.execute(tables.batches.delete())
        assert not (await again).replayed
