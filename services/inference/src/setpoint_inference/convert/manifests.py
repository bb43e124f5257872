"""Versions of the registry's contract into what loading needs."""

from collections.abc import Sequence
from typing import Final

import setpoint_artifacts.proto as artifact_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import digest as digests
from setpoint_artifacts.samples import Samples
from setpoint_artifacts.signature import TensorSpec
from setpoint_inference.domain import version
from setpoint_inference.domain.batching import DEFAULT_ROWS, Batching, TimeoutAction
from setpoint_inference.domain.version import Format, Manifest, VersionKey
from setpoint_runtime import errors

_FORMATS: Final[dict[int, Format]] = {
    model_pb2.ARTIFACT_FORMAT_ONNX: Format.ONNX,
    model_pb2.ARTIFACT_FORMAT_SKOPS: Format.SKOPS,
    model_pb2.ARTIFACT_FORMAT_EXTERNAL_OIP: Format.EXTERNAL_OIP,
}


def from_proto(message: model_pb2.ModelVersion) -> Manifest:
    """Return the parts of a version that loading and running need.

    Raises:
        FailedPreconditionError: The version cannot be served by this program.
    """
    key = VersionKey(message.model, message.version)
    manifest = message.manifest
    format = _FORMATS.get(manifest.format)
    if format is None:
        raise version.refused(key, errors.Reason.INVALID_ARTIFACT, "its format is not known here")
    if not digests.is_digest(manifest.artifact_digest):
        # It becomes a file name, so the registry's word for it is not enough.
        raise version.refused(key, errors.Reason.DIGEST_MISMATCH, "its artifact has no digest")
    try:
        inputs, outputs = _tensors(manifest.inputs), _tensors(manifest.outputs)
        samples = _samples(manifest, inputs, outputs)
    except errors.InvalidArgumentError as error:
        reason = errors.Reason.SIGNATURE_MISMATCH
        raise version.refused(key, reason, error.message) from None
    return Manifest(
        key,
        manifest.artifact_digest,
        manifest.artifact_size,
        inputs,
        outputs,
        {**_recorded(samples), **_profiled(manifest.reference_profiles)},
        is_rejected=message.approval_state == model_pb2.APPROVAL_STATE_REJECTED,
        samples=samples,
        format=format,
        batching=_batching(manifest),
    )


def _tensors(specs: Sequence[model_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        artifact_messages.tensor_from_proto(spec, f"tensor {spec.name!r}") for spec in specs
    )


def _samples(
    manifest: model_pb2.Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Samples | None:
    if not manifest.HasField("samples"):
        return None
    return artifact_messages.samples_from_proto(manifest.samples, inputs, outputs, "samples")


def _recorded(samples: Samples | None) -> dict[str, Sequence[float | str]]:
    """Return the values that columns of recorded rows take."""
    if samples is None:
        return {}
    return {
        column.name: tuple(value for value in column.to_list() if value is not None)
        for column in samples.inputs.columns
    }


def _profiled(
    profiles: Sequence[model_pb2.FeatureProfile],
) -> dict[str, Sequence[float | str]]:
    """Return the values that profiled columns take in training: their levels, or their edges."""
    return {
        profile.column: tuple(profile.levels or profile.edges)
        for profile in profiles
        if profile.levels or profile.edges
    }


def _batching(manifest: model_pb2.Manifest) -> Batching | None:
    if not manifest.HasField("batching"):
        return None
    message = manifest.batching
    is_delayed = message.timeout_action == model_pb2.QUEUE_TIMEOUT_ACTION_DELAY
    return Batching(
        message.max_batch_rows or DEFAULT_ROWS,
        tuple(message.preferred_batch_rows),
        message.max_queue_delay_microseconds,
        message.max_queue_size,
        message.timeout_microseconds,
        TimeoutAction.DELAY if is_delayed else TimeoutAction.REJECT,
    )
