import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_db import idempotency
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks
from setpoint_runtime import forgetting as forgettings

METADATA = sqlalchemy.MetaData()
REQUESTS = idempotency.requests_table(METADATA)
EFFECTS = sqlalchemy.Table("effects", METADATA, sqlalchemy.Column("what", sqlalchemy.Text))
METHOD = "Create"
NOW = 1_700_000_000_000_000
DAY = 86_400_000_000


@pytest_asyncio.fixture
async def store(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> AsyncIterator[sqlalchemy_asyncio.AsyncEngine]:
    """A database with the table of requests and one that shows what was really done."""
    async with engines.transaction(engine) as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine


async def _call(
    engine: sqlalchemy_asyncio.AsyncEngine,
    request_id: str,
    wish: str,
    method: str = METHOD,
    work_seconds: float = 0.0,
) -> tuple[bytes, bool]:
    """A use case as services write it: one transaction, an effect, an answer."""
    async with engines.transaction(engine) as connection:

        async def work() -> bytes:
            await asyncio.sleep(work_seconds)
            await connection.execute(sqlalchemy.insert(EFFECTS).values(what=wish))
            return f"made {wish}".encode()

        return await idempotency.once(
            connection, REQUESTS, request_id, method, idempotency.fingerprint(wish), work
        )


async def _effects(engine: sqlalchemy_asyncio.AsyncEngine) -> list[str]:
    async with engines.transaction(engine) as connection:
        return list((await connection.execute(sqlalchemy.select(EFFECTS.c.what))).scalars())


async def test_replays_the_answer_of_the_first_call(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A repeated call gets the same answer, says so, and does nothing."""
    request_id = str(uuid.uuid4())
    assert await _call(store, request_id, "a") == (b"made a", False)
    assert await _call(store, request_id, "a") == (b"made a", True)
    assert await _call(store, request_id.upper(), "a") == (b"made a", True)
    assert await _effects(store) == ["a"]


async def test_does_the_work_once_for_calls_at_the_same_time(
    store: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """Of many calls at the same moment one works, the others wait and replay."""
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(
        *(_call(store, request_id, "a", work_seconds=0.2) for _ in range(8))
    )
    assert {answer for answer, _ in answers} == {b"made a"}
    assert sum(not replayed for _, replayed in answers) == 1
    assert await _effects(store) == ["a"]


async def test_refuses_an_id_used_for_something_else(
    store: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """One id cannot stand for two wishes, nor for two methods."""
    request_id = str(uuid.uuid4())
    await _call(store, request_id, "a")
    for wish, method in (("b", METHOD), ("a", "Delete")):
        with pytest.raises(errors.AlreadyExistsError) as caught:
            await _call(store, request_id, wish, method)
        assert caught.value.reason is errors.Reason.REQUEST_ID_REUSED
    assert await _effects(store) == ["a"]


async def test_forgets_a_call_that_failed(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A failed call leaves nothing behind, so the next try does the work."""
    request_id = str(uuid.uuid4())

    async def fail() -> bytes:
        raise errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "no such model")

    with pytest.raises(errors.NotFoundError):
        async with engines.transaction(store) as connection:
            await idempotency.once(
                connection, REQUESTS, request_id, METHOD, idempotency.fingerprint("a"), fail
            )
    assert await _call(store, request_id, "a") == (b"made a", False)


async def test_takes_over_from_a_call_that_fails_meanwhile(
    store: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """A call that waited for one which then failed does the work itself."""
    request_id = str(uuid.uuid4())
    begun = asyncio.Event()

    async def fail_late() -> bytes:
        begun.set()
        await asyncio.sleep(0.2)
        raise ZeroDivisionError

    async def first() -> None:
        async with engines.transaction(store) as connection:
            await idempotency.once(
                connection, REQUESTS, request_id, METHOD, idempotency.fingerprint("a"), fail_late
            )

    failing = asyncio.create_task(first())
    await begun.wait()
    assert await _call(store, request_id, "a") == (b"made a", False)
    with pytest.raises(ZeroDivisionError):
        await failing


async def test_works_again_when_the_caller_swallowed_the_failure(
    store: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """A transaction committed although the work failed does not count as an answer."""
    request_id = str(uuid.uuid4())

    async def fail() -> bytes:
        raise ZeroDivisionError

    async with engines.transaction(store) as connection:
        with pytest.raises(ZeroDivisionError):
            await idempotency.once(
                connection, REQUESTS, request_id, METHOD, idempotency.fingerprint("a"), fail
            )
    answers = await asyncio.gather(*(_call(store, request_id, "a") for _ in range(3)))
    assert sorted(replayed for _, replayed in answers) == [False, True, True]


@pytest.mark.parametrize("request_id", ["", "1", "not-a-uuid", "0" * 36, "x" * 100_000])
async def test_refuses_what_is_no_uuid(
    store: sqlalchemy_asyncio.AsyncEngine, request_id: str
) -> None:
    """An id that is missing or malformed is refused by the name of its field."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await _call(store, request_id, "a")
    assert caught.value.violations[0].field == "request_id"
    assert await _effects(store) == []


async def _remember(engine: sqlalchemy_asyncio.AsyncEngine, days: Iterable[int]) -> list[str]:
    """Puts a request for each of some days before now, and returns their ids."""
    ids = [str(uuid.uuid4()) for _ in days]
    async with engines.transaction(engine) as connection:
        for request_id, day in zip(ids, days, strict=True):
            row = sqlalchemy.insert(REQUESTS).values(
                request_id=request_id,
                method=METHOD,
                fingerprint=idempotency.fingerprint("a"),
                response=b"made a",
                create_time=dt.datetime.fromtimestamp((NOW - day * DAY) / 1e6, dt.UTC),
            )
            await connection.execute(row)
    return ids


async def _remembered(engine: sqlalchemy_asyncio.AsyncEngine) -> set[str]:
    async with engines.transaction(engine) as connection:
        found = await connection.execute(sqlalchemy.select(REQUESTS.c.request_id))
        return set(found.scalars())


@contextlib.asynccontextmanager
async def _forgetting(
    engine: sqlalchemy_asyncio.AsyncEngine, rows_at_once: int
) -> AsyncIterator["asyncio.Queue[int]"]:
    """Runs the task with a life of a month; gives how many rows each of its statements deleted."""
    pieces: asyncio.Queue[int] = asyncio.Queue()

    def executed(connection: object, cursor: object, statement: str, *rest: Any) -> None:
        if statement.startswith("DELETE"):
            pieces.put_nowait(rest[1].rowcount)

    event.listen(engine.sync_engine, "after_cursor_execute", executed)
    async with tasks.TaskOwner() as owner:
        clock = clocks.ManualClock(NOW)
        forgetting = idempotency.forgetting(engine, REQUESTS, clock, 30 * 86_400, rows_at_once)
        _ = owner.start("forgetting", forgetting)
        yield pieces
        assert not owner.failed.is_set()
    event.remove(engine.sync_engine, "after_cursor_execute", executed)


async def test_forgetting_keeps_what_is_young(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """What is older than its life goes, in pieces of so many rows; a forgotten id is a new one."""
    old = await _remember(store, range(31, 38))
    young = await _remember(store, range(0, 30, 5))
    async with _forgetting(store, 3) as pieces, asyncio.timeout(30):
        assert [await pieces.get() for _ in range(3)] == [3, 3, 1]
    assert await _remembered(store) == set(young)
    assert await _call(store, young[0], "a") == (b"made a", True)
    assert await _call(store, old[0], "a") == (b"made a", False)


async def test_forgetting_leaves_what_somebody_holds(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """Nobody waits for a row that a repeated call, or another replica, has locked."""
    held, *_ = await _remember(store, [40, 41, 42])
    async with store.begin() as connection:
        row = sqlalchemy.select(REQUESTS).where(REQUESTS.c.request_id == held)
        await connection.execute(row.with_for_update())
        async with _forgetting(store, 9) as pieces, asyncio.timeout(30):
            assert await pieces.get() == 2
    assert await _remembered(store) == {held}


async def test_forgetting_outlives_an_outage(
    store: sqlalchemy_asyncio.AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection that is lost in the middle loses nothing else: the next look forgets the same."""
    monkeypatch.setattr(forgettings, "LOOK_SECONDS", 0.0)
    caplog.set_level("INFO", logger=forgettings.__name__)
    await _remember(store, [40, 41])
    waiting = sqlalchemy.text("SELECT pid FROM pg_locks WHERE NOT granted")
    end = sqlalchemy.text("SELECT pg_terminate_backend(:pid, 2000)")
    async with contextlib.AsyncExitStack() as opened:
        connection = await opened.enter_async_context(store.begin())
        await connection.execute(sqlalchemy.text("LOCK TABLE requests"))
        pieces = await opened.enter_async_context(_forgetting(store, 9))
        async with asyncio.timeout(30):
            while (pid := (await connection.execute(waiting)).scalar()) is None:
                await asyncio.sleep(0)
            await connection.execute(end, {"pid": pid})
            await connection.commit()
            assert await pieces.get() == 2
    assert caplog.text.count("what is old is kept") == 1
    assert not await _remembered(store)


async def test_forgetting_nothing_ends(store: sqlalchemy_asyncio.AsyncEngine) -> None:
    """With a life of 0 requests are remembered for ever."""
    ids = await _remember(store, [9_999])
    await idempotency.forgetting(store, REQUESTS, clocks.ManualClock(NOW), 0.0)
    assert await _remembered(store) == set(ids)


async def test_is_the_first_when_the_earlier_call_is_forgotten_meanwhile(
    store: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """A call that finds its id, and then does not, does the work and is remembered."""
    request_id = str(uuid.uuid4())
    await _call(store, request_id, "a")
    async with store.begin() as connection:
        await connection.execute(sqlalchemy.select(REQUESTS).with_for_update())
        again = asyncio.create_task(_call(store, request_id, "a"))
        waiting = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not (await connection.execute(waiting)).scalar_one():
            await asyncio.sleep(0)
        await connection.execute(REQUESTS.delete())
    assert await again == (b"made a", False)
    assert await _call(store, request_id, "a") == (b"made a", True)
    assert await _effects(store) == ["a", "a"]


_CALLS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab")), min_size=1, max_size=8)


@given(calls=_CALLS)
@settings(
    max_examples=20,
    deadline=None,
    # The table is emptied by each example itself.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_does_each_wish_at_most_once(
    store: sqlalchemy_asyncio.AsyncEngine, calls: list[tuple[int, str]]
) -> None:
    """Whatever calls come at the same time: each id has one wish, done once, answered alike."""
    async with engines.transaction(store) as connection:
        await connection.execute(sqlalchemy.delete(REQUESTS))
        await connection.execute(sqlalchemy.delete(EFFECTS))
    ids = [str(uuid.uuid4()) for _ in range(3)]

    def one(number: int, wish: str) -> Awaitable[tuple[bytes, bool]]:
        return _call(store, ids[number], f"{wish}{number}")

    results = await asyncio.gather(
        *(one(number, wish) for number, wish in calls), return_exceptions=True
    )
    winners: dict[int, str] = {}
    for (number, wish), result in zip(calls, results, strict=True):
        if isinstance(result, tuple):
            assert result[0] == f"made {wish}{number}".encode()
            assert winners.setdefault(number, wish) == wish
        else:
            assert isinstance(result, errors.AlreadyExistsError)
    assert sorted(await _effects(store)) == sorted(f"{w}{n}" for n, w in winners.items())


@given(first=st.lists(st.binary()), second=st.lists(st.binary()))
def test_fingerprints_differ_when_parts_do(first: list[bytes], second: list[bytes]) -> None:
    """Two fingerprints are equal exactly when all parts are, their borders included."""
    assert (idempotency.fingerprint(*first) == idempotency.fingerprint(*second)) == (
        first == second
    )
