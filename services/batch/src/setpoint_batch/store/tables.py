"""The tables of the schema ``batch``."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

METADATA = sa.MetaData()

REQUESTS = idempotency.requests_table(METADATA)

JOBS = sa.Table(
    "batch_predictions",
    METADATA,
    sa.Column("job_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("event_time", sa.BigInteger, nullable=False, doc="As asked for, 0 included"),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("etag", sa.BigInteger, nullable=False, doc="Grows with each change"),
    sa.Column("body", postgresql.JSONB, nullable=False),
    sa.Column("rows", sa.LargeBinary, nullable=False, doc="Inline input; empty without"),
    sa.Column("plan", postgresql.JSONB(none_as_null=True)),
    sa.Column("lease_holder", sa.Text),
    sa.Column("lease_until", sa.DateTime(timezone=True)),
    sa.UniqueConstraint("name", "event_time", name="batch_predictions_name_and_time"),
)
"""Job ids are UUIDv7, so their order is that of creation."""

PARTS = sa.Table(
    "parts",
    METADATA,
    sa.Column(
        "job_id",
        postgresql.UUID(as_uuid=False),
        sa.ForeignKey("batch_predictions.job_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("body", postgresql.JSONB, nullable=False),
)
