"""The script Alembic runs for every service: migrate over the connection it is given."""

import alembic

_attributes = alembic.context.config.attributes

alembic.context.configure(
    connection=_attributes["connection"],
    version_table=_attributes["version_table"],
    version_table_schema=_attributes["schema"],
    # One broken migration leaves those before it in place, and a migration may step out of its
    # transaction (autocommit_block) for CREATE INDEX CONCURRENTLY.
    transaction_per_migration=True,
)

with alembic.context.begin_transaction():
    alembic.context.run_migrations()
