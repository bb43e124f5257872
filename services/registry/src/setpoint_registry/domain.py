"""Models, their versions, and what is decided about them."""

import dataclasses
import enum
import hashlib
from dataclasses import dataclass

from setpoint_artifacts.signature import Signature
from setpoint_runtime import errors

MAX_LABEL_LENGTH = 256
"""Longest name of a person or program."""
MAX_TEXT_LENGTH = 4096
"""Longest description, reason or comment."""
CLOCK_SKEW_US = 5_000_000
"""How far the clocks of two replicas may differ, microseconds."""
MAX_MANIFEST_BYTES = 1024 * 1024
"""Largest manifest; a page of versions has to fit a message."""


class Task(enum.IntEnum):
    """The kind of answer; the numbers equal those of the contract."""

    BINARY_CLASSIFICATION = 1
    MULTICLASS_CLASSIFICATION = 2
    REGRESSION = 3


class ApprovalState(enum.IntEnum):
    """Whether a version may serve; the numbers equal those of the contract."""

    PENDING = 1
    APPROVED = 2
    REJECTED = 3


class ArtifactFormat(enum.IntEnum):
    """A served format; the numbers equal those of the contract."""

    ONNX = 1
    SKOPS = 2
    EXTERNAL_OIP = 3


@dataclass(frozen=True, slots=True)
class Model:
    """A named question with versions that answer it."""

    name: str
    task: Task
    description: str
    owner: str
    create_time: int = 0


@dataclass(frozen=True, slots=True)
class VersionKey:
    """Names a version."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class ArtifactHeader:
    """What an upload announces."""

    digest: str
    size: int
    format: ArtifactFormat


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored artifact that passed the checks."""

    digest: str
    size: int
    format: ArtifactFormat
    signature: Signature
    create_time: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable manifest and the decision about it."""

    model: str
    version: int
    manifest: bytes
    """The manifest's deterministic serialisation, which the digest is of."""
    manifest_digest: str
    approval_state: ApprovalState
    create_time: int


@dataclass(frozen=True, slots=True)
class Alias:
    """An event: from then on the alias means this version."""

    model: str
    alias: str
    version: int
    valid_from: int
    actor: str
    reason: str
    sequence: int = 0
    """Order of the events of a model."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A decision about one exact manifest."""

    approval_id: str
    key: VersionKey
    manifest_digest: str
    decision: ApprovalState
    approver: str
    comment: str
    decide_time: int
    sequence: int = 0
    """Order of the decisions."""


def manifest_digest(manifest: bytes) -> str:
    """Return the digest that approvals are bound to."""
    return hashlib.sha256(manifest).hexdigest()


def check_text(field: str, value: str, longest: int, *, is_required: bool = False) -> str:
    """Return a text for people when it can be stored.

    Raises:
        InvalidArgumentError: It is missing, too long, or holds a null character, which PostgreSQL
            does not store.
    """
    if is_required and not value.strip():
        raise errors.invalid(field, value, "must be given", errors.Reason.MISSING_FIELD)
    if len(value) > longest:
        raise errors.invalid(
            field, value, f"must have at most {longest} characters", errors.Reason.TOO_LARGE
        )
    if "\0" in value:
        raise errors.invalid(field, value, "must not hold a null character")
    return value


def settled(last: Alias | None, move: Alias, state: ApprovalState, now: int) -> Alias:
    """Return the event as it shall be stored, when the alias may move.

    Args:
        last: Its last event, if there is one.
        move: The new event; a valid_from of 0 means now.
        state: What is decided about the version that the alias shall mean.
        now: The service's time, microseconds.

    Raises:
        InvalidArgumentError: Its times would go back.
        FailedPreconditionError: NOT_APPROVED, if the version was rejected.
    """
    valid_from = move.valid_from or now
    if last is not None and not move.valid_from and 0 < last.valid_from - now <= CLOCK_SKEW_US:
        # Another replica's clock is a little ahead; to the caller both moves are now.
        valid_from = last.valid_from
    if last is not None and valid_from < last.valid_from:
        raise errors.invalid(
            "valid_from",
            valid_from,
            f"must not be before the alias's last event at {last.valid_from}",
        )
    if state is ApprovalState.REJECTED:
        raise errors.FailedPreconditionError(
            errors.Reason.NOT_APPROVED,
            f"version {move.version} of {move.model} was rejected; no alias may mean it",
            metadata={"model": move.model, "version": str(move.version)},
        )
    return dataclasses.replace(move, valid_from=valid_from)


def check_decision(version: ModelVersion, manifest_digest: str) -> None:
    """Make sure that a version may be decided about.

    Raises:
        FailedPreconditionError: DIGEST_MISMATCH, if the approver saw another manifest;
            ALREADY_DECIDED, if a decision stands.
    """
    metadata = {"model": version.model, "version": str(version.version)}
    if manifest_digest != version.manifest_digest:
        raise errors.FailedPreconditionError(
            errors.Reason.DIGEST_MISMATCH,
            f"the manifest of version {version.version} of {version.model} has the digest"
            f" {version.manifest_digest}, not the one decided about",
            metadata=metadata,
        )
    if version.approval_state is not ApprovalState.PENDING:
        raise errors.FailedPreconditionError(
            errors.Reason.ALREADY_DECIDED,
            f"version {version.version} of {version.model} is already"
            f" {version.approval_state.name.lower()}; a decision is terminal",
            metadata=metadata,
        )


def model_not_found(name: str) -> errors.NotFoundError:
    """Return the error for a model that does not exist."""
    return errors.NotFoundError(
        errors.Reason.MODEL_NOT_FOUND, f"there is no model {name!r}", metadata={"model": name}
    )


def version_not_found(key: VersionKey) -> errors.NotFoundError:
    """Return the error for a version that does not exist."""
    return errors.NotFoundError(
        errors.Reason.MODEL_VERSION_NOT_FOUND,
        f"the model {key.model!r} has no version {key.version}",
        metadata={"model": key.model, "version": str(key.version)},
    )


def alias_not_found(model: str, alias: str, time: int) -> errors.NotFoundError:
    """Return the error for an alias that is not set, or was not at that time."""
    when = f" at {time}" if time else ""
    return errors.NotFoundError(
        errors.Reason.ALIAS_NOT_FOUND,
        f"the model {model!r} has no alias {alias!r}{when}",
        metadata={"model": model, "alias": alias},
    )


def artifact_not_found(digest: str) -> errors.NotFoundError:
    """Return the error for an artifact that is not stored."""
    return errors.NotFoundError(
        errors.Reason.ARTIFACT_NOT_FOUND,
        f"no artifact is stored under {digest}",
        metadata={"digest": digest},
    )
