"""Errors get the codes of Triton and keep everything else."""

import grpc
import pytest

from setpoint_oip import status
from setpoint_rpc import status as statuses
from setpoint_runtime import errors

KNOWN_TO_CLIENTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
}


@pytest.mark.parametrize("kind", list(statuses.CODES), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_triton(kind: type[errors.SetpointError]) -> None:
    """Proves that no error of ours reaches a client of the protocol with a code it does not know."""
    error = kind(errors.Reason.OVERLOADED, "full", metadata={"a": "b"}, retry_after_seconds=0.5)
    translated = status.of_triton(error)
    assert statuses.code_of(translated) in KNOWN_TO_CLIENTS
    assert (translated.reason, translated.message) == (error.reason, error.message)
    assert translated.metadata == {"a": "b"}
    assert translated.retry_after_seconds == 0.5


async def test_handler_answers_with_the_code() -> None:
    """Proves that a decorated method raises the translated error, and leaves others alone."""

    class Servicer:
        @status.with_codes_of_triton
        async def Infer(self, request: errors.SetpointError, context: object) -> None:
            raise request

    full = errors.ResourceExhaustedError(errors.Reason.OVERLOADED, "full")
    with pytest.raises(errors.UnavailableError) as raised:
        await Servicer().Infer(full, None)
    assert raised.value.__cause__ is full
    wrong = errors.invalid("a", 1, "must be 2")
    with pytest.raises(errors.InvalidArgumentError) as kept:
        await Servicer().Infer(wrong, None)
    assert kept.value is wrong
