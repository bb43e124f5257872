"""Frames of a segment: found again after damage, told apart from what a crash left half written.

A frame is a 24 byte head and a payload, all numbers little-endian:
mark (4), length of the payload (4), sequence (8), CRC32C of the head before it (4), CRC32C of the
payload (4). The head has a checksum of its own, so that a wrong length never leads astray, and the
mark lets a reader find the next frame behind damage.
"""

import enum
import struct
from dataclasses import dataclass

import crc32c

MARK = b"\xf5SPf"
HEAD = struct.Struct("<4sIQII")
_COVERED = struct.Struct("<4sIQ")
HEAD_LENGTH = HEAD.size
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Far above what the router writes; a longer length is damage."""


def head_of(sequence: int, payload: bytes) -> bytes:
    """Returns the head of a frame."""
    covered = _COVERED.pack(MARK, len(payload), sequence)
    checksums = struct.pack("<II", crc32c.crc32c(covered), crc32c.crc32c(payload))
    return covered + checksums


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame."""

    sequence: int
    payload: bytes
    start: int
    """Where it begins."""
    end: int
    """Where the next one begins."""


class Flaw(enum.Enum):
    """Why there is no whole frame at a place."""

    CUT = "cut"
    """The data ends before the frame does, as after a crash while writing."""
    DAMAGED = "damaged"
    """What is there is not what was written."""


def parse(data: bytes, start: int, base: int = 0) -> Frame | Flaw:
    """Returns the frame that begins at a place, or why there is none.

    Args:
        data: A piece of a segment.
        start: Where in the piece.
        base: Where the piece begins in the segment; positions of the frame are the segment's.
    """
    if len(data) - start < HEAD_LENGTH:
        return Flaw.CUT
    mark, length, sequence, head_sum, payload_sum = HEAD.unpack_from(data, start)
    covered = data[start : start + _COVERED.size]
    if mark != MARK or crc32c.crc32c(covered) != head_sum or length > MAX_PAYLOAD_BYTES:
        return Flaw.DAMAGED
    first = start + HEAD_LENGTH
    if len(data) - first < length:
        return Flaw.CUT
    payload = data[first : first + length]
    if crc32c.crc32c(payload) != payload_sum:
        return Flaw.DAMAGED
    return Frame(sequence, payload, base + start, base + first + length)


def find(data: bytes, start: int) -> int | None:
    """Returns where the next frame with a sound head begins, or None.

    The payload may still be cut or damaged; whoever reads on finds out.
    """
    position = data.find(MARK, start)
    while position >= 0:
        if len(data) - position >= HEAD_LENGTH:
            _, length, _, head_sum, _ = HEAD.unpack_from(data, position)
            covered = data[position : position + _COVERED.size]
            if crc32c.crc32c(covered) == head_sum and length <= MAX_PAYLOAD_BYTES:
                return position
        position = data.find(MARK, position + 1)
    return None
