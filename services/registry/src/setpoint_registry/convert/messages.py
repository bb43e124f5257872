"""Models, versions, aliases, approvals and uploads, from and to messages."""

from google.protobuf import message as protobuf_message

from setpoint.common.v1 import reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint_registry import domain, ports
from setpoint_runtime import errors


def request(message: protobuf_message.Message) -> ports.Request:
    """Return what makes a mutating call safe to repeat: its id, and its content."""
    content = message.SerializeToString(deterministic=True)
    return ports.Request(message.request_id, content)  # type: ignore[attr-defined]  # every mutating request has one


def model_from_proto(message: model_pb2.Model) -> domain.Model:
    """Return the model of a request."""
    return domain.Model(
        message.name, _task_from_proto(message.task), message.description, message.owner
    )


def model_to_proto(model: domain.Model) -> model_pb2.Model:
    """Return a model as a message."""
    return model_pb2.Model(
        name=model.name,
        task=_TASKS[model.task],
        description=model.description,
        owner=model.owner,
        create_time=model.create_time,
    )


_TASKS = {
    domain.Task.BINARY_CLASSIFICATION: model_pb2.TASK_BINARY_CLASSIFICATION,
    domain.Task.MULTICLASS_CLASSIFICATION: model_pb2.TASK_MULTICLASS_CLASSIFICATION,
    domain.Task.REGRESSION: model_pb2.TASK_REGRESSION,
}
_STATES = {
    domain.ApprovalState.PENDING: model_pb2.APPROVAL_STATE_PENDING,
    domain.ApprovalState.APPROVED: model_pb2.APPROVAL_STATE_APPROVED,
    domain.ApprovalState.REJECTED: model_pb2.APPROVAL_STATE_REJECTED,
}


def _task_from_proto(number: int) -> domain.Task:
    try:
        return domain.Task(number)
    except ValueError:
        raise errors.invalid("model.task", number, "must be a known task") from None


def format_from_proto(number: int, field: str) -> domain.ArtifactFormat:
    """Return an artifact format.

    Raises:
        InvalidArgumentError: None is chosen, or an unknown one.
    """
    try:
        return domain.ArtifactFormat(number)
    except ValueError:
        raise errors.invalid(field, number, "must be a known format") from None


def header_from_proto(
    message: registry_service_pb2.UploadArtifactRequest | None,
) -> domain.ArtifactHeader:
    """Return the header of an upload, which has to be its first message."""
    if message is None or message.WhichOneof("part") != "header":
        raise errors.InvalidArgumentError(
            errors.Reason.MISSING_FIELD,
            "header: must be the first message of an upload",
            violations=[errors.FieldViolation("header", "must be the first message of an upload")],
            metadata={"field": "header"},
        )
    header = message.header
    return domain.ArtifactHeader(
        header.digest, header.size, format_from_proto(header.format, "header.format")
    )


def data_from_proto(message: registry_service_pb2.UploadArtifactRequest) -> bytes:
    """Return the data of a later message of an upload."""
    if message.WhichOneof("part") != "data":
        raise errors.invalid("data", None, "must be given in every message after the first")
    return message.data


def key_from_proto(message: reference_pb2.ModelVersionReference) -> domain.VersionKey:
    """Return the version that a request names."""
    return domain.VersionKey(
        message.model, version_from_proto(message.version, "model_version.version")
    )


def version_from_proto(version: int, field: str) -> int:
    """Return the number of a version.

    Raises:
        InvalidArgumentError: No version can have it.
    """
    if version < 1:
        raise errors.invalid(field, version, "must be at least 1")
    return version


def version_to_proto(version: domain.ModelVersion) -> model_pb2.ModelVersion:
    """Return a version as a message."""
    return model_pb2.ModelVersion(
        model=version.model,
        version=version.version,
        manifest=model_pb2.Manifest.FromString(version.manifest),
        manifest_digest=version.manifest_digest,
        approval_state=_STATES[version.approval_state],
        create_time=version.create_time,
    )


def alias_to_proto(alias: domain.Alias) -> model_pb2.Alias:
    """Return an event of an alias as a message."""
    return model_pb2.Alias(
        model=alias.model,
        alias=alias.alias,
        version=alias.version,
        valid_from=alias.valid_from,
        actor=alias.actor,
        reason=alias.reason,
    )


def decision_from_proto(number: int) -> domain.ApprovalState:
    """Return a decision.

    Raises:
        InvalidArgumentError: It is none.
    """
    if number not in (domain.ApprovalState.APPROVED, domain.ApprovalState.REJECTED):
        raise errors.invalid("decision", number, "must be APPROVED or REJECTED")
    return domain.ApprovalState(number)


def approval_to_proto(approval: domain.Approval) -> model_pb2.Approval:
    """Return a decision as a message."""
    return model_pb2.Approval(
        approval_id=approval.approval_id,
        model_version=reference_pb2.ModelVersionReference(
            model=approval.key.model, version=approval.key.version
        ),
        manifest_digest=approval.manifest_digest,
        decision=_STATES[approval.decision],
        approver=approval.approver,
        comment=approval.comment,
        decide_time=approval.decide_time,
    )
