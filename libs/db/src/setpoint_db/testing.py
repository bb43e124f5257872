"""What a service's tests need to hold their migrations to their promises."""

import asyncpg

from setpoint_db import migrate, names

_CATALOGUE = """
SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
       || coalesce(' default ' || column_default, '') AS line
  FROM information_schema.columns WHERE table_schema = $1
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = $1
UNION ALL
SELECT 'constraint ' || conrelid::regclass::text || '.' || conname || ' ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = $1::regnamespace AND conrelid <> 0
UNION ALL
SELECT 'trigger ' || tgrelid::regclass::text || ' ' || pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = $1::regnamespace AND NOT tgisinternal
UNION ALL
SELECT 'object ' || relkind::text || ' ' || relname FROM pg_class WHERE relnamespace = $1::regnamespace
UNION ALL
SELECT 'function ' || proname || ' ' || md5(prosrc) FROM pg_proc
 WHERE pronamespace = $1::regnamespace
UNION ALL
SELECT 'type ' || typtype::text || ' ' || typname FROM pg_type
 WHERE typnamespace = $1::regnamespace AND typtype IN ('e', 'd')
ORDER BY line
"""


async def describe_schema(url: str, schema: str) -> list[str]:
    """Returns what a schema holds, one line per column, index, constraint and so on."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_CATALOGUE, names.check_schema(schema))
    finally:
        await connection.close()
    return [row["line"] for row in rows]


async def check_migrations(url: str, *, schema: str, package: str) -> None:
    """Goes up, down to nothing, and up again; the schema must be the same both times.

    Args:
        url: address of an empty database.
        schema: the service's schema.
        package: the service's package.

    Raises:
        AssertionError: with the lines that differ, or that a downgrade leaves behind.
    """
    await migrate.upgrade(url, schema=schema, package=package)
    first = await describe_schema(url, schema)
    await migrate.downgrade(url, schema=schema, package=package)
    left = [
        line for line in await describe_schema(url, schema) if migrate.VERSION_TABLE not in line
    ]
    if left:
        raise AssertionError("downgrading leaves behind:\n" + "\n".join(left))
    await migrate.upgrade(url, schema=schema, package=package)
    difference = set(first) ^ set(await describe_schema(url, schema))
    if difference:
        raise AssertionError("after down and up differ:\n" + "\n".join(sorted(difference)))
