"""Routes and their immutable revisions."""

import alembic
import sqlalchemy as sa

from setpoint_db import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    alembic.op.create_table(
        "routes",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("current_revision", sa.BigInteger, nullable=False),
    )
    alembic.op.create_table(
        "route_revisions",
        sa.Column("name", sa.Text, sa.ForeignKey("routes.name"), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True),
        sa.Column("valid_from", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("slots", sa.LargeBinary, nullable=False),
    )
    alembic.op.create_index("route_revisions_valid_from", "route_revisions", ["name", "valid_from"])
    idempotency.create_table_op()


def downgrade() -> None:
    idempotency.drop_table_op()
    alembic.op.drop_table("route_revisions")
    alembic.op.drop_table("routes")
