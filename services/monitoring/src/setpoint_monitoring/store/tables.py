"""The tables of the schema ``monitoring``."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

METADATA = sa.MetaData()

RECORDS = sa.Table(
    "records",
    METADATA,
    sa.Column("record_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column(
        "payload", sa.LargeBinary, nullable=False, doc="The PredictionRecords message, as shipped"
    ),
    sa.Column("record_time", sa.BigInteger, nullable=False, doc="Microseconds UTC"),
    sa.Column("profiled", sa.Boolean, nullable=False, doc="Counted into the profiles"),
)
"""What routers sent, unchanged: the source of everything else."""

PREDICTIONS = sa.Table(
    "predictions",
    METADATA,
    sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("record_id", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False, doc="Row of the record, from 0"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("event_time", sa.BigInteger, nullable=False, doc="Microseconds UTC"),
    sa.Column("status", sa.Integer, nullable=False, doc="google.rpc.Code"),
    sa.Column("score", sa.Double, doc="The output that outcomes are compared with"),
    sa.Column("chosen_version", sa.BigInteger, doc="Where another version stood in for it"),
)
"""An entry for each prediction, pointing at its row of a record."""

SHADOW_PREDICTIONS = sa.Table(
    "shadow_predictions",
    METADATA,
    sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("record_id", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False, doc="Row of the record, from 0"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("event_time", sa.BigInteger, nullable=False, doc="Microseconds UTC"),
    sa.Column("status", sa.Integer, nullable=False, doc="google.rpc.Code"),
    sa.Column("score", sa.Double, doc="The output that outcomes are compared with"),
    sa.Column(
        "primary_id",
        postgresql.UUID(as_uuid=False),
        nullable=False,
        doc="The prediction of a caller that this one copies; its outcomes are this one's too",
    ),
)
"""The same for predictions that answered nobody: apart, so that nothing counts them by mistake."""

OUTCOMES = sa.Table(
    "outcomes",
    METADATA,
    sa.Column("prediction_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("event_time", sa.BigInteger, primary_key=True, doc="Microseconds UTC"),
    sa.Column("arrival_time", sa.BigInteger, primary_key=True, doc="Microseconds UTC"),
    sa.Column("label", sa.Double, primary_key=True),
)
"""What really happened; append-only, a correction is a further row."""

PROFILES = sa.Table(
    "profiles",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("column_name", sa.Text, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True, doc="Event time, hours since 1970"),
    sa.Column("counts", postgresql.ARRAY(sa.BigInteger), nullable=False),
)
"""Count vectors over the reference's bins; hours add up to any window."""

ALERTS = sa.Table(
    "alerts",
    METADATA,
    sa.Column("alert_id", postgresql.UUID(as_uuid=False), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("cause", sa.Integer, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("breaches", postgresql.ARRAY(sa.Boolean), nullable=False),
    sa.Column("calm", sa.Integer, nullable=False),
    sa.Column("start_time", sa.BigInteger, nullable=False),
    sa.Column("fire_time", sa.BigInteger, nullable=False),
    sa.Column("resolve_time", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("prediction_ids", postgresql.ARRAY(sa.Text), nullable=False),
    sa.Column("acknowledged_by", sa.Text, nullable=False),
)
"""At most one unresolved alert for each version, cause and subject."""

EVALUATIONS = sa.Table(
    "evaluations",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("cause", sa.Integer, primary_key=True),
    sa.Column(
        "evaluated_until", sa.BigInteger, nullable=False, doc="End of the last judged window"
    ),
)
"""How far each version's windows have been judged."""
