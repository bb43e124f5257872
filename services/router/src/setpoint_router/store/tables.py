"""The tables of the router."""

import sqlalchemy as sa

from setpoint_db import idempotency

SCHEMA = "router"

metadata = sa.MetaData(schema=SCHEMA)

routes = sa.Table(
    "routes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("current_revision", sa.BigInteger, nullable=False),
)

revisions = sa.Table(
    "route_revisions",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey(routes.c.name), primary_key=True),
    sa.Column("revision", sa.BigInteger, primary_key=True),
    # Microseconds UTC, as given or of the service's clock.
    sa.Column("valid_from", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    # The revision as GetRoute answers it, a serialised setpoint.router.v1.Route.
    sa.Column("content", sa.LargeBinary, nullable=False),
    # 10,000 versions, little-endian int32.
    sa.Column("slots", sa.LargeBinary, nullable=False),
    sa.Index("route_revisions_valid_from", "name", "valid_from"),
)

requests = idempotency.requests_table(metadata)
