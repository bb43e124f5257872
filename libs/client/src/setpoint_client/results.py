"""What the client gives back: frozen values with the words of the contract."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_client import failures, feature_parts, frames
from setpoint_columns import Columns, interop
from setpoint_columns import proto as columns_proto
from setpoint_columns import value as values
from setpoint_runtime import errors

Frame = TypeVar("Frame")

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class FeatureSetVersion:
    """One exact version of a feature set."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that was not as it should be with an answered prediction."""

    kind: str
    """Name of the contract's DegradationKind without prefix, such as `FEATURE_STALE`."""
    subject: str
    """The feature, the rule or the version."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which version a key gets, and why."""

    route: str
    route_revision: int
    model: str
    version: int
    slot: int
    reason: str
    """`OVERRIDE`, `SLOT`, `FALLBACK` or `ENSEMBLE`."""
    explanation: str = ""
    """In words; given by `explain_assignment` alone."""
    versions: tuple[int, ...] = ()
    """Those whose answers were combined, where `version` is 0: the route's ensemble."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered prediction."""

    prediction_id: str
    """Finds the record, the trace and the outcome."""
    outputs: dict[str, Any]
    assignment: Assignment
    feature_set: FeatureSetVersion | None
    """Whose values the model saw; None when the caller gave all inputs."""
    degradations: tuple[Degradation, ...]
    replayed: bool = False
    """It is the answer to an earlier request of the same `request_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of a stream; the parameters of `predict`."""

    id: str
    """Comes back with the answer, at most 128 characters."""
    entities: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] | None = None
    event_time: dt.datetime | int | None = None
    assignment_key: str | None = None
    request_id: str | None = None
    route: str | None = None
    """By default that of the stream."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question of a stream."""

    id: str
    """The question's."""
    prediction: Prediction | None
    error: errors.SetpointError | None
    """Why there is no prediction."""

    def get(self) -> Prediction:
        """Returns the prediction, or raises the error."""
        if self.prediction is None:
            raise self.error or AssertionError("an answer is a prediction or an error")
        return self.prediction


class _Table(Generic[Frame]):
    """Columns that can leave as the kind of frame that came in, or as another."""

    __slots__ = ("_given", "columns")

    columns: Columns

    def __init__(self, columns: Columns, given: Frame) -> None:
        self.columns = columns
        self._given = given

    @property
    def frame(self) -> Frame:
        """The table as the kind of frame that was given."""
        made: Frame = frames.like(self._given, self.columns)
        return made

    def to_polars(self) -> Any:
        """Returns the table as a polars frame."""
        return interop.to_polars(self.columns)

    def to_pandas(self) -> Any:
        """Returns the table as a pandas frame."""
        return interop.to_pandas(self.columns)

    def to_arrow(self) -> Any:
        """Returns the table as an Arrow table."""
        return interop.to_arrow(self.columns)


class BatchPredictions(_Table[Frame]):
    """Answers to many questions, one row for each, in their order.

    Columns: `prediction_id`, `version`, `slot`, `reason`, `status` (0 is answered), `error`, `degradations`
    (both null when all was well), then the model's outputs, null in failed rows.
    """

    __slots__ = ("route_revisions",)

    def __init__(self, columns: Columns, given: Frame, route_revisions: Sequence[int]) -> None:
        """Wraps the answers; `route_revisions` are those that gave them."""
        super().__init__(columns, given)
        self.route_revisions = tuple(sorted(set(route_revisions)))

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """True for each row that has no answer; `error` says why."""
        failed: npt.NDArray[np.bool_] = self.columns["status"].values != 0
        return failed


class FeatureValues(_Table[Frame]):
    """Feature values of many entities, one row for each, in their order."""

    __slots__ = ("_attached", "event_times", "feature_set", "history_views", "statuses")

    def __init__(
        self,
        columns: Columns,
        given: Frame,
        feature_set: FeatureSetVersion,
        statuses: Mapping[str, npt.NDArray[np.uint8]],
        event_times: Mapping[str, npt.NDArray[np.int64]],
        *,
        attached: bool = False,
        history_views: Sequence[str] = (),
    ) -> None:
        """Wraps the values.

        Args:
            columns: One column for each feature.
            given: What was asked about.
            feature_set: The exact version that was read.
            statuses: By feature the number of each value's status; `status_names` gives names.
            event_times: By feature the event time of each value in microseconds UTC, -1 for none.
            attached: Whether `frame` is the given frame with the features beside its own columns.
            history_views: Of an online read the views whose values came from the history, because
                there was no online copy to read.
        """
        super().__init__(columns, given)
        self.history_views = tuple(history_views)
        self.feature_set = feature_set
        self.statuses = dict(statuses)
        self.event_times = dict(event_times)
        self._attached = attached

    @property
    def frame(self) -> Frame:
        """The features as the kind of frame that was given; of a spine, beside its own columns."""
        if not self._attached:
            return super().frame
        made: Frame = frames.attach(self._given, self.columns)
        return made

    def status_names(self, feature: str) -> list[str]:
        """Returns for each row where the value comes from: FRESH, STALE, MISSING or DEFAULT."""
        return [_status_name(number) for number in self.statuses[feature].tolist()]


