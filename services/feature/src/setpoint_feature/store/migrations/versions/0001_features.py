"""Definitions, history and remembered requests."""

import sqlalchemy
from alembic import op

from setpoint_db import idempotency

revision = "0001"
down_revision = None


def upgrade() -> None:
    idempotency.create_table_op()
    op.create_table("identity", sqlalchemy.Column("store_id", sqlalchemy.Text, primary_key=True))
    op.execute("INSERT INTO identity VALUES (left(replace(gen_random_uuid()::text, '-', ''), 12))")
    op.create_table(
        "definitions",
        sqlalchemy.Column("kind", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("name", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column(
            "number", sqlalchemy.Integer, sqlalchemy.Identity(always=True), nullable=False
        ),
        sqlalchemy.Column("revision", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
        sqlalchemy.UniqueConstraint("number"),
        sqlalchemy.UniqueConstraint("revision"),
        sqlalchemy.CheckConstraint(
            "kind IN ('entity', 'view', 'feature_set')", name="definitions_kind"
        ),
    )
    op.create_table(
        "streams",
        sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("last_sequence", sqlalchemy.BigInteger, nullable=False),
    )
    op.create_table(
        "batches",
        sqlalchemy.Column("batch_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
        sqlalchemy.Column("view", sqlalchemy.Integer, nullable=False),
        sqlalchemy.Column("content", sqlalchemy.LargeBinary, nullable=False),
        sqlalchemy.Column("first_sequence", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("last_sequence", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column(
            "create_time",
            sqlalchemy.DateTime(timezone=True),
            nullable=False,
            server_default=sqlalchemy.func.now(),
        ),
    )
    _create_history()


def _create_history() -> None:
    op.create_table(
        "history",
        sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("sequence", sqlalchemy.BigInteger, primary_key=True),
        sqlalchemy.Column("event_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("created_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("entity_key", sqlalchemy.LargeBinary, nullable=False),
        sqlalchemy.Column("packed", sqlalchemy.LargeBinary, nullable=False),
    )
    # Packed numbers hardly compress; trying costs time on every write.
    op.execute("ALTER TABLE history ALTER packed SET STORAGE EXTERNAL")
    op.create_index("history_entity", "history", ["view", "entity_key", "event_time"])
    op.create_index("history_event_time", "history", ["view", "event_time"])


def downgrade() -> None:
    for table in ("history", "batches", "streams", "definitions", "identity"):
        op.drop_table(table)
    idempotency.drop_table_op()
