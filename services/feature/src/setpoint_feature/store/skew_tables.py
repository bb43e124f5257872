"""The tables of what replays of served features have found."""

import sqlalchemy

from setpoint_feature.store import tables

progress = sqlalchemy.Table(
    "skew_progress",
    tables.metadata,
    # There is one row.
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("through_record", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("newest_record", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("replay_time", sqlalchemy.BigInteger, nullable=False),
)

days = sqlalchemy.Table(
    "skew_days",
    tables.metadata,
    sqlalchemy.Column("day", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("feature_set", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("predictions", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("differing_predictions", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("compared_values", sqlalchemy.BigInteger, nullable=False),
    # In no other count: retention had removed rows that were known at their times.
    sqlalchemy.Column(
        "removed_predictions", sqlalchemy.BigInteger, nullable=False, server_default="0"
    ),
)

differences = sqlalchemy.Table(
    "skew_differences",
    tables.metadata,
    sqlalchemy.Column("day", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("feature_set", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("feature", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("cause", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("differing_values", sqlalchemy.BigInteger, nullable=False),
)

examples = sqlalchemy.Table(
    "skew_examples",
    tables.metadata,
    sqlalchemy.Column("feature_set", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("feature", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("cause", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("prediction_id", sqlalchemy.Text, primary_key=True),
    sqlalchemy.Column("day", sqlalchemy.Integer, nullable=False),
    # Orders examples of a feature and a cause; only the newest are kept.
    sqlalchemy.Column("number", sqlalchemy.BigInteger, sqlalchemy.Identity(), nullable=False),
    sqlalchemy.Column("as_of_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("served", sqlalchemy.Text),
    sqlalchemy.Column("known", sqlalchemy.Text),
    sqlalchemy.Column("served_status", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("served_event_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("known_status", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("known_event_time", sqlalchemy.BigInteger, nullable=False),
    sqlalchemy.Column("note", sqlalchemy.Text, nullable=False),
)
