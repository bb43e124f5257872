"""Schemas and roles: each service sees its own tables and nobody else's."""

import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint_db import names


async def create_schema(
    connection: sqlalchemy_asyncio.AsyncConnection, schema: str, owner: str | None = None
) -> None:
    """Makes a schema when it is missing.

    Looking first matters: CREATE SCHEMA IF NOT EXISTS asks for the right to create even when
    there is nothing to do, and a service's own role need not have it.

    Args:
        connection: a transaction.
        schema: name of the schema.
        owner: role that owns it; the current one by default.
    """
    found = await connection.execute(
        sqlalchemy.text("SELECT 1 FROM pg_namespace WHERE nspname = :name"),
        {"name": names.check_schema(schema)},
    )
    if found.first() is not None:
        return
    authorization = "" if owner is None else f' AUTHORIZATION "{names.check_schema(owner)}"'
    await connection.execute(sqlalchemy.text(f'CREATE SCHEMA "{schema}"{authorization}'))


async def create_role(
    connection: sqlalchemy_asyncio.AsyncConnection, role: str, password: str | None
) -> bool:
    """Makes a login role when it is missing and the current user may; says whether it exists.

    An existing role gets the password, when one is given and the user may change it.
    """
    names.check_schema(role)
    row = (
        await connection.execute(
            sqlalchemy.text(
                "SELECT (rolcreaterole OR rolsuper) AS may_create,"
                " EXISTS (SELECT 1 FROM pg_roles WHERE rolname = :role) AS is_there"
                " FROM pg_roles WHERE rolname = current_user"
            ),
            {"role": role},
        )
    ).one()
    if not row.may_create:
        return bool(row.is_there)
    verb = "ALTER" if row.is_there else "CREATE"
    secret = "" if password is None else f" PASSWORD {_literal(password)}"
    await connection.exec_driver_sql(f'{verb} ROLE "{role}" LOGIN{secret}')
    return True


def _literal(text: str) -> str:
    """Quotes a string for a statement that takes no parameters."""
    if "\0" in text or "\\" in text:
        raise ValueError("a password cannot hold a backslash or a null character here")
    return "'" + text.replace("'", "''") + "'"


async def grant(
    connection: sqlalchemy_asyncio.AsyncConnection, schema: str, role: str, password: str | None
) -> bool:
    """Lets a role work with a schema's tables, present and future, but not change them.

    Returns:
        Whether the role exists now; False when the current user may not make roles.
    """
    if not await create_role(connection, role, password):
        return False
    rows = "SELECT, INSERT, UPDATE, DELETE"
    later = f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{schema}"'
    for statement in (
        f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"',
        f'GRANT {rows} ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"',
        f'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}"',
        f'{later} GRANT {rows} ON TABLES TO "{role}"',
        f'{later} GRANT USAGE, SELECT ON SEQUENCES TO "{role}"',
    ):
        await connection.exec_driver_sql(statement)
    return True


async def create_owner(
    connection: sqlalchemy_asyncio.AsyncConnection, schema: str, role: str, password: str | None
) -> None:
    """Makes a schema together with the login role that owns it and nothing else.

    That is how a stack gives each service its own corner of one database: the service migrates
    its schema itself and cannot read another's.
    """
    if not await create_role(connection, role, password):
        raise PermissionError(f"the role {role} does not exist and may not be made")
    database = (await connection.execute(sqlalchemy.text("SELECT current_database()"))).scalar_one()
    quoted = connection.dialect.identifier_preparer.quote(database)
    await connection.exec_driver_sql(f'GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO "{role}"')
    await create_schema(connection, schema, role)
