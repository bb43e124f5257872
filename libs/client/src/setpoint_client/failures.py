"""Failed calls as typed errors; the reverse of what Setpoint's servers do."""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from setpoint.errordetails.v1 import failure_pb2
from setpoint_runtime import errors

DOMAIN: Final = "setpoint"

KINDS: Final[dict[grpc.StatusCode, type[errors.SetpointError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    # A server that stops cancels what its grace did not cover.
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
    grpc.StatusCode.ABORTED: errors.AbortedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.DATA_LOSS: errors.DataLossError,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRangeError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnimplementedError,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
}
"""The kind of error for each status code."""

# What the transport itself, or a server that is not ours, says carries no reason.
_REASONS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.Reason.INVALID_FIELD,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Reason.MESSAGE_TOO_LARGE,
    grpc.StatusCode.UNAVAILABLE: errors.Reason.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: errors.Reason.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED: errors.Reason.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED: errors.Reason.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED: errors.Reason.PERMISSION_DENIED,
}
_BROKEN_OFF: Final = "Internal error from Core"
"""What grpc.aio says, on this side, of a stream that ended while it was being written to."""
_DETAILS_KEY: Final = "grpc-status-details-bin"
_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_NANOSECONDS_PER_SECOND: Final = 1_000_000_000
_MICROSECONDS_PER_SECOND: Final = 1_000_000
_CODES: Final[dict[int, grpc.StatusCode]] = {each.value[0]: each for each in grpc.StatusCode}


def typed_error(error: grpc.RpcError) -> errors.SetpointError:
    """Returns the typed error that a failed call of a raw stub stands for, sync or async.

    A reason that this version does not know is in the metadata as `unknown_reason`.

    Example:
        ```python
        try:
            client.stubs.router.GetRoute(request, timeout=2)
        except grpc.RpcError as error:
            raise typed_error(error) from error
        ```
    """
    call: Any = error
    code: grpc.StatusCode = call.code()
    if code is grpc.StatusCode.INTERNAL and call.details() == _BROKEN_OFF:
        code = grpc.StatusCode.UNAVAILABLE
    reason: errors.Reason | None = None
    metadata: dict[str, str] = {}
    violations: list[errors.FieldViolation] = []
    retry_after: float | None = None
    for packed in _details(call):
        info, bad, retry = _unpacked(packed)
        if info is not None:
            metadata |= dict(info.metadata)
            if info.domain == DOMAIN and info.reason in errors.Reason.__members__:
                reason = errors.Reason(info.reason)
            else:
                metadata["unknown_reason"] = info.reason
        elif bad is not None:
            violations += [
                errors.FieldViolation(each.field, each.description) for each in bad.field_violations
            ]
        elif retry is not None:
            delay = retry.retry_delay
            retry_after = delay.seconds + delay.nanos / _NANOSECONDS_PER_SECOND
    kind = KINDS.get(code, errors.InternalError)
    return kind(
        reason or _REASONS.get(code, errors.Reason.INTERNAL),
        call.details() or code.name,
        violations=violations,
        metadata=metadata,
        retry_after_seconds=retry_after,
    )


def from_message(failure: failure_pb2.Failure) -> errors.SetpointError:
    """Returns the typed error that a message holds."""
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    metadata = dict(failure.metadata)
    reason = _REASONS.get(code, errors.Reason.INTERNAL)
    if failure.reason in errors.Reason.__members__:
        reason = errors.Reason(failure.reason)
    else:
        metadata["unknown_reason"] = failure.reason
    retry_after = None
    if failure.HasField("retry_after_microseconds"):
        retry_after = failure.retry_after_microseconds / _MICROSECONDS_PER_SECOND
    return KINDS.get(code, errors.InternalError)(
        reason,
        failure.message,
        violations=[
            errors.FieldViolation(each.field, each.description) for each in failure.violations
        ],
        metadata=metadata,
        retry_after_seconds=retry_after,
    )


def forbids_retry(error: grpc.RpcError) -> bool:
    """Tells whether the server asked not to be asked again, having tried in vain itself."""
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key == _PUSHBACK_KEY:
            text = str(value)
            return not text.isdigit()
    return False


def _details(call: Any) -> Iterable[Any]:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return ()
            details: Iterable[Any] = status.details
            return details
    return ()


def _unpacked(packed: Any) -> tuple[Any, Any, Any]:
    """Returns the one of the three known kinds that a detail is."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    return (
        info if packed.Unpack(info) else None,
        bad if packed.Unpack(bad) else None,
        retry if packed.Unpack(retry) else None,
    )
