"""What a failed call says on the wire, read without the client."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

DETAILS = "grpc-status-details-bin"
DOMAIN = "setpoint"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error of a call."""

    code: grpc.StatusCode
    reason: str
    """Empty where the transport refused."""
    fields: tuple[str, ...]
    """What the field violations name."""
    text: str


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Returns how a call fails; that it does not fails the test."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the error of a call."""
    reason, fields = "", []
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS:
            continue
        status = status_pb2.Status.FromString(value)
        assert status.code == error.code().value[0]
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            if detail.Unpack(info):
                assert info.domain == DOMAIN
                reason = info.reason
            elif detail.Unpack(bad):
                fields += [violation.field for violation in bad.field_violations]
    return Refusal(error.code(), reason, tuple(fields), error.details() or "")
