import asyncio
import os
import pathlib
import signal

import pytest
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import engine as engines
from setpoint_devstack import postgres as postgres_server
from setpoint_runtime import errors
from setpoint_testkit import free_port


async def test_commits_at_the_end_and_rolls_back_on_an_error(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """What a block wrote is there after its end, and gone when the block raised."""
    async with engines.transaction(engine) as connection:
        await connection.execute(sqlalchemy.text("CREATE TABLE numbers (n int)"))
    with pytest.raises(ZeroDivisionError):
        async with engines.transaction(engine) as connection:
            await connection.execute(sqlalchemy.text("INSERT INTO numbers VALUES (1)"))
            raise ZeroDivisionError
    async with engines.transaction(engine) as connection:
        assert (
            await connection.execute(sqlalchemy.text("SELECT count(*) FROM numbers"))
        ).scalar() == 0


async def test_names_a_refused_connection() -> None:
    """A database that is not there is UNAVAILABLE with a reason and without the address."""
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/nothing"
    engine = engines.create_engine(url, application_name="setpoint-test", schema="public")
    with pytest.raises(errors.UnavailableError) as caught:
        async with engines.transaction(engine):
            pass
    assert caught.value.reason is errors.Reason.DATABASE_UNAVAILABLE
    assert "secret" not in str(caught.value)
    await engine.dispose()


async def test_names_a_hanging_server(engine: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A backend that stopped answering costs one bounded wait, then the pool goes on with another."""
    fast = engines.create_engine(
        engine.url.render_as_string(hide_password=False),
        application_name="t",
        schema="public",
        statement_seconds=0.3,
    )
    pid = 0
    try:
        with pytest.raises(errors.UnavailableError):
            async with engines.transaction(fast) as connection:
                pid = (
                    await connection.execute(sqlalchemy.text("SELECT pg_backend_pid()"))
                ).scalar_one()
                os.kill(pid, signal.SIGSTOP)
                await connection.execute(sqlalchemy.text("SELECT 1"))
        await engines.check(fast)
    finally:
        os.kill(pid, signal.SIGCONT)
        await fast.dispose()


async def test_names_a_slow_statement(engine: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A statement over its time is stopped by the server, and the connection stays good."""
    fast = engines.create_engine(
        engine.url.render_as_string(hide_password=False),
        application_name="t",
        schema="public",
        statement_seconds=0.2,
    )
    with pytest.raises(errors.UnavailableError, match="too busy"):
        async with engines.transaction(fast) as connection:
            await connection.execute(sqlalchemy.text("SELECT pg_sleep(5)"))
    await engines.check(fast)
    await fast.dispose()


async def test_keeps_the_timeouts_of_the_caller(engine: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A time-out of the block's own work is not taken for one of the database."""
    with pytest.raises(TimeoutError):
        async with engines.transaction(engine):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(1)


async def test_heals_after_a_killed_backend(engine: sqlalchemy_asyncio.AsyncEngine) -> None:
    """A connection that died in the pool is replaced without anyone noticing."""
    async with engines.transaction(engine) as connection:
        pid = (await connection.execute(sqlalchemy.text("SELECT pg_backend_pid()"))).scalar_one()
    other = engines.create_engine(
        engine.url.render_as_string(hide_password=False), application_name="t", schema="public"
    )
    async with engines.transaction(other) as connection:
        await connection.execute(
            sqlalchemy.text("SELECT pg_terminate_backend(:pid, 2000)"), {"pid": pid}
        )
    await other.dispose()
    await engines.check(engine)


async def test_names_a_backend_killed_in_a_transaction(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """A connection that dies inside a transaction is UNAVAILABLE, not a driver's error."""
    other = engines.create_engine(
        engine.url.render_as_string(hide_password=False), application_name="t", schema="public"
    )
    with pytest.raises(errors.UnavailableError):
        async with engines.transaction(engine) as connection:
            pid = (
                await connection.execute(sqlalchemy.text("SELECT pg_backend_pid()"))
            ).scalar_one()
            async with engines.transaction(other) as killer:
                await killer.execute(
                    sqlalchemy.text("SELECT pg_terminate_backend(:pid, 2000)"), {"pid": pid}
                )
            await connection.execute(sqlalchemy.text("SELECT 1"))
    await other.dispose()


async def test_failure_outlives_a_rollback_that_fails(
    engine: sqlalchemy_asyncio.AsyncEngine,
) -> None:
    """Proves that callers hear what happened, not that it could not be undone by the same session."""
    busy: asyncio.Task[object] | None = None
    with pytest.raises(errors.NotFoundError, match="what happened"):
        async with engines.transaction(engine) as connection:
            await connection.execute(sqlalchemy.text("SELECT 1"))
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            assert driver is not None
            busy = asyncio.create_task(driver.execute("SELECT pg_sleep(30)"))
            await asyncio.sleep(0)
            raise errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, "what happened")
    assert busy is not None
    await asyncio.wait([busy])
    assert busy.exception() is not None
    await engines.check(engine)


async def test_names_an_exhausted_pool(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a connection has an end, and it is UNAVAILABLE."""
    monkeypatch.setattr(engines, "POOL_SECONDS", 0.1)
    monkeypatch.setattr(engines, "MAX_OVERFLOW", 0)
    engine = engines.create_engine(database_url, application_name="t", schema="public", pool_size=1)
    async with engines.transaction(engine):
        with pytest.raises(errors.UnavailableError):
            async with engines.transaction(engine):
                pass
    await engine.dispose()


async def test_gives_connections_back_when_cancelled(database_url: str) -> None:
    """Calls cancelled at any moment leave no connection behind, in the pool or in a transaction."""
    engine = engines.create_engine(database_url, application_name="cancelled", schema="public")

    async def work() -> None:
        async with engines.transaction(engine) as connection:
            await connection.execute(sqlalchemy.text("SELECT pg_sleep(0.02)"))
            await connection.execute(sqlalchemy.text("SELECT pg_sleep(1)"))

    for number in range(40):
        task = asyncio.create_task(work())
        await asyncio.sleep(0.001 * number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert isinstance(engine.pool, sqlalchemy.AsyncAdaptedQueuePool)
    assert engine.pool.checkedout() == 0
    await engines.check(engine)
    async with engines.transaction(engine) as connection:
        busy = await connection.execute(
            sqlalchemy.text(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'"
                " AND state = 'idle in transaction'"
            )
        )
        assert busy.scalar_one() == 0
    await engine.dispose()


async def test_heals_after_a_crash_of_the_server(tmp_path: pathlib.Path) -> None:
    """While the server is away calls fail quickly and by name; soon after its return they work."""
    server = postgres_server.PostgresServer(tmp_path, free_port())
    await server.start()
    engine = engines.create_engine(server.url(), application_name="t", schema="public")
    loop = asyncio.get_running_loop()

    async def ask() -> bool:
        begin = loop.time()
        try:
            await engines.check(engine)
        except errors.UnavailableError:
            assert loop.time() - begin < 15
            return False
        return True

    try:
        assert all(await asyncio.gather(*(ask() for _ in range(8))))
        server.child.signal(signal.SIGKILL)
        await server.child.wait(10)
        assert not any(await asyncio.gather(*(ask() for _ in range(8))))
        await server.start()
        begin = loop.time()
        while not all(await asyncio.gather(*(ask() for _ in range(8)))):
            assert loop.time() - begin < 20
    finally:
        await engine.dispose()
        await server.stop()


def test_refuses_other_databases() -> None:
    """Only PostgreSQL is accepted, under any driver's name, and no password is shown."""
    assert engines.database_url("postgresql+psycopg://a@b/c").drivername == engines.DRIVER
    assert engines.database_url("postgres://a@b/c").drivername == engines.DRIVER
    for url in ("sqlite:///file", "secret"):
        with pytest.raises(ValueError, match="URL") as caught:
            engines.database_url(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="plain name"):
        engines.create_engine("postgresql://a@b/c", application_name="t", schema='a"; DROP')
