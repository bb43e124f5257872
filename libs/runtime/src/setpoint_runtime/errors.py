"""Errors as a contract: each has a kind, a machine-readable reason and a text for people.

The kind decides the status code of the answer and is all that the transport looks at. The reason
says what happened in a way programs may rely on, and the text may change at any time. Nothing here
knows of gRPC; `setpoint_rpc` holds the one table that turns kinds into codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

# Enough to recognise a value, too little to fill an error with a megabyte of it.
_SHOWN_VALUE_LENGTH = 80
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Reason(StrEnum):
    """The reasons of `setpoint.errordetails.v1.Reason`, without the prefix of the enum."""

    INVALID_FIELD = "INVALID_FIELD"
    MISSING_FIELD = "MISSING_FIELD"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    WRONG_TYPE = "WRONG_TYPE"
    NULL_REFUSED = "NULL_REFUSED"
    MALFORMED_COLUMNS = "MALFORMED_COLUMNS"
    TOO_LARGE = "TOO_LARGE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105 — the name of a reason.
    RULE_VIOLATED = "RULE_VIOLATED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    NAME_TAKEN = "NAME_TAKEN"
    IN_USE = "IN_USE"
    ENTITY_NOT_FOUND = "ENTITY_NOT_FOUND"
    FEATURE_VIEW_NOT_FOUND = "FEATURE_VIEW_NOT_FOUND"
    FEATURE_SET_NOT_FOUND = "FEATURE_SET_NOT_FOUND"
    ENTITY_KEY_MISSING = "ENTITY_KEY_MISSING"
    EVENT_TIME_IN_FUTURE = "EVENT_TIME_IN_FUTURE"
    FEATURE_LEAK = "FEATURE_LEAK"
    ONLINE_STORE_UNAVAILABLE = "ONLINE_STORE_UNAVAILABLE"
    TRANSFORMATION_NOT_FOUND = "TRANSFORMATION_NOT_FOUND"
    TRANSFORMATION_MISMATCH = "TRANSFORMATION_MISMATCH"
    TRANSFORMATION_FAILED = "TRANSFORMATION_FAILED"
    SEGMENT_DAMAGED = "SEGMENT_DAMAGED"
    SEGMENT_FOLDER_UNAVAILABLE = "SEGMENT_FOLDER_UNAVAILABLE"
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND"
    SNAPSHOT_DAMAGED = "SNAPSHOT_DAMAGED"
    HISTORY_REMOVED = "HISTORY_REMOVED"
    TRANSFORMATION_STUCK = "TRANSFORMATION_STUCK"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_VERSION_NOT_FOUND = "MODEL_VERSION_NOT_FOUND"
    ALIAS_NOT_FOUND = "ALIAS_NOT_FOUND"
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    EXECUTABLE_ARTIFACT = "EXECUTABLE_ARTIFACT"
    INVALID_ARTIFACT = "INVALID_ARTIFACT"
    SIGNATURE_MISMATCH = "SIGNATURE_MISMATCH"
    NOT_APPROVED = "NOT_APPROVED"
    ALREADY_DECIDED = "ALREADY_DECIDED"
    WARM_UP_MISMATCH = "WARM_UP_MISMATCH"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    INFERENCE_FAILED = "INFERENCE_FAILED"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    ROUTE_REVISION_NOT_FOUND = "ROUTE_REVISION_NOT_FOUND"
    INVALID_WEIGHTS = "INVALID_WEIGHTS"
    SPOOL_FULL = "SPOOL_FULL"
    FEATURES_UNAVAILABLE = "FEATURES_UNAVAILABLE"
    INFERENCE_UNAVAILABLE = "INFERENCE_UNAVAILABLE"
    ENSEMBLE_BELOW_QUORUM = "ENSEMBLE_BELOW_QUORUM"
    SUITE_NOT_FOUND = "SUITE_NOT_FOUND"
    VALIDATION_RUN_NOT_FOUND = "VALIDATION_RUN_NOT_FOUND"
    PREDICTION_NOT_FOUND = "PREDICTION_NOT_FOUND"
    ALERT_NOT_FOUND = "ALERT_NOT_FOUND"
    REFERENCE_NOT_FOUND = "REFERENCE_NOT_FOUND"
    POLICY_NOT_FOUND = "POLICY_NOT_FOUND"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    RUN_STATE = "RUN_STATE"
    TRAINER_NOT_FOUND = "TRAINER_NOT_FOUND"
    NOT_ENOUGH_DATA = "NOT_ENOUGH_DATA"
    CHAMPION_CHANGED = "CHAMPION_CHANGED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    UNAVAILABLE = "UNAVAILABLE"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    INTERNAL = "INTERNAL"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    PERMISSION_DENIED = "PERMISSION_DENIED"

    BATCH_PREDICTION_NOT_FOUND = "BATCH_PREDICTION_NOT_FOUND"
    INPUT_NOT_FOUND = "INPUT_NOT_FOUND"
    INVALID_INPUT = "INVALID_INPUT"
    INPUT_CHANGED = "INPUT_CHANGED"
    OUTPUT_EXISTS = "OUTPUT_EXISTS"
    URL_REFUSED = "URL_REFUSED"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that breaks a rule."""

    field: str
    description: str


