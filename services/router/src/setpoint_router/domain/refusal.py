"""Errors of a router that cannot take more, or has a defect."""

from setpoint_runtime import errors


def spool_full() -> errors.ResourceExhaustedError:
    """Returns the error for a prediction whose record cannot be kept."""
    return errors.ResourceExhaustedError(
        errors.Reason.SPOOL_FULL,
        "the record of this prediction could not be kept, and the route does not answer without",
        retry_after_seconds=1.0,
    )


def too_late(wait_seconds: float) -> errors.ResourceExhaustedError:
    """Returns the error for a prediction whose deadline would pass while it waits for its turn."""
    return errors.ResourceExhaustedError(
        errors.Reason.OVERLOADED,
        f"the deadline would pass before the turn of this prediction, in about {wait_seconds:.3g} s",
        retry_after_seconds=max(0.05, wait_seconds),
    )


def overloaded(retry_after_seconds: float = 0.05) -> errors.ResourceExhaustedError:
    """Returns the error for a prediction that would wait too long; by default for a few batches."""
    return errors.ResourceExhaustedError(
        errors.Reason.OVERLOADED,
        "more predictions are waiting than can be answered in time",
        retry_after_seconds=retry_after_seconds,
    )


def defect(error_id: str) -> errors.InternalError:
    """Returns the error for predictions that a defect has ended; its text is in the log."""
    return errors.InternalError(
        errors.Reason.INTERNAL, f"internal error {error_id}", metadata={"error_id": error_id}
    )
