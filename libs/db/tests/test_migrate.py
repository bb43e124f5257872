import asyncio

import asyncpg
import pytest
import sqlalchemy

from setpoint_db import engine as engines
from setpoint_db import migrate
from setpoint_db import testing as db_testing
from setpoint_devstack import ports
from setpoint_runtime import errors
from setpoint_testkit import databases as database_pool

SCHEMA = "sample"


async def _fetch(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_upgrades_into_the_schema(database_url: str, sample_package: str) -> None:
    """All tables, that of the versions too, lie in the service's schema."""
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    rows = await _fetch(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'sample'")
    assert {row["tablename"] for row in rows} == {
        "alembic_version",
        "children",
        "parents",
        "requests",
    }
    assert await _fetch(database_url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


async def test_upgrades_once_from_many_replicas(database_url: str, sample_package: str) -> None:
    """Replicas that start at the same moment take turns; each finds the schema ready."""
    await asyncio.gather(
        *(migrate.upgrade(database_url, schema=SCHEMA, package=sample_package) for _ in range(5))
    )
    rows = await _fetch(database_url, "SELECT version_num FROM sample.alembic_version")
    assert [row["version_num"] for row in rows] == ["0003"]


async def test_goes_up_and_down_and_up(database_url: str, sample_package: str) -> None:
    """The helper that services use finds the same schema after a round trip."""
    await db_testing.check_migrations(database_url, schema=SCHEMA, package=sample_package)


async def test_goes_down_to_one_version(database_url: str, sample_package: str) -> None:
    """A downgrade stops where it is told to."""
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    await migrate.downgrade(database_url, schema=SCHEMA, package=sample_package, revision="0001")
    rows = await _fetch(database_url, "SELECT version_num FROM sample.alembic_version")
    assert [row["version_num"] for row in rows] == ["0001"]


async def test_waits_for_a_database_that_is_starting(sample_package: str) -> None:
    """A database that never comes is UNAVAILABLE after the given time, not before and not never."""
    url = f"postgresql://nobody@127.0.0.1:{ports.free_port()}/nothing"
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(errors.UnavailableError):
        await migrate.upgrade(url, schema=SCHEMA, package=sample_package, wait_seconds=0.5)
    assert 0.4 < loop.time() - begin < 10


async def test_tries_again_when_a_table_is_locked(
    database_url: str, sample_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that holds a table makes the migration give way and come back."""
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.1)
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    await migrate.downgrade(database_url, schema=SCHEMA, package=sample_package, revision="0001")
    holder = await asyncpg.connect(database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE sample.parents IN ROW EXCLUSIVE MODE")
    upgrading = asyncio.create_task(
        migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    )
    await asyncio.sleep(0.5)
    assert not upgrading.done()
    await transaction.rollback()
    await holder.close()
    await upgrading


async def test_makes_a_role_that_works_with_the_tables_only(
    database_url: str, sample_package: str
) -> None:
    """The role reads and writes, but can neither change the tables nor make new ones."""
    role = f"sample_{database_url.rsplit('_', 1)[1]}"
    await migrate.upgrade(
        database_url, schema=SCHEMA, package=sample_package, role=role, role_password="it's"
    )
    url = engines.database_url(database_url).set(username=role, password="it's")
    engine = engines.create_engine(
        url.render_as_string(hide_password=False), application_name="t", schema=SCHEMA
    )
    async with engines.transaction(engine) as connection:
        await connection.execute(sqlalchemy.text("INSERT INTO parents VALUES ('a')"))
    for statement in ("DROP TABLE parents", "CREATE TABLE mine (n int)"):
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            async with engines.transaction(engine) as connection:
                await connection.execute(sqlalchemy.text(statement))
    await migrate.require_head(engine, schema=SCHEMA, package=sample_package)
    await engine.dispose()
    await _fetch(database_url, f"DROP OWNED BY {role}; ")
    await _fetch(database_url, f"DROP ROLE {role}")


async def test_refuses_a_schema_of_another_version(database_url: str, sample_package: str) -> None:
    """A service that may not migrate says at its start which version it found and which it needs."""
    engine = engines.create_engine(database_url, application_name="t", schema=SCHEMA)
    with pytest.raises(migrate.SchemaVersionError, match="no version"):
        await migrate.require_head(engine, schema=SCHEMA, package=sample_package)
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    await migrate.require_head(engine, schema=SCHEMA, package=sample_package)
    await migrate.downgrade(database_url, schema=SCHEMA, package=sample_package, revision="0001")
    with pytest.raises(migrate.SchemaVersionError, match="0001"):
        await migrate.require_head(engine, schema=SCHEMA, package=sample_package)
    await engine.dispose()


async def test_leaves_a_newer_schema_alone(database_url: str, sample_package: str) -> None:
    """An earlier release that meets a later one's schema starts and changes nothing."""
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    await _fetch(database_url, "UPDATE sample.alembic_version SET version_num = '0099'")
    await migrate.upgrade(database_url, schema=SCHEMA, package=sample_package)
    engine = engines.create_engine(database_url, application_name="t", schema=SCHEMA)
    await migrate.require_head(engine, schema=SCHEMA, package=sample_package)
    await engine.dispose()
    rows = await _fetch(database_url, "SELECT version_num FROM sample.alembic_version")
    assert [row["version_num"] for row in rows] == ["0099"]


def test_refuses_a_package_without_migrations() -> None:
    """A wrong package name is an error that names it."""
    with pytest.raises(FileNotFoundError, match="setpoint_db"):
        migrate.head("setpoint_db")
    with pytest.raises(FileNotFoundError, match="setpoint_nowhere"):
        migrate.head("setpoint_nowhere")


async def test_copies_a_migrated_template(
    databases: database_pool.Databases, sample_package: str
) -> None:
    """A database copied from a migrated one is migrated."""

    async def prepare(url: str) -> None:
        await migrate.upgrade(url, schema=SCHEMA, package=sample_package)

    template = databases.template("sample", prepare)
    assert databases.template("sample", prepare) == template
    name = databases.create(template)
    rows = await _fetch(databases.url(name), "SELECT version_num FROM sample.alembic_version")
    assert [row["version_num"] for row in rows] == ["0003"]
    databases.drop(name)
