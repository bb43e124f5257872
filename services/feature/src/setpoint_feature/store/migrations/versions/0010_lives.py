"""Snapshots with a stated life, and batches found by their age."""

import sqlalchemy
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column(
        "snapshots",
        sqlalchemy.Column("expire_time", sqlalchemy.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("batches_create_time", "batches", ["create_time"])


def downgrade() -> None:
    op.drop_index("batches_create_time", "batches")
    op.drop_column("snapshots", "expire_time")
