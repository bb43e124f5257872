"""Between contract messages and what monitoring thinks in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2, prediction_pb2, report_pb2
from setpoint.registry.v1 import model_pb2
from setpoint_columns import Column, Columns, DataType, proto
from setpoint_monitoring import ports
from setpoint_monitoring.domain import comparison, drift, pairs
from setpoint_monitoring.domain.alerting import State
from setpoint_monitoring.domain.profile import Reference
from setpoint_monitoring.domain.records import (
    Alert,
    Entry,
    Outcome,
    Performance,
    Record,
    VersionFacts,
    VersionKey,
    Window,
)
from setpoint_runtime import errors, ids

_PREDICTION_COLUMNS = {
    "prediction_id": DataType.STRING,
    "event_time": DataType.TIMESTAMP,
    "status": DataType.INT32,
}
_PRIMARY = "primary_prediction_id"
_OUTCOME_COLUMNS = {
    "prediction_id": DataType.STRING,
    "label": DataType.FLOAT64,
    "event_time": DataType.TIMESTAMP,
}
_OPTIONAL_COLUMNS = {
    **dict.fromkeys(("arrival_time", "reply_time"), DataType.TIMESTAMP),
    **dict.fromkeys(("slot", "reason"), DataType.INT32),
    **dict.fromkeys(
        ("assignment_key", "trace_id", "span_id", "caller", "error", "degradations"),
        DataType.STRING,
    ),
    **dict.fromkeys(("request_id", "inference_replica"), DataType.STRING),
    **dict.fromkeys(
        ("features_microseconds", "checks_microseconds", "queue_microseconds"), DataType.INT64
    ),
    "inference_microseconds": DataType.INT64,
    "chosen_version": DataType.INT64,
}
_GIVEN = definition_pb2.FEATURE_STATUS_GIVEN
_STAGES = ("features", "checks", "queue", "inference")


class RecordCodec:
    """Implements `ports.Codec` with PredictionRecords messages."""

    def decode(self, payload: bytes) -> Record:
        """Return the record that a payload holds. Raises InvalidArgumentError."""
        return record_from_proto(prediction_pb2.PredictionRecords.FromString(payload), "record")


def record_from_proto(message: prediction_pb2.PredictionRecords, field: str) -> Record:
    """Checks a record and takes it apart.

    Raises:
        InvalidArgumentError: Names the malformed column.
    """
    predictions = proto.from_proto(message.predictions, f"{field}.predictions")
    _require(predictions, _PREDICTION_COLUMNS, f"{field}.predictions")
    _check_types(predictions, _OPTIONAL_COLUMNS, f"{field}.predictions")
    _check_common(message, predictions, f"{field}.common")
    text(f"{field}.route", message.route)
    text(f"{field}.model_version.model", message.model_version.model)
    inputs = _side(message.inputs, predictions.rows, f"{field}.inputs")
    outputs = _side(message.outputs, predictions.rows, f"{field}.outputs")
    _side(message.entities, predictions.rows, f"{field}.entities")
    headers = _side(message.headers, predictions.rows, f"{field}.headers")
    _check_types(headers, dict.fromkeys(headers.names, DataType.STRING), f"{field}.headers")
    for number, member in enumerate(message.members):
        path = f"{field}.members[{number}]"
        _side(member.outputs, predictions.rows, f"{path}.outputs")
        failures = _side(member.failures, predictions.rows, f"{path}.failures")
        _check_types(failures, {"error": DataType.STRING}, f"{path}.failures")
    primaries = _primaries(message.kind, predictions, f"{field}")
    _check_provenance(message, inputs, predictions.rows, field)
    scores = _scores(outputs, message.score_column)
    ids_, times = predictions["prediction_id"].to_list(), predictions["event_time"].to_list()
    for row, each in enumerate(ids_):
        if not ids.is_uuid(each):
            raise errors.invalid(
                f"{field}.predictions.prediction_id[{row}]", each, "must be a UUID"
            )
    chosen: list[int | None] = [None] * predictions.rows
    if "chosen_version" in predictions:
        chosen = predictions["chosen_version"].to_list()
    entries = zip(
        ids_, times, predictions["status"].to_list(), scores, primaries, chosen, strict=True
    )
    return Record(
        payload=message.SerializeToString(),
        route=message.route,
        version=VersionKey(message.model_version.model, message.model_version.version),
        entries=tuple(
            Entry(each, time, status, score if status == 0 else None, primary, version)
            for each, time, status, score, primary, version in entries
        ),
        inputs=inputs,
        outputs=outputs,
        is_shadow=message.kind == prediction_pb2.PREDICTION_KIND_SHADOW,
    )


def _check_common(
    message: prediction_pb2.PredictionRecords, predictions: Columns, field: str
) -> None:
    common = proto.from_proto(message.common, field)
    if common.names and common.rows != 1:
        raise errors.invalid(
            f"{field}.rows", common.rows, "must be 1", errors.Reason.MALFORMED_COLUMNS
        )
    for name in common.names:
        if name in predictions:
            raise errors.invalid(
                f"{field}.{name}",
                name,
                "must not be a column of predictions too",
                errors.Reason.MALFORMED_COLUMNS,
            )
    _check_types(common, _OPTIONAL_COLUMNS, field)


def _primaries(kind: int, predictions: Columns, field: str) -> Sequence[str | None]:
    """Takes the predictions that a shadow's ones copy; of others there are none."""
    if kind in (
        prediction_pb2.PREDICTION_KIND_UNSPECIFIED,
        prediction_pb2.PREDICTION_KIND_SERVED,
    ):
        return [None] * predictions.rows
    if kind != prediction_pb2.PREDICTION_KIND_SHADOW:
        raise errors.invalid(f"{field}.kind", kind, "must be a known kind")
    _require(predictions, {_PRIMARY: DataType.STRING}, f"{field}.predictions")
    found: list[str | None] = predictions[_PRIMARY].to_list()
    for row, each in enumerate(found):
        if not ids.is_uuid(each or ""):
            raise errors.invalid(f"{field}.predictions.{_PRIMARY}[{row}]", each, "must be a UUID")
    return [None if each is None else each.lower() for each in found]


