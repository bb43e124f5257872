"""Why an artifact is not accepted."""

from setpoint_runtime import errors


class RefusedError(Exception):
    """An artifact that must not be stored or loaded.

    Whether that is the caller's fault depends on where it came from, so whoever asked turns this
    into the error of its own contract.
    """

    def __init__(self, reason: errors.Reason, message: str) -> None:
        """Say why.

        Args:
            reason: EXECUTABLE_ARTIFACT, INVALID_ARTIFACT, DIGEST_MISMATCH or SIGNATURE_MISMATCH.
            message: What people read; it may be shown to callers.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
