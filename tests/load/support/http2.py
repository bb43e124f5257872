"""As much of HTTP/2 as a caller of unary gRPC methods needs to write and to read.

A generator of load shares the machine with what it measures, so what it costs itself hides what a
server could do. A gRPC library costs about as much as the server it calls; frames that are made
once and only counted when they come back cost a twentieth of that.
"""

from collections.abc import Sequence
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0
HEADERS = 1
RST_STREAM = 3
SETTINGS = 4
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4

FRAME_HEADER = 9
MESSAGE_HEADER = 5
"""Bytes before each gRPC message: whether it is compressed, and its length."""

DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16_384
"""That every peer takes unasked."""

_ENABLE_PUSH = 2
_INITIAL_WINDOW_SIZE = 4
_STATIC_ENTRIES = 61
_STRING_BITS = 7


class Frame(NamedTuple):
    """One frame of a connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Writes a frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def opening() -> bytes:
    """Writes what a connection begins with: no push, and windows that are never full."""
    largest = LARGEST_WINDOW.to_bytes(4, "big")
    settings = (
        _ENABLE_PUSH.to_bytes(2, "big")
        + bytes(4)
        + _INITIAL_WINDOW_SIZE.to_bytes(2, "big")
        + largest
    )
    more = (LARGEST_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, more)


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """Reads the whole frames at the beginning of the data, and returns them with what is left."""
    found = []
    place, end = 0, len(data)
    while place + FRAME_HEADER <= end:
        begin = place + FRAME_HEADER
        after = begin + int.from_bytes(data[place : place + 3], "big")
        if after > end:
            break
        stream = int.from_bytes(data[place + 5 : begin], "big") & LARGEST_WINDOW
        found.append(Frame(data[place + 3], data[place + 4], stream, data[begin:after]))
        place = after
    return found, data[place:]


def integer(value: int, bits: int, prefix: int) -> bytes:
    """Writes a number in the form of header compression, after the bits of a prefix."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((prefix | value,))
    rest = value - limit
    written = [prefix | limit]
    while rest >= 0x80:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    written.append(rest)
    return bytes(written)


def first_headers(fields: Sequence[tuple[str, str]]) -> bytes:
    """Writes the header block of a connection's first request; both sides then know its fields."""
    written = bytearray()
    for name, value in fields:
        written += b"\x40"
        for text in (name.encode(), value.encode()):
            written += integer(len(text), _STRING_BITS, 0) + text
    return bytes(written)


def further_headers(count: int) -> bytes:
    """Writes the header block of all further requests: the same fields by their places."""
    newest = _STATIC_ENTRIES + 1
    places = range(newest + count - 1, newest - 1, -1)
    return b"".join(integer(place, _STRING_BITS, 0x80) for place in places)


def message(content: bytes) -> bytes:
    """Frames a gRPC message."""
    return b"\0" + len(content).to_bytes(4, "big") + content


def messages(data: bytes) -> list[bytes]:
    """Takes gRPC messages that follow each other apart, each still framed.

    Raises:
        ValueError: The last one is not whole.
    """
    found = []
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place + 1 : place + MESSAGE_HEADER], "big")
        end = place + MESSAGE_HEADER + length
        if end > len(data):
            raise ValueError("the last message is cut off")
        found.append(data[place:end])
        place = end
    return found


def unframed(framed: bytes) -> bytes:
    """Returns the content of a framed message."""
    return framed[MESSAGE_HEADER:]
