"""An outcome may be corrected back to an earlier label."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tells outcomes apart by when they were learned, too."""
    op.drop_constraint("outcomes_pkey", "outcomes", type_="primary")
    op.create_primary_key(
        "outcomes_pkey", "outcomes", ["prediction_id", "event_time", "arrival_time", "label"]
    )


def downgrade() -> None:
    """Keeps the last one of each label."""
    op.execute(
        "DELETE FROM outcomes earlier USING outcomes later "
        "WHERE later.prediction_id = earlier.prediction_id "
        "AND later.event_time = earlier.event_time AND later.label = earlier.label "
        "AND later.arrival_time > earlier.arrival_time"
    )
    op.drop_constraint("outcomes_pkey", "outcomes", type_="primary")
    op.create_primary_key("outcomes_pkey", "outcomes", ["prediction_id", "event_time", "label"])
