"""Frames of HTTP/2 as they lie on the wire (RFC 9113, sections 4 and 6)."""

from collections.abc import Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_BYTES = 9
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_STREAM = 2**31 - 1
SMALLEST_MAXIMUM_FRAME = 16_384
"""Payload that every peer takes unasked."""
LARGEST_MAXIMUM_FRAME = 2**24 - 1

_SETTING_BYTES = 6


class Setting(IntEnum):
    """What a peer can be told of a connection."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFailure(Exception):
    """The peer broke a rule that ends its connection."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        """Say which rule."""
        super().__init__(message)
        self.code = code
        self.message = message


class StreamFailure(Exception):
    """The peer broke a rule that ends one of its streams."""

    def __init__(self, code: ErrorCode) -> None:
        """Say by which code."""
        super().__init__(code.name)
        self.code = code


class Splitter:
    """Takes the bytes of a connection apart, which may be cut anywhere."""

    __slots__ = ("_maximum", "_rest")

    def __init__(self, maximum: int) -> None:
        """Take frames with a payload of at most so many bytes."""
        self._maximum = maximum
        self._rest = b""

    def split(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Return kind, flags, stream and payload of each frame that is whole now.

        All of them must be taken before more is given.

        Raises:
            ConnectionFailure: A frame is too long.
        """
        if self._rest:
            data = self._rest + data
        place, end = 0, len(data)
        while place + HEADER_BYTES <= end:
            begin = place + HEADER_BYTES
            header = int.from_bytes(data[place:begin], "big")
            after = begin + (header >> 48)
            if after - begin > self._maximum:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "frame too long")
            if after > end:
                break
            place = after
            yield (
                header >> 40 & 0xFF,
                header >> 32 & 0xFF,
                header & LARGEST_STREAM,
                data[begin:after],
            )
        self._rest = data[place:]


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """Return what a frame with a payload of some size begins with."""
    return (size << 48 | kind << 40 | flags << 32 | stream).to_bytes(HEADER_BYTES, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return the frame that announces settings."""
    payload = b"".join(
        key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items()
    )
    return frame(SETTINGS, 0, 0, payload)


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings in a frame, in order; what they mean is for the reader to check.

    Raises:
        ConnectionFailure: The length is none of settings.
    """
    if len(payload) % _SETTING_BYTES:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
    return [
        (
            int.from_bytes(payload[at : at + 2], "big"),
            int.from_bytes(payload[at + 2 : at + _SETTING_BYTES], "big"),
        )
        for at in range(0, len(payload), _SETTING_BYTES)
    ]


def reset(stream: int, code: ErrorCode) -> bytes:
    """Return the frame that ends one stream."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, more: int) -> bytes:
    """Return the frame that lets the peer send more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def go_away(last_stream: int, code: ErrorCode, message: str = "") -> bytes:
    """Return the frame that says no further stream is taken."""
    head = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
    return frame(GOAWAY, 0, 0, head + message.encode())


def content(flags: int, payload: bytes) -> bytes:
    """Return what DATA or HEADERS carry, without padding and priority.

    Raises:
        ConnectionFailure: The padding is longer than the frame, or the priority does not fit.
    """
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "padding without its length")
        begin, end = 1, end - payload[0]
    if flags & PRIORITIZED:
        begin += 5
    if begin > end:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[begin:end]


def check_length(payload: bytes, length: int) -> None:
    """Check the length of a frame that can have only one.

    Raises:
        ConnectionFailure: It has another.
    """
    if len(payload) != length:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"{len(payload)} bytes, not {length}")


def check_setting(key: int, value: int) -> None:
    """Check what RFC 9113 says of a setting, in section 6.5.2.

    Raises:
        ConnectionFailure: The value is out of its range.
    """
    if key == Setting.INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
        raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
    if key == Setting.ENABLE_PUSH and value > 1:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH must be 0 or 1")
    if key == Setting.MAX_FRAME_SIZE and not (
        SMALLEST_MAXIMUM_FRAME <= value <= LARGEST_MAXIMUM_FRAME
    ):
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "maximum frame out of range")