def _require(batch: Columns, columns: dict[str, DataType], field: str) -> None:
    for name in columns:
        if name not in batch:
            raise errors.invalid(field, list(batch.names), f"must have a column {name}")
        if batch[name].null_count:
            raise errors.invalid(
                f"{field}.{name}", None, "must not be null", errors.Reason.NULL_REFUSED
            )
    _check_types(batch, columns, field)


def _check_types(batch: Columns, columns: dict[str, DataType], field: str) -> None:
    for name, dtype in columns.items():
        if name in batch and batch[name].dtype is not dtype:
            raise errors.invalid(
                f"{field}.{name}",
                batch[name].dtype.name,
                f"must be {dtype.name}",
                errors.Reason.WRONG_TYPE,
            )


def text(field: str, value: str) -> str:
    """Returns a text that the database can hold. Raises InvalidArgumentError."""
    if "\0" in value:
        raise errors.invalid(field, value, "must not contain the character NUL")
    return value


def _side(message: column_pb2.ColumnBatch, rows: int, field: str) -> Columns:
    if not message.columns:
        return Columns(rows)
    batch = proto.from_proto(message, field)
    if batch.rows != rows:
        raise errors.invalid(
            f"{field}.rows",
            batch.rows,
            f"must be the {rows} rows of predictions",
            errors.Reason.MALFORMED_COLUMNS,
        )
    return batch


def _check_provenance(
    message: prediction_pb2.PredictionRecords, inputs: Columns, rows: int, field: str
) -> None:
    for name, buffers, width in (
        ("input_statuses", message.input_statuses, 1),
        ("input_event_times", message.input_event_times, 8),
    ):
        if len(buffers) not in (0, len(inputs)):
            raise errors.invalid(
                f"{field}.{name}",
                len(buffers),
                f"must be one for each of {len(inputs)} inputs",
                errors.Reason.MALFORMED_COLUMNS,
            )
        for number, buffer in enumerate(buffers):
            if len(buffer) != rows * width:
                raise errors.invalid(
                    f"{field}.{name}[{number}]",
                    len(buffer),
                    f"must be {rows * width} bytes",
                    errors.Reason.MALFORMED_COLUMNS,
                )


def _scores(outputs: Columns, name: str) -> list[float | None]:
    """Takes the column that outcomes are compared with; no column, no scores."""
    floats = (DataType.FLOAT32, DataType.FLOAT64)
    numbers = (*floats, DataType.INT32, DataType.INT64)
    if name in outputs and outputs[name].dtype in numbers:
        column: Column | None = outputs[name]
    else:
        column = next((each for each in outputs.columns if each.dtype in floats), None)
    if column is None:
        return [None] * outputs.rows
    return [value if np.isfinite(value) else None for value in column.floats().tolist()]


