"""Policies, runs, requests."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the first tables."""
    idempotency.create_table_op()
    op.create_table(
        "policies",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("body", postgresql.JSONB, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("etag", sa.BigInteger, nullable=False),
        sa.Column("body", postgresql.JSONB, nullable=False),
        sa.Column("lease_holder", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
    )
    op.create_index(
        "runs_one_at_a_time",
        "runs",
        ["model"],
        unique=True,
        postgresql_where=sa.text("state <= 4"),
    )
    op.create_index("runs_by_model", "runs", ["model", "run_id"])


def downgrade() -> None:
    """Takes the first tables away."""
    op.drop_table("runs")
    op.drop_table("policies")
    idempotency.drop_table_op()