@dataclass(frozen=True, slots=True)
class RowError:
    """What is wrong with one value that was not written."""

    row: int
    """Position in the frame, from 0."""
    column: str
    value: str
    """Its beginning, as text."""
    rule: str
    reason: str
    """Name of the `errors.Reason`."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of written feature rows."""

    rows_written: int
    online_updated: int
    """Keys whose online copy was replaced; the others had a greater row already."""
    online_applied: bool
    """False while the online store is down; it catches up by itself."""
    replayed: bool
    """All of it had been written before under the same batch id."""
    batch_id: str
    """Give it again to repeat the same write safely."""
    rows_refused: int = 0
    """Bad rows that were left out, where good ones were to be kept."""
    row_errors: tuple[RowError, ...] = ()
    """What is wrong with the first of them."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of recorded outcomes."""

    stored: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class InputProvenance:
    """Where one input of a prediction came from."""

    status: str
    event_time: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What really happened to a prediction."""

    label: float
    event_time: dt.datetime
    arrival_time: dt.datetime


@dataclass(frozen=True, slots=True)
class PredictionStory:
    """The whole story of one prediction."""

    prediction_id: str
    assignment: Assignment
    assignment_key: str
    feature_set: FeatureSetVersion | None
    event_time: dt.datetime
    arrival_time: dt.datetime
    reply_time: dt.datetime
    entities: dict[str, Any]
    inputs: dict[str, Any]
    provenance: dict[str, InputProvenance]
    outputs: dict[str, Any]
    status: int
    """0 for an answered prediction, else the number of the gRPC code."""
    error: str
    degradations: tuple[Degradation, ...]
    trace_id: str
    caller: str
    stage_microseconds: dict[str, int]
    outcomes: tuple[Outcome, ...]
    """Newest first; empty until it is known."""
    message: prediction_pb2.Prediction
    """The contract's message, with everything that this version of the client does not know."""
    inference_replica: str = ""
    """Address of the replica of inference that answered; empty when none did, or several as an ensemble."""
    request_id: str = ""
    """The caller's own id of the request; empty without one."""
    headers: dict[str, str] = field(default_factory=dict)
    """Metadata of the request that the router was told to keep."""


def prediction(message: router_service_pb2.PredictResponse) -> Prediction:
    """Returns the result of a Predict answer."""
    return Prediction(
        prediction_id=message.prediction_id,
        outputs=values.map_from_proto(message.outputs, "outputs"),
        assignment=assignment(message.assignment),
        feature_set=_feature_set(message.feature_set),
        degradations=tuple(
            Degradation(_name(router_service_pb2.DegradationKind, each.kind), each.subject)
            for each in message.degradations
        ),
        replayed=message.replayed,
    )


def answer(message: router_service_pb2.PredictStreamResponse) -> Answer:
    """Returns the result of an answer of PredictStream."""
    if message.WhichOneof("result") == "answer":
        return Answer(message.correlation_id, prediction(message.answer), None)
    return Answer(message.correlation_id, None, failures.from_message(message.failure))


def assignment(message: route_pb2.Assignment, explanation: str = "") -> Assignment:
    """Returns the result of an assignment."""
    return Assignment(
        route=message.route,
        route_revision=message.route_revision,
        model=message.model_version.model,
        version=message.model_version.version,
        slot=message.slot,
        reason=_name(route_pb2.AssignmentReason, message.reason),
        explanation=explanation,
        versions=tuple(message.versions),
    )


def batch_predictions(
    messages: Sequence[
        router_service_pb2.PredictBatchResponse | router_service_pb2.PredictBatchStreamResponse
    ],
    given: Frame,
) -> BatchPredictions[Frame]:
    """Returns the result of the PredictBatch answers to the pieces of one frame."""
    parts = []
    for message in messages:
        results = columns_proto.from_proto(message.results, "results")
        outputs = columns_proto.from_proto(message.outputs, "outputs")
        parts.append(Columns(results.rows, [*results.columns, *outputs.columns]))
    revisions = [message.route_revision for message in messages]
    return BatchPredictions(Columns.concat(parts), given, revisions)


