"""Between messages and domain."""

from __future__ import annotations

import setpoint_columns.proto as column_messages
from setpoint.batch.v1 import batch_prediction_pb2
from setpoint.common.v1 import reference_pb2
from setpoint_batch.domain.job import Format, Job, Spec
from setpoint_runtime import errors, ids


def spec_from_proto(message: batch_prediction_pb2.BatchPredictionSpec) -> tuple[Spec, bytes]:
    """Reads what is asked for, and rows that came with it. Raises InvalidArgumentError."""
    source = message.input.WhichOneof("source")
    if source is None:
        raise errors.invalid("spec.input", "", "must be given", errors.Reason.MISSING_FIELD)
    rows = b""
    if source == "rows":
        # Read here, so that what is wrong is told at once.
        _ = column_messages.from_proto(message.input.rows, "spec.input.rows")
        rows = message.input.rows.SerializeToString(deterministic=True)
    spec = Spec(
        name=message.name,
        event_time=message.event_time,
        model=message.model,
        version=message.version,
        alias=message.alias,
        input_url=message.input.url,
        input_format=_format("spec.input.format", message.input.format),
        output_url=message.output.url,
        output_format=_format("spec.output.format", message.output.format) or Format.PARQUET,
        event_time_column=message.input.event_time_column,
        kept_columns=tuple(message.input.kept_columns),
        with_inputs=message.output.with_inputs,
    )
    return spec, rows


def spec_to_proto(spec: Spec) -> batch_prediction_pb2.BatchPredictionSpec:
    """Writes what is asked for; rows that came with it are not there, but their digest."""
    message = batch_prediction_pb2.BatchPredictionSpec(
        name=spec.name,
        event_time=spec.event_time,
        model=spec.model,
        input=batch_prediction_pb2.BatchInput(
            url=spec.input_url,
            format=int(spec.input_format),  # type: ignore[arg-type]  # equal numbers
            event_time_column=spec.event_time_column,
            kept_columns=spec.kept_columns,
        ),
        output=batch_prediction_pb2.BatchOutput(
            url=spec.output_url,
            format=int(spec.output_format),  # type: ignore[arg-type]  # equal numbers
            with_inputs=spec.with_inputs,
        ),
    )
    if spec.version:
        message.version = spec.version
    elif spec.alias:
        message.alias = spec.alias
    return message


def job_to_proto(job: Job) -> batch_prediction_pb2.BatchPrediction:
    """Writes a job."""
    name, version = job.version.feature_set
    progress = job.progress
    return batch_prediction_pb2.BatchPrediction(
        batch_prediction_id=job.job_id,
        spec=spec_to_proto(job.spec),
        state=int(job.state),  # type: ignore[arg-type]  # equal numbers
        attempt=job.attempt,
        model_version=reference_pb2.ModelVersionReference(
            model=job.version.model, version=job.version.version
        ),
        manifest_digest=job.version.manifest_digest,
        feature_set=reference_pb2.FeatureSetReference(name=name, version=version) if name else None,
        event_time=job.event_time,
        progress=batch_prediction_pb2.BatchProgress(
            rows=progress.rows,
            rows_done=progress.rows_done,
            rows_failed=progress.rows_failed,
            rows_degraded=progress.rows_degraded,
            partitions=progress.partitions,
            partitions_done=progress.partitions_done,
        ),
        manifest_url=job.manifest_url,
        error=job.error,
        error_reason=job.error_reason,
        create_time=job.create_time,
        start_time=job.start_time,
        end_time=job.end_time,
    )


def _format(field: str, number: int) -> Format:
    try:
        return Format(number)
    except ValueError:
        raise errors.invalid(field, number, "must be a known format") from None


def job_id(value: str) -> str:
    """Checks a job's id. Raises InvalidArgumentError."""
    if not ids.is_uuid(value):
        raise errors.invalid("batch_prediction_id", value, "must be a UUID")
    return value.lower()