def outcomes_from_proto(message: column_pb2.ColumnBatch, now: int) -> list[Outcome]:
    """Checks outcomes and takes them apart; a missing arrival time is now.

    Raises:
        InvalidArgumentError: Names column and row.
    """
    batch = proto.from_proto(message, "outcomes")
    _require(batch, _OUTCOME_COLUMNS, "outcomes")
    _check_types(batch, {"arrival_time": DataType.TIMESTAMP}, "outcomes")
    arrivals: Sequence[int | None] = [None] * batch.rows
    if "arrival_time" in batch:
        arrivals = batch["arrival_time"].to_list()
    outcomes, told = [], Counter[str]()
    for row in range(batch.rows):
        prediction_id = batch["prediction_id"].item(row)
        if not ids.is_uuid(prediction_id):
            raise errors.invalid(f"outcomes.prediction_id[{row}]", prediction_id, "must be a UUID")
        prediction_id = prediction_id.lower()
        label = batch["label"].item(row)
        if not np.isfinite(label):
            raise errors.invalid(f"outcomes.label[{row}]", label, "must be a finite number")
        arrival = arrivals[row]
        if arrival is None:
            # Of two outcomes of one prediction in a call the latter was learned later.
            arrival = now + told[prediction_id]
            told[prediction_id] += 1
        outcomes.append(
            Outcome(
                prediction_id,
                label,
                batch["event_time"].item(row),
                arrival,
            )
        )
    return outcomes


def prediction_to_proto(stored: ports.StoredPrediction) -> prediction_pb2.Prediction:
    """Tells the whole story of one prediction, its shadows' among it."""
    message = prediction_pb2.PredictionRecords.FromString(stored.payload)
    row = proto.from_proto(message.predictions).row(stored.position)
    if message.common.columns:
        row |= proto.from_proto(message.common).row(0)
    story = prediction_pb2.Prediction(
        prediction_id=row["prediction_id"],
        event_time=row["event_time"],
        arrival_time=row.get("arrival_time") or 0,
        reply_time=row.get("reply_time") or 0,
        route=message.route,
        route_revision=message.route_revision,
        model_version=message.model_version,
        assignment_key=row.get("assignment_key", row["prediction_id"]) or "",
        slot=row.get("slot") or 0,
        assignment_reason=row.get("reason") or 0,
        feature_set=message.feature_set,
        entities=_one_row(message.entities, stored.position),
        inputs=_one_row(message.inputs, stored.position),
        provenance=_provenance(message, stored.position),
        outputs=_one_row(message.outputs, stored.position),
        status=row["status"],
        error=row.get("error") or "",
        degradations=[each for each in (row.get("degradations") or "").split(",") if each],
        trace_id=row.get("trace_id") or "",
        span_id=row.get("span_id") or "",
        caller=row.get("caller") or "",
        outcomes=[outcome_to_proto(each) for each in stored.outcomes],
        record_time=stored.record_time,
        kind=message.kind or prediction_pb2.PREDICTION_KIND_SERVED,
        primary_prediction_id=row.get(_PRIMARY) or "",
        shadows=[prediction_to_proto(each) for each in stored.shadows],
        chosen_version=_chosen(row, message),
        members=[_member(each, stored.position) for each in message.members],
        inference_replica=_replica(row, message),
        request_id=row.get("request_id") or "",
        headers=_headers(message.headers, stored.position),
    )
    for stage in _STAGES:
        spent = row.get(f"{stage}_microseconds")
        if spent is not None:
            story.stage_microseconds[stage] = spent
    if story.reply_time and story.arrival_time:
        story.stage_microseconds["total"] = story.reply_time - story.arrival_time
    return story


def _chosen(row: Mapping[str, Any], message: prediction_pb2.PredictionRecords) -> int:
    """Takes the version that was assigned, which may be the ensemble: 0 is a version too."""
    chosen = row.get("chosen_version")
    return message.model_version.version if chosen is None else int(chosen)


def _replica(row: Mapping[str, Any], message: prediction_pb2.PredictionRecords) -> str:
    """Takes who answered, of a row that was answered."""
    if row["status"]:
        return ""
    return row.get("inference_replica") or message.inference_replica


def _headers(message: column_pb2.ColumnBatch, position: int) -> dict[str, str]:
    if not message.columns:
        return {}
    found = proto.from_proto(message).row(position)
    return {key: value for key, value in found.items() if value is not None}


