"""Versions of the registry's contract into what loading needs."""

from collections.abc import Sequence

import setpoint_artifacts.proto as artifact_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import digest as digests
from setpoint_artifacts.signature import TensorSpec
from setpoint_inference.domain import version
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_runtime import errors


def from_proto(message: model_pb2.ModelVersion) -> Manifest:
    """Return the parts of a version that loading and running need.

    Raises:
        FailedPreconditionError: The version cannot be served by this program.
    """
    key = VersionKey(message.model, message.version)
    manifest = message.manifest
    if manifest.format != model_pb2.ARTIFACT_FORMAT_ONNX:
        raise version.refused(key, errors.Reason.INVALID_ARTIFACT, "its format is not served here")
    if not digests.is_digest(manifest.artifact_digest):
        # It becomes a file name, so the registry's word for it is not enough.
        raise version.refused(key, errors.Reason.DIGEST_MISMATCH, "its artifact has no digest")
    return Manifest(
        key,
        manifest.artifact_digest,
        manifest.artifact_size,
        _tensors(key, manifest.inputs),
        _tensors(key, manifest.outputs),
        _examples(manifest.reference_profiles),
        is_rejected=message.approval_state == model_pb2.APPROVAL_STATE_REJECTED,
    )


def _tensors(key: VersionKey, specs: Sequence[model_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    try:
        return tuple(
            artifact_messages.tensor_from_proto(spec, f"tensor {spec.name!r}") for spec in specs
        )
    except errors.InvalidArgumentError as error:
        reason = errors.Reason.SIGNATURE_MISMATCH
        raise version.refused(key, reason, error.message) from None


def _examples(
    profiles: Sequence[model_pb2.FeatureProfile],
) -> dict[str, Sequence[float | str]]:
    """Return the values that profiled columns take in training: their levels, or their edges."""
    return {
        profile.column: tuple(profile.levels or profile.edges)
        for profile in profiles
        if profile.levels or profile.edges
    }
