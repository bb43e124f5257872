"""Jobs, their parts, requests."""

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
        "batch_predictions",
        sa.Column("job_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("etag", sa.BigInteger, nullable=False),
        sa.Column("body", postgresql.JSONB, nullable=False),
        sa.Column("rows", sa.LargeBinary, nullable=False),
        sa.Column("plan", postgresql.JSONB),
        sa.Column("lease_holder", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("name", "event_time", name="batch_predictions_name_and_time"),
    )
    op.create_index(
        "batch_predictions_waiting",
        "batch_predictions",
        ["job_id"],
        postgresql_where=sa.text("state <= 3"),
    )
    op.create_table(
        "parts",
        sa.Column(
            "job_id",
            postgresql.UUID(as_uuid=False),
            sa.ForeignKey("batch_predictions.job_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("body", postgresql.JSONB, nullable=False),
    )


def downgrade() -> None:
    """Takes the first tables away."""
    op.drop_table("parts")
    op.drop_table("batch_predictions")
    idempotency.drop_table_op()
