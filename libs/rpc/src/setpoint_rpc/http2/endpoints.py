"""How methods are served, and the answers that are made in one piece."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc.aio

from setpoint_rpc import status
from setpoint_rpc.http2 import frames, headers, messages
from setpoint_runtime import errors

_RESPONSE_HEADER = len(headers.RESPONSE).to_bytes(3, "big") + bytes(
    (frames.HEADERS, frames.END_HEADERS)
)
_END_FLAGS = bytes((frames.HEADERS, frames.END_HEADERS | frames.END_STREAM))
_DATA_HEADER = bytes((frames.DATA, 0))
_GOOD_END_HEADER = len(headers.GOOD_END).to_bytes(3, "big") + _END_FLAGS


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

    __slots__ = ("_block", "_header", "observe")

    def __init__(self, block: bytes, observe: Callable[[], None]) -> None:
        """Prepare to answer with a block that fits into a frame; `observe` is called for each."""
        self._header = len(block).to_bytes(3, "big") + _END_FLAGS
        self._block = block
        self.observe = observe

    @classmethod
    def of(cls, error: errors.SetpointError, observe: Callable[[], None]) -> Self:
        """Prepare to tell callers of an error."""
        code, message, trailing = status.to_status(error)
        return cls(end_alone(code.value[0], message, trailing), observe)

    def answer(self, stream: int) -> bytes:
        """Return the frame that answers a call."""
        return self._header + stream.to_bytes(4, "big") + self._block


def end_alone(code: int, message: str, trailing: headers.Metadata) -> bytes:
    """Return the block of an answer that has a status and no message."""
    return headers.RESPONSE + headers.block(headers.status_fields(code, message, trailing))


def whole_answer(stream: int, answer: bytes) -> bytes:
    """Return all frames of an ordinary answer: one message that fits into a frame, and no error."""
    place = stream.to_bytes(4, "big")
    size = len(answer)
    return b"".join(
        (
            _RESPONSE_HEADER,
            place,
            headers.RESPONSE,
            (size + messages.HEADER_BYTES).to_bytes(3, "big"),
            _DATA_HEADER,
            place,
            b"\0",
            size.to_bytes(4, "big"),
            answer,
            _GOOD_END_HEADER,
            place,
            headers.GOOD_END,
        )
    )
