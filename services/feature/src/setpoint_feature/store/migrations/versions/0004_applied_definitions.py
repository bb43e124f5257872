"""What was applied together, and by whom."""

import sqlalchemy
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "applied_definitions",
        sqlalchemy.Column("revision", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
        sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("applied_definitions")
