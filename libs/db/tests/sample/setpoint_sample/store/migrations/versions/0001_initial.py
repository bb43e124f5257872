"""Parents, children and remembered requests."""

import sqlalchemy
from alembic import op

from setpoint_db import idempotency

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "parents",
        sqlalchemy.Column("name", sqlalchemy.Text, primary_key=True),
        sqlalchemy.CheckConstraint("name <> ''", name="parents_name_not_empty"),
    )
    idempotency.create_table_op()


def downgrade() -> None:
    idempotency.drop_table_op()
    op.drop_table("parents")
