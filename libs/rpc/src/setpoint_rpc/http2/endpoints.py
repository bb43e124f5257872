"""How methods are served, and what calls are answered with that are not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio

from setpoint_rpc import status
from setpoint_rpc.http2 import headers
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a method is served."""

    serve: Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Any]
    """Takes a message, or an iterator of them, and the call. A coroutine function that returns the
    bytes of its answer or None, or, where it yields, a function of an asynchronous generator."""
    takes_stream: bool
    """Requests come one by one."""
    yields: bool
    read: Callable[[bytes], Any]
    """Reads a message of a stream; a single one is handed over as it came."""
    write: Callable[[Any], bytes]
    """Writes a message that the handler passes to the call."""


class Refusal:
    """An answer that is ready before its call comes."""

    __slots__ = ("block", "observe")

    def __init__(self, error: errors.SetpointError, observe: Callable[[], None]) -> None:
        """Prepare to tell callers of an error; `observe` is called for each."""
        code, message, trailing = status.to_status(error)
        self.block = end_alone(code.value[0], message, trailing)
        self.observe = observe


def end_alone(code: int, message: str, trailing: headers.Metadata) -> bytes:
    """Return the block of an answer that has a status and no message."""
    return headers.RESPONSE + headers.block(headers.status_fields(code, message, trailing))
