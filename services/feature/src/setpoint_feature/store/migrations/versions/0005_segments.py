"""Segments of the history outside the database, and what retention removed."""

import sqlalchemy
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "segments",
        sqlalchemy.Column("segment_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
        sqlalchemy.Column("view", sqlalchemy.Integer, nullable=False),
        sqlalchemy.Column("first_sequence", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("last_sequence", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("rows", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("bytes", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("digest", sqlalchemy.LargeBinary, nullable=False),
        sqlalchemy.Column("path", sqlalchemy.Text, nullable=False, unique=True),
        sqlalchemy.Column("min_event_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("max_event_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("min_created_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("max_created_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("thinned_time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("retired_time", sqlalchemy.BigInteger),
        sqlalchemy.CheckConstraint("first_sequence <= last_sequence", name="segments_sequences"),
    )
    # Two live segments never begin with the same sequence, whatever goes wrong elsewhere.
    op.create_index(
        "segments_live",
        "segments",
        ["view", "first_sequence"],
        unique=True,
        postgresql_where=sqlalchemy.text("retired_time IS NULL"),
    )
    op.create_table(
        "retained",
        sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("time", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("sequence", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("rows", sqlalchemy.BigInteger, nullable=False),
    )


def downgrade() -> None:
    # Rows in segments would be lost; whoever means that drops them by hand first.
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM segments) THEN "
        "RAISE EXCEPTION 'the history has rows in segments'; END IF; END $$"
    )
    op.drop_table("retained")
    op.drop_table("segments")
