"""Turns finished works into records and replies; implements the port `Recorder`."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint.common.v1 import column_pb2, value_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Column, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router.convert import written
from setpoint_router.domain import degradation, identity
from setpoint_router.domain.degradation import DegradationKind
from setpoint_router.domain.ensemble import MemberAnswer
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.work import CallersOwn, Trace, Work
from setpoint_rpc import status
from setpoint_runtime import errors

CANCELLED = 1
"""google.rpc.Code of a prediction whose caller has left."""

MAX_ERROR_LENGTH = 500
"""Characters of an error in a record."""


class WorkRecorder:
    """Makes records and replies."""

    def __init__(self, producer: str) -> None:
        """Make records in the name of `producer`, this process."""
        self._producer = producer

    def record(self, work: Work) -> bytes:
        """Return the serialised PredictionRecords of a work."""
        message = prediction_pb2.PredictionRecords()
        # Copying the parts that are the same for every work of a plan is quicker than setting them.
        message.CopyFrom(self._template(work.plan))
        if not work.is_given and (feature_set := work.plan.feature_set) is not None:
            message.feature_set.name = feature_set.name
            message.feature_set.version = feature_set.version
        _add_predictions(message, work)
        _add_columns(message, work)
        _add_replicas(message, work)
        if work.callers_own is not None:
            _add_callers_own(message, work.callers_own)
        return message.SerializeToString()

    def _template(self, plan: Plan) -> prediction_pb2.PredictionRecords:
        found = plan.cache.get("record")
        if found is None:
            content = plan.route.content
            found = prediction_pb2.PredictionRecords(
                route=content.name,
                route_revision=plan.route.revision,
                producer=self._producer,
                sensitive_inputs=plan.version.sensitive_inputs,
                score_column=plan.version.score_column,
                kind=int(plan.kind),  # type: ignore[arg-type]  # equal numbers
            )
            found.model_version.model = content.model
            found.model_version.version = plan.version.version
            plan.cache["record"] = found
        template: prediction_pb2.PredictionRecords = found
        return template

    def error_text(self, error: errors.SetpointError) -> str:
        """Return reason and message as records and columns hold them."""
        return error_text(error)

    def code_of(self, error: errors.SetpointError) -> int:
        """Return the google.rpc.Code of an error."""
        return code_of(error)

    def replies(self, work: Work) -> Sequence[router_service_pb2.PredictResponse | None]:
        """Return the reply of each row, None for rows that failed."""
        template = _reply_template(work)
        outputs = [] if work.outputs is None else [_setter(each) for each in work.outputs.columns]
        replies: list[router_service_pb2.PredictResponse | None] = []
        failed, reasons, slots = work.errors, work.reasons, work.slots
        is_degraded = bool(work.common or work.degradations)
        make = router_service_pb2.PredictResponse
        for row, prediction_id in enumerate(work.prediction_ids):
            if failed and row in failed:
                replies.append(None)
                continue
            reply = make()
            reply.CopyFrom(template)
            reply.prediction_id = prediction_id
            assignment = reply.assignment
            assignment.slot = slots[row]
            assignment.reason = reasons[row]  # type: ignore[assignment]  # equal numbers
            for name, attribute, values in outputs:
                value = values[row]
                if value is None:
                    reply.outputs[name].null_value = value_pb2.NULL_VALUE_UNSPECIFIED
                else:
                    setattr(reply.outputs[name], attribute, value)
            if is_degraded:
                for kind, subject in work.degradations_of(row):
                    reply.degradations.add(kind=int(kind), subject=subject)
                    if kind is DegradationKind.ENSEMBLE_PARTIAL:
                        assignment.versions.remove(int(subject))
            replies.append(reply)
        return replies


def _reply_template(work: Work) -> router_service_pb2.PredictResponse:
    name = "given_reply" if work.is_given else "reply"
    found = work.plan.cache.get(name)
    if found is None:
        plan = work.plan
        found = router_service_pb2.PredictResponse()
        found.assignment.route = plan.route.name
        found.assignment.route_revision = plan.route.revision
        found.assignment.model_version.model = plan.route.content.model
        found.assignment.model_version.version = plan.version.version
        found.assignment.versions.extend(each.version.version for each in plan.members)
        if not work.is_given and plan.feature_set is not None:
            found.feature_set.name = plan.feature_set.name
            found.feature_set.version = plan.feature_set.version
        work.plan.cache[name] = found
    template: router_service_pb2.PredictResponse = found
    return template


_VALUE_OF = {
    DataType.BOOL: "bool_value",
    DataType.INT32: "int_value",
    DataType.INT64: "int_value",
    DataType.FLOAT32: "double_value",
    DataType.FLOAT64: "double_value",
    DataType.STRING: "string_value",
    DataType.TIMESTAMP: "timestamp_value",
}


def _setter(column: Column) -> tuple[str, str, list[Any]]:
    """Returns a column's name, the field of a value that holds its type, and its values."""
    return column.name, _VALUE_OF[column.dtype], column.to_list()


def code_of(error: errors.SetpointError) -> int:
    """Returns the google.rpc.Code that a record holds for an error."""
    if getattr(error, "is_cancelled", False):
        return CANCELLED
    code: int = status.code_of(error).value[0]
    return code


def error_text(error: errors.SetpointError) -> str:
    """Returns reason and message of an error as a record holds them."""
    return f"{error.reason.value}: {error.message}"[:MAX_ERROR_LENGTH]


