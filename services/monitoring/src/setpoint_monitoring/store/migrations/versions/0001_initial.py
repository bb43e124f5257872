"""Records, predictions, outcomes, profiles, alerts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the first tables."""
    op.create_table(
        "records",
        sa.Column("record_id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("record_time", sa.BigInteger, nullable=False),
        sa.Column("profiled", sa.Boolean, nullable=False),
    )
    op.create_index(
        "records_to_profile", "records", ["record_id"], postgresql_where=sa.text("NOT profiled")
    )
    op.create_table(
        "predictions",
        sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("record_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("score", sa.Double),
    )
    op.create_index(
        "predictions_by_version", "predictions", ["model", "version", "event_time", "prediction_id"]
    )
    op.create_index("predictions_by_time", "predictions", ["event_time", "prediction_id"])
    op.create_index("predictions_by_record", "predictions", ["record_id"])
    op.create_table(
        "outcomes",
        sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("event_time", sa.BigInteger, primary_key=True),
        sa.Column("label", sa.Double, primary_key=True),
        sa.Column("arrival_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "profiles",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("column_name", sa.Text, primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("counts", postgresql.ARRAY(sa.BigInteger), nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", postgresql.UUID(as_uuid=False), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("cause", sa.Integer, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("breaches", postgresql.ARRAY(sa.Boolean), nullable=False),
        sa.Column("calm", sa.Integer, nullable=False),
        sa.Column("start_time", sa.BigInteger, nullable=False),
        sa.Column("fire_time", sa.BigInteger, nullable=False),
        sa.Column("resolve_time", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("prediction_ids", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("acknowledged_by", sa.Text, nullable=False),
    )
    op.create_index(
        "alerts_unresolved",
        "alerts",
        ["model", "version", "cause", "subject"],
        unique=True,
        postgresql_where=sa.text("state <> 4"),
    )
    op.create_table(
        "evaluations",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("cause", sa.Integer, primary_key=True),
        sa.Column("evaluated_until", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Takes the first tables away."""
    for table in ("evaluations", "alerts", "profiles", "outcomes", "predictions", "records"):
        op.drop_table(table)
