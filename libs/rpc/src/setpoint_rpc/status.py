"""Errors on the wire: the one table from kinds to codes, and rich statuses both ways."""

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no annotations

from setpoint.errordetails.v1 import failure_pb2
from setpoint_rpc.http2 import headers
from setpoint_runtime import errors

DOMAIN = "setpoint"
"""`ErrorInfo.domain` of every error of ours."""

CODES: dict[type[errors.SetpointError], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.AbortedError: grpc.StatusCode.ABORTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
"""The one table. A subclass of a kind has the code of its kind."""

_KINDS = {code: kind for kind, code in CODES.items()} | {
    # A server that stops cancels what its grace did not cover; the call may succeed elsewhere.
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDeniedError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
}
# The transport and servers of others send no ErrorInfo. Oversize looks like overload there, but
# our servers say OVERLOADED themselves, so without a reason it is the size.
_REASONS_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.Reason.INVALID_FIELD,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Reason.MESSAGE_TOO_LARGE,
    grpc.StatusCode.UNAVAILABLE: errors.Reason.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: errors.Reason.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED: errors.Reason.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED: errors.Reason.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED: errors.Reason.PERMISSION_DENIED,
}

# Clients refuse 8 KiB of metadata; half of it leaves room for the percent-encoded text.
_DETAILS_BYTES = 4096
_VIOLATIONS = 20
_MESSAGE_BYTES = 1024
_ENCODED_MESSAGE_BYTES = 2048
_FIELD_BYTES = 128
_DESCRIPTION_BYTES = 256
_PACKING_BYTES = 80
_ENTRY_BYTES = 4
_NANOSECONDS_PER_SECOND = 1_000_000_000

TrailingMetadata = tuple[tuple[str, str | bytes], ...]


def code_of(error: errors.SetpointError) -> grpc.StatusCode:
    """Return the status code of an error by its kind; an error of no kind is INTERNAL."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.SetpointError) -> tuple[grpc.StatusCode, str, TrailingMetadata]:
    """Return code, text and trailing metadata that tell a caller of an error.

    Texts and lists are cut so that the details stay within 4 KiB; the reason is always there.
    """
    code = code_of(error)
    message = _told(error.message)
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.append(_packed(_info(error)))
    if error.retry_after_seconds is not None:
        status.details.append(_packed(_retry_info(error.retry_after_seconds)))
    _append_violations(status, error)
    rich = rpc_status.to_status(status)
    return rich.code, rich.details, rich.trailing_metadata


def to_failure(error: errors.SetpointError) -> failure_pb2.Failure:
    """Return an error as a message holds it, where many answers share one call."""
    failure = failure_pb2.Failure(
        code=code_of(error).value[0],
        reason=error.reason.value,
        message=_cut(error.message, _MESSAGE_BYTES),
        violations=[
            failure_pb2.FieldViolation(field=each.field, description=each.description)
            for each in error.violations[:_VIOLATIONS]
        ],
        metadata=error.metadata,
    )
    if error.retry_after_seconds is not None:
        failure.retry_after_microseconds = round(error.retry_after_seconds * 1e6)
    return failure


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.SetpointError:
    """Return the typed error that a failed call stands for; raise it `from` the given one.

    A reason that this version does not know keeps its kind, and is in the metadata as
    `unknown_reason`.
    """
    code = error.code()
    kind = _KINDS.get(code, errors.InternalError)
    fallback = _REASONS_BY_CODE.get(code, errors.Reason.INTERNAL)
    details = _Details()
    for packed in _packed_details(error):
        details.add(packed)
    return kind(
        details.reason or fallback,
        error.details() or code.name,
        violations=details.violations,
        metadata=details.metadata,
        retry_after_seconds=details.retry_after_seconds,
    )


class _Details:
    """What the details of a rich status say, gathered one by one."""

    def __init__(self) -> None:
        self.reason: errors.Reason | None = None
        self.metadata: dict[str, str] = {}
        self.violations: list[errors.FieldViolation] = []
        self.retry_after_seconds: float | None = None

    def add(self, packed: any_pb2.Any) -> None:
        """Take in one detail; kinds of detail that mean nothing here are left out."""
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            self.metadata |= dict(info.metadata)
            if info.domain == DOMAIN and info.reason in errors.Reason.__members__:
                self.reason = errors.Reason(info.reason)
            else:
                self.metadata["unknown_reason"] = info.reason
        elif packed.Unpack(bad_request):
            self.violations += [
                errors.FieldViolation(each.field, each.description)
                for each in bad_request.field_violations
            ]
        elif packed.Unpack(retry):
            delay = retry.retry_delay
            self.retry_after_seconds = delay.seconds + delay.nanos / _NANOSECONDS_PER_SECOND


def _packed_details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    """Return the details of a rich status, none when it is absent or broken."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return []
    return [] if status is None else list(status.details)


def _append_violations(status: status_pb2.Status, error: errors.SetpointError) -> None:
    """Add the field violations that fit, the first ones first."""
    bad_request = error_details_pb2.BadRequest()
    # The packed message adds its type's address and two lengths.
    left = _DETAILS_BYTES - status.ByteSize() - _PACKING_BYTES
    for violation in error.violations[:_VIOLATIONS]:
        one = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, _FIELD_BYTES),
            description=_cut(violation.description, _DESCRIPTION_BYTES),
        )
        left -= one.ByteSize() + _ENTRY_BYTES
        if left < 0:
            break
        bad_request.field_violations.append(one)
    if bad_request.field_violations:
        status.details.append(_packed(bad_request))


def _info(error: errors.SetpointError) -> error_details_pb2.ErrorInfo:
    """Return reason and metadata, as much of it as half of the room takes."""
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    for key, value in error.metadata.items():
        short = _cut(key, _FIELD_BYTES)
        info.metadata[short] = _cut(value, _DESCRIPTION_BYTES)
        if info.ByteSize() > _DETAILS_BYTES // 2:
            del info.metadata[short]
            break
    return info


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    whole = int(seconds)
    nanos = int((seconds - whole) * _NANOSECONDS_PER_SECOND)
    return error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=whole, nanos=nanos)
    )


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _told(text: str) -> str:
    """Return as much of a text as leaves room for the details beside it, however it is encoded."""
    short = _cut(text, _MESSAGE_BYTES)
    if len(headers.percent_encoded(short)) <= _ENCODED_MESSAGE_BYTES:
        return short
    return _cut(text, _ENCODED_MESSAGE_BYTES // 3)


def _cut(text: str, size: int) -> str:
    """Return as much of a text as fits into so many bytes of UTF-8, lone surrogates replaced."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
