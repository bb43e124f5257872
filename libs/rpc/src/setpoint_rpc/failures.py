"""From what a handler raised to what its caller is told."""

from typing import Any

import grpc
import grpc.aio

import setpoint_telemetry
from setpoint_rpc import status
from setpoint_runtime import errors, ids

# A handler that says UNAVAILABLE has tried what it needs; the transport's immediate retry would
# only repeat that. A server that does not answer at all sends no such word and is retried.
_DO_NOT_RETRY = ("grpc-retry-pushback-ms", "-1")
_DEFECTS = (errors.InternalError, errors.DataLossError)
_PEER_FAILURES = {
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
}
_LOGGER = setpoint_telemetry.get_logger(__name__)


def answer(
    context: "grpc.aio.ServicerContext[Any, Any]", error: Exception, method: str
) -> grpc.StatusCode:
    """Set the status that tells the caller of an exception; return its code.

    The status is set rather than aborted with, since an aborted call may cut a graceful stop short.
    """
    known = typed(error, method)
    code, message, trailing = status.to_status(known)
    if code is grpc.StatusCode.UNAVAILABLE:
        trailing = (*trailing, _DO_NOT_RETRY)
    context.set_code(code)
    context.set_details(message)
    context.set_trailing_metadata(trailing)
    return code


def typed(error: Exception, method: str) -> errors.SetpointError:
    """Return the error to tell of; the text of an unknown exception goes to the log alone."""
    if isinstance(error, errors.SetpointError):
        if isinstance(error, _DEFECTS):
            _LOGGER.error("call failed", rpc=method, reason=error.reason.value, exc_info=error)
        return error
    if isinstance(error, grpc.aio.AioRpcError) and (kind := _PEER_FAILURES.get(error.code())):
        _LOGGER.warning("peer failed", rpc=method, code=error.code().name, details=error.details())
        return kind(
            status.from_rpc_error(error).reason, "a service behind this one did not answer in time"
        )
    error_id = ids.uuid7()
    _LOGGER.error("unexpected exception", rpc=method, error_id=error_id, exc_info=error)
    return errors.InternalError(
        errors.Reason.INTERNAL,
        f"internal error {error_id}",
        metadata={"error_id": error_id},
    )


def stopping() -> errors.UnavailableError:
    """Return the error for a stream that ends because its server stops."""
    return errors.UnavailableError(errors.Reason.UNAVAILABLE, "the server is stopping")
