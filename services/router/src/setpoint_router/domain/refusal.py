"""Errors of a router that cannot take more."""

from setpoint_runtime import errors


def spool_full() -> errors.ResourceExhaustedError:
    """Returns the error for a prediction whose record cannot be kept."""
    return errors.ResourceExhaustedError(
        errors.Reason.SPOOL_FULL,
        "the record of this prediction could not be kept, and the route does not answer without",
        retry_after_seconds=1.0,
    )


def overloaded() -> errors.ResourceExhaustedError:
    """Returns the error for a prediction that would wait too long."""
    return errors.ResourceExhaustedError(
        errors.Reason.OVERLOADED,
        "more predictions are waiting than can be answered in time",
        # A few batches later.
        retry_after_seconds=0.05,
    )
