"""Errors that travel inside messages."""

from setpoint.errordetails.v1 import failure_pb2
from setpoint_router.convert import records
from setpoint_runtime import errors


def to_proto(error: errors.SetpointError) -> failure_pb2.Failure:
    """Returns an error as a message holds it."""
    made = failure_pb2.Failure(
        code=records.code_of(error),
        reason=error.reason.value,
        message=error.message,
        violations=[
            failure_pb2.FieldViolation(field=each.field, description=each.description)
            for each in error.violations
        ],
        metadata=error.metadata,
    )
    if error.retry_after_seconds is not None:
        made.retry_after_microseconds = round(error.retry_after_seconds * 1e6)
    return made
