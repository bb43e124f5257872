from setpoint_db import testing as db_testing
from setpoint_validation.store import tables


async def test_upgrade_and_downgrade(database_url: str) -> None:
    """The migrations go up, down to nothing, and up again to the same schema."""
    await db_testing.check_migrations(
        database_url, schema=tables.SCHEMA, package="setpoint_validation"
    )
