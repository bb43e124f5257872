"""What replays of served features have found."""

import sqlalchemy
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "skew_progress",
        sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
        sqlalchemy.Column("through_record", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("newest_record", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("replay_time", sqlalchemy.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO skew_progress VALUES (1, 0, 0, 0)")
    op.create_table(
        "skew_days",
        *_of_a_day(),
        sqlalchemy.Column("predictions", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("differing_predictions", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("compared_values", sqlalchemy.BigInteger, nullable=False),
    )
    op.create_table(
        "skew_differences",
        *_of_a_day(),
        sqlalchemy.Column("feature", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("cause", sqlalchemy.Integer, primary_key=True, autoincrement=False),
        sqlalchemy.Column("differing_values", sqlalchemy.BigInteger, nullable=False),
    )
    op.create_table(
        "skew_examples",
        sqlalchemy.Column("feature_set", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("feature", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("cause", sqlalchemy.Integer, primary_key=True, autoincrement=False),
        sqlalchemy.Column("prediction_id", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("day", sqlalchemy.Integer, nullable=False),
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


def _of_a_day() -> list[sqlalchemy.Column[object]]:
    return [
        sqlalchemy.Column("day", sqlalchemy.Integer, primary_key=True, autoincrement=False),
        sqlalchemy.Column("feature_set", sqlalchemy.Text, primary_key=True),
        sqlalchemy.Column("version", sqlalchemy.Text, primary_key=True),
    ]


def downgrade() -> None:
    for table in ("skew_examples", "skew_differences", "skew_days", "skew_progress"):
        op.drop_table(table)
