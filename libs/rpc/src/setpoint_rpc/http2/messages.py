"""Messages of a request: put together from what comes, unpacked, and no more of them than are read."""

import zlib
from collections import deque
from typing import TYPE_CHECKING

from setpoint_rpc.http2 import frames
from setpoint_rpc.http2.frames import ErrorCode
from setpoint_runtime import errors

if TYPE_CHECKING:
    from setpoint_rpc.http2.connection import Connection

HEADER_BYTES = 5
"""Before each message: whether it is compressed, and its length."""

RECEIVE_WINDOW = 256 * 1024
"""Bytes of a stream that its peer may send before they are read; a longer message gets more."""

ACCEPTED_ENCODINGS = "identity,deflate,gzip"

_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class UnknownEncodingError(errors.UnimplementedError):
    """Messages are compressed in a way that is not known here."""


class Inbox:
    """The messages of one request that have come and are not read."""

    __slots__ = (
        "_buffer",
        "_connection",
        "_encoding",
        "_is_single",
        "_stream",
        "_unread",
        "_window",
        "is_ended",
        "waiting",
    )

    def __init__(
        self, connection: "Connection", stream: int, encoding: bytes, *, is_single: bool
    ) -> None:
        """Begin with none; where one message makes a request, a second is refused."""
        self._connection = connection
        self._stream = stream
        self._encoding = encoding
        self._is_single = is_single
        self._window = RECEIVE_WINDOW
        self._buffer = bytearray()
        self.waiting: deque[tuple[int, bytes]] = deque()
        """The messages that have come, each after its flag."""
        # What the messages took on the wire, for as long as it holds back the peer.
        self._unread = 0
        self.is_ended = False
        """The peer will send no more."""

    def receive(self, data: bytes, size: int) -> None:
        """Take in some of the request; `size` is what it counts for flow control.

        Raises:
            StreamFailure: The peer sent more than it was allowed to.
            SetpointError: The request is refused.
        """
        self._window -= size
        if self._window < 0:
            raise frames.StreamFailure(ErrorCode.FLOW_CONTROL_ERROR)
        if not data:
            return
        if not self._buffer:
            length = int.from_bytes(data[1:HEADER_BYTES], "big")
            if len(data) == HEADER_BYTES + length and length <= self._connection.maximum_message:
                # By far the most: one frame, one message.
                self._add(data[0], data[HEADER_BYTES:])
                return
        self._buffer += data
        self._assemble()

    def end(self) -> None:
        """Note that the peer will send no more.

        Raises:
            SetpointError: What came is no request.
        """
        self.is_ended = True
        if self._buffer:
            raise _not_taken("the request ends within a message")
        if self._is_single and not self.waiting:
            raise _not_one("none came")

    def take(self) -> bytes:
        """Return the first message; there must be one.

        Raises:
            SetpointError: It cannot be unpacked.
        """
        flag, raw = self.waiting.popleft()
        self._unread -= len(raw) + HEADER_BYTES
        if not self.is_ended:
            more = RECEIVE_WINDOW - self._window - self._unread
            if more * 2 >= RECEIVE_WINDOW:
                self._grant(more)
        return unpacked(raw, self._encoding, self._connection.maximum_message) if flag else raw

    def _assemble(self) -> None:
        """Take messages out of the buffer, which may end anywhere."""
        buffer, limit = self._buffer, self._connection.maximum_message
        place = 0
        while len(buffer) - place >= HEADER_BYTES:
            begin = place + HEADER_BYTES
            length = int.from_bytes(buffer[place + 1 : begin], "big")
            if length > limit:
                raise _too_large(length, limit)
            end = begin + length
            if len(buffer) < end:
                break
            self._add(buffer[place], bytes(memoryview(buffer)[begin:end]))
            place = end
        del buffer[:place]
        if buffer:
            if self._is_single and self.waiting:
                raise _not_one("several came")
            self._grant_rest()

    def _add(self, flag: int, raw: bytes) -> None:
        if flag:
            _check_compressed(flag, self._encoding)
        if self._is_single and self.waiting:
            raise _not_one("several came")
        self.waiting.append((flag, raw))
        self._unread += len(raw) + HEADER_BYTES

    def _grant_rest(self) -> None:
        """Let a message come to its end that is longer than the window, and nothing after it."""
        if len(self._buffer) < HEADER_BYTES:
            return
        length = int.from_bytes(self._buffer[1:HEADER_BYTES], "big")
        missing = HEADER_BYTES + length - len(self._buffer)
        if missing > self._window:
            self._grant(missing - self._window)

    def _grant(self, more: int) -> None:
        self._window += more
        self._connection.put(frames.window_update(self._stream, more))


def unpacked(raw: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a compressed message as it was.

    Raises:
        SetpointError: It is broken, or too large.
    """
    inflate = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = inflate.decompress(raw, limit + 1)
    except zlib.error as error:
        raise _not_taken("a compressed message cannot be read") from error
    if len(content) > limit:
        raise _too_large(len(content), limit)
    if not inflate.eof or inflate.unused_data:
        raise _not_taken("a compressed message is cut off or goes on after its end")
    return content


def framed(raw: bytes) -> bytes:
    """Return a message as it is sent."""
    return b"\0" + len(raw).to_bytes(4, "big") + raw


def _check_compressed(flag: int, encoding: bytes) -> None:
    if flag != 1 or encoding == b"identity":
        raise _not_taken("a message is marked as compressed and the call names no encoding")
    if encoding not in _WINDOW_BITS:
        shown = encoding[:32].decode("ascii", "backslashreplace")
        raise UnknownEncodingError(
            errors.Reason.UNIMPLEMENTED,
            f"grpc-encoding {shown!r} must be one of identity, deflate, gzip",
        )


def _not_taken(message: str) -> errors.SetpointError:
    return errors.InvalidArgumentError(errors.Reason.INVALID_FIELD, message)


def _not_one(message: str) -> errors.SetpointError:
    # The code is gRPC's for a wrong number of messages.
    return errors.UnimplementedError(
        errors.Reason.UNIMPLEMENTED, f"the method takes one request message and {message}"
    )


def _too_large(size: int, limit: int) -> errors.SetpointError:
    return errors.ResourceExhaustedError(
        errors.Reason.MESSAGE_TOO_LARGE,
        f"received message larger than max ({size} vs. {limit} bytes)",
    )
