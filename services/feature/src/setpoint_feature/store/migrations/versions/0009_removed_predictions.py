"""Predictions that could not be replayed, because retention had removed rows."""

import sqlalchemy
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column(
        "skew_days",
        sqlalchemy.Column(
            "removed_predictions", sqlalchemy.BigInteger, nullable=False, server_default="0"
        ),
    )


def downgrade() -> None:
    op.drop_column("skew_days", "removed_predictions")