def feature_values(
    parts: Sequence[feature_parts.FeaturePart], given: Frame, *, attached: bool = False
) -> FeatureValues[Frame]:
    """Returns the result of the answers to the pieces of one table of entities.

    Raises:
        DataLossError: Statuses or event times do not fit the features.
    """
    columns, statuses, event_times = feature_parts.joined(parts)
    views = dict.fromkeys(view for part in parts for view in part.history_views)
    return FeatureValues(
        columns,
        given,
        FeatureSetVersion(*parts[0].feature_set),
        statuses,
        event_times,
        attached=attached,
        history_views=tuple(views),
    )


def write_result(
    messages: Sequence[feature_service_pb2.WriteFeaturesResponse],
    sizes: Sequence[int],
    batch_id: str,
) -> WriteResult:
    """Returns the result of the WriteFeatures answers to the pieces of one frame, which have these sizes."""
    starts = [sum(sizes[:piece]) for piece in range(len(sizes))]
    return WriteResult(
        rows_written=sum(message.rows_written for message in messages),
        online_updated=sum(message.online_updated for message in messages),
        online_applied=all(message.online_applied for message in messages),
        replayed=all(message.replayed for message in messages),
        batch_id=batch_id,
        rows_refused=sum(message.rows_refused for message in messages),
        row_errors=tuple(
            RowError(start + each.row, each.column, each.value, each.rule, each.reason)
            for start, message in zip(starts, messages, strict=True)
            for each in message.row_errors
        ),
    )


def story(message: prediction_pb2.Prediction) -> PredictionStory:
    """Returns the result of a GetPrediction answer."""
    chosen = Assignment(
        route=message.route,
        route_revision=message.route_revision,
        model=message.model_version.model,
        version=message.model_version.version,
        slot=message.slot,
        reason=_name(route_pb2.AssignmentReason, message.assignment_reason),
    )
    return PredictionStory(
        prediction_id=message.prediction_id,
        assignment=chosen,
        assignment_key=message.assignment_key,
        feature_set=_feature_set(message.feature_set),
        event_time=to_datetime(message.event_time),
        arrival_time=to_datetime(message.arrival_time),
        reply_time=to_datetime(message.reply_time),
        entities=_only_row(message.entities, "entities"),
        inputs=_only_row(message.inputs, "inputs"),
        provenance={each.input: _provenance(each) for each in message.provenance},
        outputs=_only_row(message.outputs, "outputs"),
        status=message.status,
        error=message.error,
        degradations=tuple(_split_degradation(each) for each in message.degradations),
        trace_id=message.trace_id,
        caller=message.caller,
        stage_microseconds=dict(message.stage_microseconds),
        outcomes=tuple(_outcome(each) for each in message.outcomes),
        message=message,
        inference_replica=message.inference_replica,
        request_id=message.request_id,
        headers=dict(message.headers),
    )


def to_datetime(microseconds: int) -> dt.datetime:
    """Returns a time of the contract as an aware datetime."""
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def _feature_set(message: Any) -> FeatureSetVersion | None:
    return FeatureSetVersion(message.name, message.version) if message.name else None


def _provenance(message: prediction_pb2.InputProvenance) -> InputProvenance:
    known = message.HasField("event_time")
    event_time = to_datetime(message.event_time) if known else None
    return InputProvenance(_status_name(message.status), event_time)


def _outcome(message: prediction_pb2.Outcome) -> Outcome:
    times = to_datetime(message.event_time), to_datetime(message.arrival_time)
    return Outcome(message.label, *times)


def _only_row(message: Any, field: str) -> dict[str, Any]:
    columns = columns_proto.from_proto(message, field)
    return columns.row(0) if columns.rows else {}


def _split_degradation(text: str) -> Degradation:
    kind, _, subject = text.partition(":")
    return Degradation(kind, subject)


def _status_name(number: int) -> str:
    return _name(definition_pb2.FeatureStatus, number)


def _name(enum: Any, number: int) -> str:
    """Returns the name of an enum value without its prefix; a newer server's value as its number."""
    descriptor = enum.DESCRIPTOR.values_by_number.get(number)
    if descriptor is None:
        return str(number)
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = descriptor.name
    return name.removeprefix(prefix)
