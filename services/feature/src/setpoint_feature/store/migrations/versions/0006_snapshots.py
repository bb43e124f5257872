"""Training sets that are kept."""

import sqlalchemy
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sqlalchemy.Column("snapshot_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
        sqlalchemy.Column("feature_set", sqlalchemy.Text, nullable=False),
        sqlalchemy.Column("version", sqlalchemy.Text, nullable=False),
        sqlalchemy.Column("digest", sqlalchemy.Text, nullable=False),
        sqlalchemy.Column("rows", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("start_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("end_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("create_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("snapshots")
