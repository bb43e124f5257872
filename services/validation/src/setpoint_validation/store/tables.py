"""The tables of the schema `validation`. Times are microseconds since 1970, UTC."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from setpoint_db import idempotency

SCHEMA = "validation"

metadata = sa.MetaData()

suite_versions = sa.Table(
    "suite_versions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("feature_set", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    # JSON, not JSONB: JSONB rewrites numbers and refuses the null character in texts.
    sa.Column("rules", postgresql.JSON, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

suites = sa.Table(
    "suites",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.ForeignKeyConstraint(["name", "version"], ["suite_versions.name", "suite_versions.version"]),
)

rule_revision = sa.Table(
    "rule_revision",
    metadata,
    sa.Column("is_only", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.CheckConstraint("is_only", name="rule_revision_one_row"),
)

runs = sa.Table(
    "runs",
    metadata,
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

requests = idempotency.requests_table(metadata)
