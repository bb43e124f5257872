"""When a row was stored is found by its sequence."""

import sqlalchemy
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index(
        "batches_sequences",
        "batches",
        ["view", "first_sequence"],
        postgresql_where=sqlalchemy.text("first_sequence <= last_sequence"),
    )


def downgrade() -> None:
    op.drop_index("batches_sequences", "batches")
