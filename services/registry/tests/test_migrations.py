import asyncpg
import pytest

from setpoint.registry.v1 import registry_service_pb2 as pb
from setpoint_db import testing as db_testing
from setpoint_registry import testing
from setpoint_registry.store import tables
from setpoint_registry.testing import Registry


async def test_upgrade_and_downgrade(database_url: str) -> None:
    """The migrations go up, down to nothing, and up again to the same schema."""
    await db_testing.check_migrations(
        database_url, schema=tables.SCHEMA, package="setpoint_registry"
    )


@pytest.mark.parametrize("table", ["artifacts", "model_versions", "alias_events", "approvals"])
async def test_rows_are_permanent(registry: Registry, table: str) -> None:
    """Nobody changes or deletes what was decided, not even by hand."""
    await registry.with_model()
    await registry.decide(await registry.with_version())
    await registry.stub.SetAlias(
        pb.SetAliasRequest(
            request_id=testing.request_id(), model="late", alias="champion", version=1, actor="a"
        )
    )
    connection = await asyncpg.connect(registry.database_url)
    try:
        for statement in (
            f"DELETE FROM registry.{table}",
            f"TRUNCATE registry.{table} CASCADE",
            f"UPDATE registry.{table} SET {'digest' if table == 'artifacts' else 'model'} = 'x'",
        ):
            with pytest.raises(asyncpg.RaiseError, match="permanent"):
                await connection.execute(statement)
    finally:
        await connection.close()
