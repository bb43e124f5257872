"""The tables of validation."""

import alembic
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_suites()
    _create_revision()
    _create_runs()
    idempotency.create_table_op()


def _create_suites() -> None:
    alembic.op.create_table(
        "suite_versions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("feature_set", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("rules", postgresql.JSON, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    alembic.op.create_table(
        "suites",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("is_deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["suite_versions.name", "suite_versions.version"]
        ),
    )


def _create_revision() -> None:
    alembic.op.create_table(
        "rule_revision",
        sa.Column("is_only", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.CheckConstraint("is_only", name="rule_revision_one_row"),
    )
    alembic.op.execute("INSERT INTO rule_revision (revision) VALUES (1)")


def _create_runs() -> None:
    alembic.op.create_table(
        "runs",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.Uuid(as_uuid=False), nullable=False, unique=True),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("suite_version", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("results", postgresql.JSON, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["suite", "suite_version"], ["suite_versions.name", "suite_versions.version"]
        ),
    )
    alembic.op.create_index("runs_of_suite", "runs", ["suite", "sequence"])


def downgrade() -> None:
    idempotency.drop_table_op()
    for table in ("runs", "rule_revision", "suites", "suite_versions"):
        alembic.op.drop_table(table)
