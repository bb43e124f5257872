"""The tables of the schema `feature`."""

import sqlalchemy

from setpoint_db import idempotency

SCHEMA = "feature"

metadata = sqlalchemy.MetaData()
requests = idempotency.requests_table(metadata)

identity = sqlalchemy.Table(
    "identity",
    metadata,
    sqlalchemy.Column("store_id", sqlalchemy.Text, primary_key=True),
)
"""One row: the name of this history, under which the online store keeps its copies."""

definitions = sqlalchemy.Table(
    "definitions",
    metadata,
    sqlalchemy.Column("kind", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("name", sqlalchemy.Text, primary_key=True),
    # Empty for entities, which have no versions.
    sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
    # The short name of a view's version inside the history.
    sqlalchemy.Column(
        "number", sqlalchemy.Integer, sqlalchemy.Identity(always=True), nullable=False, unique=True
    ),
    # Grows with every change; registrations hold a lock, so it grows in commit order.
    sqlalchemy.Column("revision", sqlalchemy.BigInteger, nullable=False, unique=True),
    # JSON rather than JSONB, which would change numbers and refuse some texts.
    sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
)

applied_definitions = sqlalchemy.Table(
    "applied_definitions",
    metadata,
    # Of all definitions afterwards.
    sqlalchemy.Column("revision", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
    sqlalchemy.Column("content", sqlalchemy.JSON, nullable=False),
)
"""What was applied together: who, when, why, whether by force, and every difference."""

streams = sqlalchemy.Table(
    "streams",
    metadata,
    sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
    # The row lock on this counter serialises the writes of a view, so sequences have no gaps and
    # become visible in their order.
    sqlalchemy.Column("last_sequence", sqlalchemy.BigInteger, nullable=False),
)

batches = sqlalchemy.Table(
    "batches",
    metadata,
    sqlalchemy.Column("batch_id", sqlalchemy.Uuid(as_uuid=False), primary_key=True),
    sqlalchemy.Column("view", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("content", sqlalchemy.LargeBinary, nullable=False),
    sqlalchemy.Column("first_sequence", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("last_sequence", sqlalchemy.BigInteger, nullable=False),
    # What a replay tells about rows that were left out; empty where there are none.
    sqlalchemy.Column("refused", sqlalchemy.LargeBinary, nullable=False),
    sqlalchemy.Column(
        "create_time",
        sqlalchemy.DateTime(timezone=True),
        nullable=False,
        server_default=sqlalchemy.func.now(),
    ),
    # Old ones are forgotten.
    sqlalchemy.Index("batches_create_time", "create_time"),
    # Tells when a row was stored; batches without rows stored none.
    sqlalchemy.Index(
        "batches_sequences",
        "view",
        "first_sequence",
        postgresql_where=sqlalchemy.text("first_sequence <= last_sequence"),
    ),
)

history = sqlalchemy.Table(
    "history",
    metadata,
    sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("sequence", sqlalchemy.BigInteger, primary_key=True, autoincrement=False),
    sqlalchemy.Column("event_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("created_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("entity_key", sqlalchemy.LargeBinary, nullable=False),
    sqlalchemy.Column("packed", sqlalchemy.LargeBinary, nullable=False),
    # Three short indexes rather than complete ones: they decide how fast rows can be written.
    # An expression, so that queries by key fit this index alone, whatever the planner believes.
    sqlalchemy.Index("history_key", sqlalchemy.text("(view + 0)"), "entity_key", "event_time"),
    sqlalchemy.Index("history_event_time", "view", "event_time"),
)
HISTORY_COLUMNS = ("view", "sequence", "event_time", "created_time", "entity_key", "packed")

segments = sqlalchemy.Table(
    "segments",
    metadata,
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
    # Retention was applied as of this time.
    sqlalchemy.Column("thinned_time", sqlalchemy.BigInteger, nullable=False),
    # When another segment took its place; its file stays for those who still read it.
    sqlalchemy.Column("retired_time", sqlalchemy.BigInteger),
    sqlalchemy.CheckConstraint("first_sequence <= last_sequence", name="segments_sequences"),
    # Two live segments never begin with the same sequence, whatever goes wrong elsewhere.
    sqlalchemy.Index(
        "segments_live",
        "view",
        "first_sequence",
        unique=True,
        postgresql_where=sqlalchemy.text("retired_time IS NULL"),
    ),
)

retained = sqlalchemy.Table(
    "retained",
    metadata,
    sqlalchemy.Column("view", sqlalchemy.Integer, primary_key=True),
    # Reads of earlier times, or of fewer sequences, may lack rows that retention removed.
    sqlalchemy.Column("time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("sequence", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("rows", sqlalchemy.BigInteger, nullable=False),
)
