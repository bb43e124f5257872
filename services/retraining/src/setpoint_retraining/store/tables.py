"""The tables of the schema ``retraining``."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

METADATA = sa.MetaData()

REQUESTS = idempotency.requests_table(METADATA)

POLICIES = sa.Table(
    "policies",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("body", postgresql.JSONB, nullable=False),
)

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("etag", sa.BigInteger, nullable=False, doc="Grows with each change"),
    sa.Column("body", postgresql.JSONB, nullable=False),
    sa.Column("lease_holder", sa.Text),
    sa.Column("lease_until", sa.DateTime(timezone=True)),
)
"""Run ids are UUIDv7, so their order is that of creation."""
