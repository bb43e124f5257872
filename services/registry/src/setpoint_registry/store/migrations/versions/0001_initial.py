"""The tables of the registry, and the guard that makes decisions and versions permanent."""

import alembic
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_PERMANENT = ("artifacts", "model_versions", "alias_events", "approvals")


def upgrade() -> None:
    _create_models()
    _create_versions()
    _create_alias_events()
    _create_approvals()
    idempotency.create_table_op()
    _make_permanent()


def _create_models() -> None:
    alembic.op.create_table(
        "models",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("task", sa.SmallInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("last_version", sa.BigInteger, nullable=False, server_default="0"),
    )
    alembic.op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("format", sa.SmallInteger, nullable=False),
        sa.Column("signature", postgresql.JSONB, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )


def _create_versions() -> None:
    alembic.op.create_table(
        "model_versions",
        sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("manifest_digest", sa.Text, nullable=False),
        sa.Column("artifact_digest", sa.Text, sa.ForeignKey("artifacts.digest"), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    alembic.op.create_index("model_versions_artifact", "model_versions", ["artifact_digest"])


def _create_alias_events() -> None:
    alembic.op.create_table(
        "alias_events",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("valid_from", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"]
        ),
    )
    # Events of an alias rise in both columns, so this order is that of its history.
    alembic.op.create_index(
        "alias_events_in_force", "alias_events", ["model", "alias", "valid_from", "sequence"]
    )
    alembic.op.create_index("alias_events_of_model", "alias_events", ["model", "sequence"])


def _create_approvals() -> None:
    alembic.op.create_table(
        "approvals",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("approval_id", sa.Uuid(as_uuid=False), nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("manifest_digest", sa.Text, nullable=False),
        sa.Column("decision", sa.SmallInteger, nullable=False),
        sa.Column("approver", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("decide_time", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"]
        ),
        sa.UniqueConstraint("model", "version", name="approvals_once_per_version"),
    )
    alembic.op.create_index("approvals_of_model", "approvals", ["model", "sequence"])


def _make_permanent() -> None:
    alembic.op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'rows of % are permanent', TG_TABLE_NAME;
        END
        $$
        """
    )
    for table in _PERMANENT:
        alembic.op.execute(
            f"CREATE TRIGGER {table}_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    idempotency.drop_table_op()
    for table in ("approvals", "alias_events", "model_versions", "artifacts", "models"):
        alembic.op.drop_table(table)
    alembic.op.execute("DROP FUNCTION refuse_change()")
