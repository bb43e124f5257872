"""References and states, from and to messages."""

from collections.abc import Iterator, Sequence

import setpoint_columns.proto as column_messages
from setpoint.common.v1 import reference_pb2
from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint_artifacts.signature import TensorSpec
from setpoint_inference.domain.version import Manifest, VersionKey
from setpoint_inference.service.models import Attempt, ReadyModel
from setpoint_runtime import errors, names

MAX_LEASED = 10_000
"""Versions of one renewal."""


def key_from_proto(message: reference_pb2.ModelVersionReference) -> VersionKey:
    """Return the version that a request names.

    Raises:
        InvalidArgumentError: No version can have that name.
    """
    names.check_name("model_version.model", message.model)
    if message.version < 1:
        raise errors.invalid("model_version.version", message.version, "must be at least 1")
    return VersionKey(message.model, message.version)


def key_to_proto(key: VersionKey) -> reference_pb2.ModelVersionReference:
    """Return a version's reference."""
    return reference_pb2.ModelVersionReference(model=key.model, version=key.version)


def keys_from_proto(
    references: Sequence[reference_pb2.ModelVersionReference],
) -> list[VersionKey]:
    """Return the versions that a request names.

    Raises:
        InvalidArgumentError: They are too many, or one cannot have its name.
    """
    if len(references) > MAX_LEASED:
        reason = errors.Reason.TOO_LARGE
        raise errors.invalid(
            "model_versions", len(references), f"must be at most {MAX_LEASED}", reason
        )
    return [key_from_proto(each) for each in references]


def lease_from_proto(microseconds: int, least: int) -> float:
    """Return a lease in seconds.

    Raises:
        InvalidArgumentError: It is shorter than `least` microseconds.
    """
    if microseconds < least:
        raise errors.invalid("lease_microseconds", microseconds, f"must be at least {least}")
    return microseconds / 1e6


def model_to_proto(key: VersionKey, model: ReadyModel | Attempt) -> pb.LoadedModel:
    """Return the truth about a version on this replica."""
    message = pb.LoadedModel(model_version=key_to_proto(key))
    manifest: Manifest | None = model.manifest
    if isinstance(model, ReadyModel):
        message.state = pb.LOAD_STATE_READY
        message.ready_time = model.ready_time
        message.memory_bytes = model.memory_bytes
        message.pinned = model.hold.is_by_name
        message.lease_microseconds = int(model.hold.lease_seconds * 1e6)
    elif model.error is None:
        message.state = pb.LOAD_STATE_LOADING
    else:
        message.state = pb.LOAD_STATE_FAILED
        message.error = str(model.error)
    if manifest is not None:
        message.artifact_digest = manifest.digest
        message.artifact_size = manifest.size
        message.inputs.extend(_fields(manifest.inputs))
        message.outputs.extend(_fields(manifest.outputs))
    return message


def _fields(specs: Sequence[TensorSpec]) -> Iterator[reference_pb2.FieldSpec]:
    for spec in specs:
        for column in spec.columns:
            yield reference_pb2.FieldSpec(
                name=column, dtype=column_messages.data_type_to_proto(spec.dtype)
            )