def _member(message: prediction_pb2.MemberAnswers, position: int) -> prediction_pb2.MemberAnswer:
    error = None
    if message.failures.columns:
        error = proto.from_proto(message.failures).row(position).get("error")
    return prediction_pb2.MemberAnswer(
        version=message.version,
        weight=message.weight,
        outputs=None if error else _one_row(message.outputs, position),
        error=error or "",
        inference_replica="" if error else message.inference_replica,
    )


def _one_row(message: column_pb2.ColumnBatch, position: int) -> column_pb2.ColumnBatch:
    if not message.columns:
        return column_pb2.ColumnBatch()
    return proto.to_proto(proto.from_proto(message).slice(position, position + 1))


def _provenance(
    message: prediction_pb2.PredictionRecords, position: int
) -> list[prediction_pb2.InputProvenance]:
    if not message.input_statuses and not message.feature_set.name:
        return [
            prediction_pb2.InputProvenance(input=each.name, status=_GIVEN)
            for each in message.inputs.columns
        ]
    told = []
    for number, column in enumerate(message.inputs.columns):
        if number >= len(message.input_statuses):
            break
        each = prediction_pb2.InputProvenance(
            input=column.name, status=message.input_statuses[number][position]
        )
        if number < len(message.input_event_times):
            time = int(np.frombuffer(message.input_event_times[number], "<i8")[position])
            if time >= 0:
                each.event_time = time
        told.append(each)
    return told


def sample_to_proto(sample: ports.RecordSample) -> monitoring_service_pb2.SampleRecordsResponse:
    """Converts a share of the records."""
    response = monitoring_service_pb2.SampleRecordsResponse(
        through_record_id=sample.through, newest_record_id=sample.newest
    )
    for each in sample.records:
        stored = response.records.add(record_id=each.record_id, record_time=each.record_time)
        stored.record.ParseFromString(each.payload)
    return response


def outcome_to_proto(outcome: Outcome) -> prediction_pb2.Outcome:
    """Converts an outcome."""
    return prediction_pb2.Outcome(
        prediction_id=outcome.prediction_id,
        label=outcome.label,
        event_time=outcome.event_time,
        arrival_time=outcome.arrival_time,
    )


def listed_to_proto(listed: ports.Listed) -> prediction_pb2.Prediction:
    """Converts a prediction of a list."""
    return prediction_pb2.Prediction(
        prediction_id=listed.prediction_id,
        event_time=listed.event_time,
        route=listed.route,
        model_version=version_to_proto(listed.version),
        status=listed.status,
        kind=(
            prediction_pb2.PREDICTION_KIND_SERVED
            if listed.primary_id is None
            else prediction_pb2.PREDICTION_KIND_SHADOW
        ),
        primary_prediction_id=listed.primary_id or "",
    )


def are_shadows_from_proto(kind: int) -> bool:
    """Says whether shadows' predictions are asked for. Raises InvalidArgumentError."""
    if kind not in prediction_pb2.PredictionKind.values():
        raise errors.invalid("kind", kind, "must be a known kind")
    return kind == prediction_pb2.PREDICTION_KIND_SHADOW


def version_to_proto(version: VersionKey) -> reference_pb2.ModelVersionReference:
    """Converts a version."""
    return reference_pb2.ModelVersionReference(model=version.model, version=version.version)


def version_from_proto(message: reference_pb2.ModelVersionReference, field: str) -> VersionKey:
    """Checks a version. Raises InvalidArgumentError."""
    if not message.model:
        raise errors.invalid(f"{field}.model", "", "must be set", errors.Reason.MISSING_FIELD)
    if message.version < 1:
        raise errors.invalid(f"{field}.version", message.version, "must be at least 1")
    return VersionKey(text(f"{field}.model", message.model), message.version)


def window_from_proto(message: reference_pb2.TimeRange, field: str) -> Window:
    """Checks a range. Raises InvalidArgumentError."""
    if message.end_time <= message.start_time:
        raise errors.invalid(f"{field}.end_time", message.end_time, "must be after start_time")
    return Window(message.start_time, message.end_time)


def window_to_proto(window: Window) -> reference_pb2.TimeRange:
    """Converts a window."""
    return reference_pb2.TimeRange(start_time=window.start, end_time=window.end)


def performance_to_proto(each: Performance) -> report_pb2.PerformanceWindow:
    """Converts a window's quality."""
    return report_pb2.PerformanceWindow(
        model_version=version_to_proto(each.version),
        window=window_to_proto(each.window),
        predictions=each.predictions,
        labelled=each.labelled,
        failed=each.failed,
        label_mean=each.label_mean,
        score_mean=each.score_mean,
        metrics=each.metrics,
    )


