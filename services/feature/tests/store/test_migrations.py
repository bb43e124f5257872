import sqlalchemy
from alembic import autogenerate, migration

from setpoint_db import engine as engines
from setpoint_db import migrate
from setpoint_db import testing as db_testing
from setpoint_feature import wiring
from setpoint_feature.store import tables


async def test_migrations_go_up_down_and_up(database_url: str) -> None:
    """Every migration can be taken back and applied again."""
    await db_testing.check_migrations(database_url, schema=tables.SCHEMA, package=wiring.PACKAGE)


async def test_migrations_make_the_declared_tables(database_url: str) -> None:
    """The tables that the code declares are those that the migrations make."""
    await migrate.upgrade(database_url, schema=tables.SCHEMA, package=wiring.PACKAGE)
    engine = engines.create_engine(database_url, application_name="test", schema=tables.SCHEMA)

    def compare(connection: sqlalchemy.Connection) -> list[object]:
        context = migration.MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, _: (
                    (kind, name) != ("table", migrate.VERSION_TABLE)
                )
            },
        )
        return list(autogenerate.compare_metadata(context, tables.metadata))

    async with engines.transaction(engine) as connection:
        differences = await connection.run_sync(compare)
    await engine.dispose()
    assert differences == []