def _add_predictions(message: prediction_pb2.PredictionRecords, work: Work) -> None:
    """Adds who asked what and when, and how it went; what all rows share is said once."""
    rows = work.rows
    batch = message.predictions
    batch.rows = rows
    ids = work.prediction_ids
    if isinstance(ids, identity.PredictionIds):
        written.add_even_text(batch, "prediction_id", ids.characters.tobytes(), rows)
    else:
        written.add_even_text(batch, "prediction_id", "".join(ids).encode(), rows)
    written.add_numbers(batch, "event_time", DataType.TIMESTAMP, written.int64(work.event_times))
    told = written.Told(message)
    told.numbers("arrival_time", DataType.TIMESTAMP, work.arrival_times)
    told.number("reply_time", DataType.TIMESTAMP, work.reply_time)
    if work.keys is not ids:
        told.texts("assignment_key", work.keys)
    told.numbers("slot", DataType.INT32, work.slots)
    told.numbers("reason", DataType.INT32, work.reasons)
    _add_traces(told, work.traces)
    told.texts("caller", work.callers)
    _add_outcomes(batch, work)
    told.number("features_microseconds", DataType.INT64, work.features_us)
    told.number("checks_microseconds", DataType.INT64, work.checks_us)
    told.numbers("queue_microseconds", DataType.INT64, _queue_times(work))
    told.number("inference_microseconds", DataType.INT64, work.inference_us)
    if work.primary_ids is not None:
        written.add_text(batch, "primary_prediction_id", work.primary_ids)


def _add_traces(told: written.Told, traces: Sequence[Trace | None] | None) -> None:
    if traces is None:
        return
    if written.is_repeated(traces):
        # The rows of a caller's own batch share a trace.
        traces = traces[:1]
    told.texts("trace_id", [None if each is None else f"{each.trace_id:032x}" for each in traces])
    told.texts("span_id", [None if each is None else f"{each.span_id:016x}" for each in traces])


def _add_outcomes(batch: column_pb2.ColumnBatch, work: Work) -> None:
    rows, failed = work.rows, work.errors
    if failed:
        listed = [failed.get(row) for row in range(rows)]
        codes = [0 if each is None else code_of(each) for each in listed]
        written.add_numbers(batch, "status", DataType.INT32, written.int32(codes))
        texts = [None if each is None else error_text(each) for each in listed]
        written.add_text(batch, "error", texts)
    else:
        written.add_numbers(batch, "status", DataType.INT32, bytes(4 * rows))
    if work.degradations or work.common:
        degraded = [degradation.to_text(work.degradations_of(row)) or None for row in range(rows)]
        written.add_text(batch, "degradations", degraded)
        _add_chosen(batch, work)


def _add_chosen(batch: column_pb2.ColumnBatch, work: Work) -> None:
    """Adds the versions that the fallback stood in for, if there are any."""
    chosen = [degradation.chosen_version(work.degradations_of(row)) for row in range(work.rows)]
    if chosen.count(None) == len(chosen):
        return
    numbers = array("q", [version or 0 for version in chosen]).tobytes()
    written.add_numbers(batch, "chosen_version", DataType.INT64, numbers)
    if None in chosen:
        is_there = np.packbits([version is not None for version in chosen], bitorder="little")
        batch.columns[-1].validity = is_there.tobytes()


def _add_replicas(message: prediction_pb2.PredictionRecords, work: Work) -> None:
    """Adds who answered: most of the time one replica, which is said once."""
    if len(work.replicas) == 1:
        message.inference_replica = work.replicas[0][1]
    elif work.replicas:
        names: list[str | None] = [None] * work.rows
        for rows, name in work.replicas:
            for row in rows.tolist():
                names[row] = name
        written.add_text(message.predictions, "inference_replica", names)


def _add_callers_own(
    message: prediction_pb2.PredictionRecords, said: Sequence[CallersOwn | None]
) -> None:
    """Adds what callers said beside their questions."""
    if any(each is not None and each.request_id for each in said):
        ids = [None if each is None else each.request_id or None for each in said]
        written.add_text(message.predictions, "request_id", ids)
    headers = [{} if each is None else dict(each.headers) for each in said]
    keys = sorted({key for each in headers for key in each})
    for key in keys:
        message.headers.rows = len(said)
        written.add_text(message.headers, key, [each.get(key) for each in headers])


def _queue_times(work: Work) -> npt.NDArray[np.int64]:
    if not work.started_us:
        return np.zeros(work.rows, np.int64)
    arrived = np.asarray(work.arrival_times, np.int64)
    return np.maximum(work.started_us - arrived, 0) + work.waited_us


def _add_columns(message: prediction_pb2.PredictionRecords, work: Work) -> None:
    rows = work.rows
    if work.entities is not None:
        message.entities.CopyFrom(columns_proto.to_proto(work.entities))
    message.entities.rows = rows
    if work.inputs is not None:
        if work.encoded_inputs is None:
            work.encoded_inputs = columns_proto.to_proto(work.inputs)
        message.inputs.CopyFrom(work.encoded_inputs)
        if not work.is_given:
            message.input_statuses.extend(work.statuses)
            message.input_event_times.extend(work.value_times)
    message.inputs.rows = rows
    if work.outputs is not None:
        message.outputs.CopyFrom(columns_proto.to_proto(work.outputs))
    message.outputs.rows = rows
    for answer in work.members or ():
        _add_member(message.members.add(), answer, rows)


def _add_member(message: prediction_pb2.MemberAnswers, answer: MemberAnswer, rows: int) -> None:
    message.version, message.weight = answer.member.version, answer.member.weight
    message.inference_replica = answer.replicas
    if answer.outputs is not None:
        message.outputs.CopyFrom(columns_proto.to_proto(answer.outputs))
    if failed := answer.errors:
        message.failures.rows = rows
        texts = [error_text(failed[row]) if row in failed else None for row in range(rows)]
        written.add_text(message.failures, "error", texts)
