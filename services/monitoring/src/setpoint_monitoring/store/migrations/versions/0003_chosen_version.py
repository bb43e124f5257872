"""The version that was chosen where another one stood in for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the version, null for all predictions so far."""
    op.add_column("predictions", sa.Column("chosen_version", sa.BigInteger))
    op.create_index(
        "predictions_by_chosen_version",
        "predictions",
        ["model", "chosen_version", "event_time", "prediction_id"],
        postgresql_where=sa.text("chosen_version IS NOT NULL"),
    )


def downgrade() -> None:
    """Forgets it."""
    op.drop_index("predictions_by_chosen_version", "predictions")
    op.drop_column("predictions", "chosen_version")
