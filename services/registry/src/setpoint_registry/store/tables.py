"""The tables of the schema `registry`. Times are microseconds since 1970, UTC."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

SCHEMA = "registry"

metadata = sa.MetaData()

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("task", sa.SmallInteger, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("last_version", sa.BigInteger, nullable=False, server_default="0"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("format", sa.SmallInteger, nullable=False),
    sa.Column("signature", postgresql.JSONB, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("manifest_digest", sa.Text, nullable=False),
    sa.Column("artifact_digest", sa.Text, sa.ForeignKey("artifacts.digest"), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

alias_events = sa.Table(
    "alias_events",
    metadata,
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

approvals = sa.Table(
    "approvals",
    metadata,
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

requests = idempotency.requests_table(metadata)