def finding_to_proto(
    version: VersionKey, window: Window, finding: drift.Finding
) -> report_pb2.DriftFinding:
    """Converts a drift finding."""
    return report_pb2.DriftFinding(
        model_version=version_to_proto(version),
        window=window_to_proto(window),
        column=finding.column,
        rows=finding.rows,
        population_stability_index=finding.population_stability_index,
        p_value=finding.p_value,
        adjusted_p_value=finding.adjusted_p_value,
        jensen_shannon_distance=finding.jensen_shannon_distance,
        largest_share_change=finding.largest_share_change,
        missing_share=finding.missing_share,
        reference_missing_share=finding.reference_missing_share,
        unseen_share=finding.unseen_share,
        level=report_pb2.DriftLevel.ValueType(finding.level),
        moved_bins=finding.moved_bins,
    )


def comparison_to_proto(
    judged: comparison.Comparison, candidate: comparison.Arm, baseline: comparison.Arm
) -> monitoring_service_pb2.CompareVersionsResponse:
    """Converts a gate's answer."""
    response = monitoring_service_pb2.CompareVersionsResponse(
        verdict=monitoring_service_pb2.Verdict.ValueType(judged.verdict),
        candidate_predictions=candidate.predictions,
        candidate_failures=candidate.failures,
        baseline_predictions=baseline.predictions,
        baseline_failures=baseline.failures,
        failure_e_value=judged.failure_e_value,
        split_e_value=judged.split_e_value,
        explanation=judged.explanation,
    )
    if judged.loss is not None:
        response.loss_difference = judged.loss.difference
        response.loss_difference_lower = judged.loss.lower
        response.loss_difference_upper = judged.loss.upper
    return response


def shadow_comparison_to_proto(
    compared: pairs.ShadowComparison,
) -> monitoring_service_pb2.CompareShadowResponse:
    """Converts what can be said of a shadow."""
    response = monitoring_service_pb2.CompareShadowResponse(
        pairs=compared.pairs,
        shadow_failures=compared.shadow_failures,
        unpaired=compared.unpaired,
        scored=compared.scored,
        labelled=compared.labelled,
    )
    if (found := compared.differences) is not None:
        response.differing_share = found.share
        response.mean_absolute_difference = found.mean
        response.largest_difference = found.largest
        if found.decision_share is not None:
            response.differing_decision_share = found.decision_share
    if (losses := compared.losses) is not None:
        response.primary_loss = losses.primary
        response.shadow_loss = losses.shadow
        if losses.interval is not None:
            response.loss_difference_lower = losses.interval.lower
            response.loss_difference_upper = losses.interval.upper
    return response


def alert_to_proto(alert: Alert) -> report_pb2.Alert:
    """Converts an alert."""
    return report_pb2.Alert(
        alert_id=alert.alert_id,
        model_version=version_to_proto(alert.key.version),
        cause=report_pb2.AlertCause.ValueType(alert.key.cause),
        subject=alert.key.subject,
        state=report_pb2.AlertState.ValueType(alert.state),
        start_time=alert.start_time,
        fire_time=alert.fire_time,
        resolve_time=alert.resolve_time,
        value=alert.value,
        threshold=alert.threshold,
        summary=alert.summary,
        prediction_ids=alert.prediction_ids,
        acknowledged_by=alert.acknowledged_by,
    )


def states_from_proto(states: Sequence[int]) -> list[int]:
    """Checks the states to list. Raises InvalidArgumentError."""
    known = {int(state) for state in State if state is not State.OK}
    for number, state in enumerate(states):
        if state not in known:
            raise errors.invalid(f"states[{number}]", state, "must be a state of an alert")
    return list(states)


def facts_from_proto(manifest: model_pb2.Manifest, task: int) -> VersionFacts:
    """Takes from a manifest what monitoring compares with."""
    threshold = manifest.decision_threshold if manifest.HasField("decision_threshold") else 0.5
    return VersionFacts(
        binary=task == model_pb2.TASK_BINARY_CLASSIFICATION,
        threshold=threshold,
        references=tuple(_reference(each) for each in manifest.reference_profiles),
        metrics={each.name: each.value for each in manifest.metrics if not each.slice},
    )


def _reference(profile: model_pb2.FeatureProfile) -> Reference:
    return Reference(
        column=profile.column,
        edges=tuple(profile.edges),
        levels=tuple(profile.levels),
        counts=tuple(profile.counts),
        categorical=profile.categorical,
        importance=profile.importance,
        design_effect=max(1.0, profile.design_effect),
    )
