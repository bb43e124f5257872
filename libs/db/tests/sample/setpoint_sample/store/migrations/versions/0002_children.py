"""Children."""

import sqlalchemy
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "children",
        sqlalchemy.Column("id", sqlalchemy.BigInteger, primary_key=True),
        sqlalchemy.Column("parent", sqlalchemy.Text, nullable=False),
        sqlalchemy.ForeignKeyConstraint(["parent"], ["parents.name"], name="children_parent_known"),
    )


def downgrade() -> None:
    op.drop_table("children")
