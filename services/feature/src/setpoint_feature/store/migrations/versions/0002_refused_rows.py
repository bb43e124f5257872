"""What was left out of a batch, for replays."""

import sqlalchemy
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "batches",
        sqlalchemy.Column(
            "refused", sqlalchemy.LargeBinary, nullable=False, server_default=sqlalchemy.text("''")
        ),
    )


def downgrade() -> None:
    op.drop_column("batches", "refused")
