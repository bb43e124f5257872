"""Errors with the codes that clients of the protocol expect, which are those that Triton gives.

Triton knows fewer codes than our own contracts use; the reason in `google.rpc.ErrorInfo`, the field
violations and the time to wait stay what they are.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from setpoint_runtime import errors

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])

KINDS: Final[dict[type[errors.SetpointError], type[errors.SetpointError]]] = {
    # A full queue, a version that cannot be loaded, a change beneath: the same request may be
    # answered later or elsewhere.
    errors.ResourceExhaustedError: errors.UnavailableError,
    errors.FailedPreconditionError: errors.UnavailableError,
    errors.AbortedError: errors.UnavailableError,
    errors.OutOfRangeError: errors.InvalidArgumentError,
    errors.DataLossError: errors.InternalError,
}
"""Kinds that Triton has no code for, and what they are answered as. DEADLINE_EXCEEDED and
PERMISSION_DENIED stay: gRPC itself answers with them."""


def of_triton(error: errors.SetpointError) -> errors.SetpointError:
    """Return an error of a kind that has a code of Triton's."""
    for kind in type(error).__mro__:
        if kind in KINDS:
            return KINDS[kind](
                error.reason,
                error.message,
                violations=error.violations,
                metadata=error.metadata,
                retry_after_seconds=error.retry_after_seconds,
            )
    return error


def with_codes_of_triton(handler: Handler) -> Handler:
    """Make a method of a servicer answer errors as Triton does."""

    @functools.wraps(handler)
    async def handled(*args: Any) -> Any:
        try:
            return await handler(*args)
        except errors.SetpointError as error:
            translated = of_triton(error)
            if translated is error:
                raise
            raise translated from error

    return handled  # type: ignore[return-value]  # takes and returns what the handler does
