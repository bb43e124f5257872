"""What shadows predict, apart from what callers got."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "shadow_predictions",
        sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("record_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("primary_id", postgresql.UUID(as_uuid=False), nullable=False),
    )
    op.create_index("shadow_predictions_by_primary", "shadow_predictions", ["primary_id"])
    op.create_index(
        "shadow_predictions_by_version",
        "shadow_predictions",
        ["model", "version", "event_time", "prediction_id"],
    )
    op.create_index(
        "shadow_predictions_by_time", "shadow_predictions", ["event_time", "prediction_id"]
    )
    op.create_index("shadow_predictions_by_record", "shadow_predictions", ["record_id"])


def downgrade() -> None:
    """Takes the table away."""
    op.drop_table("shadow_predictions")
