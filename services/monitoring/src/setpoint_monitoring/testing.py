"""Records, outcomes and a registry for tests of monitoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint_columns import Column, Columns, DataType, proto
from setpoint_monitoring import convert
from setpoint_monitoring.domain.profile import Reference
from setpoint_monitoring.domain.records import HOUR, Outcome, Record, VersionFacts, VersionKey
from setpoint_runtime import errors, ids

START = 480_000 * HOUR
"""Event time at which the tests' traffic begins."""

V1, V2 = VersionKey("late", 1), VersionKey("late", 2)
REFERENCE = Reference(
    column="x",
    edges=(-1.0, 0.0, 1.0),
    levels=(),
    counts=(250, 250, 250, 250, 0, 0),
    categorical=False,
)
FACTS = VersionFacts(binary=True, threshold=0.5, references=(REFERENCE,), metrics={"log_loss": 0.3})


def message(
    times: Sequence[int],
    *,
    version: VersionKey = V1,
    route: str = "late",
    prediction_ids: Sequence[str] | None = None,
    x: Sequence[float | None] | None = None,
    scores: Sequence[float | None] | None = None,
    failed: Sequence[bool] | None = None,
    copies: Sequence[str] | None = None,
    chosen: Sequence[int | None] | None = None,
    members: Sequence[prediction_pb2.MemberAnswers] = (),
) -> prediction_pb2.PredictionRecords:
    """Return the record of predictions at some times, as a router ships it.

    With `copies` they are a shadow's, of those predictions.
    """
    rows = len(times)
    wrong = failed or [False] * rows
    predictions = Columns.from_dict(
        {
            "prediction_id": (DataType.STRING, prediction_ids or [ids.uuid7() for _ in times]),
            "event_time": (DataType.TIMESTAMP, times),
            "arrival_time": (DataType.TIMESTAMP, [time + 5 for time in times]),
            "reply_time": (DataType.TIMESTAMP, [time + 45 for time in times]),
            "assignment_key": (DataType.STRING, [f"key {row}" for row in range(rows)]),
            "slot": (DataType.INT32, list(range(rows))),
            "reason": (DataType.INT32, [1] * rows),
            "status": (DataType.INT32, [14 if each else 0 for each in wrong]),
            "error": (DataType.STRING, ["MODEL_UNAVAILABLE: gone" if e else None for e in wrong]),
            "degradations": (DataType.STRING, ["STALE:x,DEFAULT:y"] + [None] * (rows - 1)),
            "queue_microseconds": (DataType.INT64, [7] * rows),
        }
    )
    if copies is not None:
        predictions = predictions.with_column(
            Column.from_list("primary_prediction_id", copies, DataType.STRING)
        )
    if chosen is not None:
        stood_in_for = Column.from_list("chosen_version", chosen, DataType.INT64)
        predictions = predictions.with_column(stood_in_for)
    inputs = Columns.from_dict({"x": (DataType.FLOAT64, x or [0.5] * rows)})
    outputs = Columns.from_dict({"probability": (DataType.FLOAT32, scores or [0.25] * rows)})
    return prediction_pb2.PredictionRecords(
        route=route,
        route_revision=3,
        model_version=reference_pb2.ModelVersionReference(
            model=version.model, version=version.version
        ),
        predictions=proto.to_proto(predictions),
        inputs=proto.to_proto(inputs),
        input_statuses=[bytes([1] * rows)],
        input_event_times=[np.array([time - 10 for time in times], "<i8").tobytes()],
        outputs=proto.to_proto(outputs),
        score_column="probability",
        members=members,
        kind=(
            prediction_pb2.PREDICTION_KIND_SERVED
            if copies is None
            else prediction_pb2.PREDICTION_KIND_SHADOW
        ),
    )


def record(times: Sequence[int], **given: object) -> Record:
    """Return a record as the service takes it; see `message`."""
    return convert.record_from_proto(message(times, **given), "record")  # type: ignore[arg-type]  # passed on


def outcomes(
    rows: Sequence[tuple[str, float, int]], arrivals: Sequence[int | None] | None = None
) -> column_pb2.ColumnBatch:
    """Return the table of some outcomes: prediction id, label, event time."""
    columns: dict[str, tuple[DataType, Sequence[object]]] = {
        "prediction_id": (DataType.STRING, [each for each, _, _ in rows]),
        "label": (DataType.FLOAT64, [label for _, label, _ in rows]),
        "event_time": (DataType.TIMESTAMP, [time for _, _, time in rows]),
    }
    if arrivals is not None:
        columns["arrival_time"] = (DataType.TIMESTAMP, arrivals)
    return proto.to_proto(Columns.from_dict(columns))


def labels(of: Record, values: Sequence[float], delay: int = HOUR) -> list[Outcome]:
    """Return the outcomes of a record's first predictions, some time after each."""
    return [
        Outcome(entry.prediction_id, value, entry.event_time + delay, entry.event_time + delay)
        for entry, value in zip(of.entries, values, strict=False)
    ]


@dataclass
class FakeRegistry:
    """Implements `ports.Registry`."""

    known: Mapping[VersionKey, VersionFacts] = field(default_factory=lambda: {V1: FACTS, V2: FACTS})
    away: bool = False

    async def facts(self, version: VersionKey) -> VersionFacts:
        """Return what the test says of a version."""
        if self.away:
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "registry is away")
        if version not in self.known:
            raise errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "no such version")
        return self.known[version]