class SetpointError(Exception):
    """Something that a caller can be told; raise one of the subclasses."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] = _NO_METADATA,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Describe what happened.

        Args:
            reason: What programs may rely on.
            message: What people read; it reaches the caller, so it holds no secret.
            violations: The fields that are wrong and why.
            metadata: Facts that go with the reason, such as the name that was not found.
            retry_after_seconds: When it makes sense to try again, or None when unknown.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = metadata
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process, keyword arguments included."""
        state = {
            "violations": self.violations,
            "metadata": dict(self.metadata),
            "retry_after_seconds": self.retry_after_seconds,
        }
        return type(self), (self.reason, self.message), state

    def __str__(self) -> str:
        """Return the text with its reason, as logs show it."""
        return f"{self.message} [{self.reason.value}]"


class InvalidArgumentError(SetpointError):
    """The request is wrong whatever the state of the system."""


class NotFoundError(SetpointError):
    """What the request names does not exist."""


class AlreadyExistsError(SetpointError):
    """What the request would make exists already in another form."""


class FailedPreconditionError(SetpointError):
    """The system is not in a state that allows this; trying again alone does not help."""


class PermissionDeniedError(SetpointError):
    """The caller may not do this."""


class ResourceExhaustedError(SetpointError):
    """A limit is reached: too much work at once, or something too large."""


class UnavailableError(SetpointError):
    """Something needed does not answer now; the same request may succeed later."""


class AbortedError(SetpointError):
    """Somebody else changed the same thing; read again and start over."""


class DeadlineExceededError(SetpointError):
    """The time given for the work is over or too short to begin."""


class DataLossError(SetpointError):
    """Stored data is damaged or gone."""


class OutOfRangeError(SetpointError):
    """The request goes past what exists, such as a time before the first record."""


class UnimplementedError(SetpointError):
    """This server does not offer that."""


class InternalError(SetpointError):
    """Something is broken inside; the text is safe to show."""


def invalid(
    field: str, value: object, rule: str, reason: Reason = Reason.INVALID_FIELD
) -> InvalidArgumentError:
    """Return the error for one field of a request that breaks a rule.

    Args:
        field: Path of the field as the caller wrote it, such as `rows[3].amount`.
        value: What it held; only the beginning is shown.
        rule: What it breaks, such as `must be at least 1`.
        reason: A more precise reason where there is one.
    """
    description = f"{shortened(value)} {rule}"
    return InvalidArgumentError(
        reason,
        f"{field}: {description}",
        violations=(FieldViolation(field, description),),
        metadata={"field": field},
    )


def shortened(value: object) -> str:
    """Return the beginning of a value's representation, as errors show it, without building all of it."""
    if isinstance(value, (str, bytes, bytearray)):
        cut = value[: _SHOWN_VALUE_LENGTH + 1]
        shown = repr(cut)
        is_long = len(value) > _SHOWN_VALUE_LENGTH
        return shown[:_SHOWN_VALUE_LENGTH] + f"… ({len(value)} long)" if is_long else shown
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_VALUE_LENGTH else shown[:_SHOWN_VALUE_LENGTH] + "…"
