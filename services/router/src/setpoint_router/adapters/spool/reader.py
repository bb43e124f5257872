"""Reads segments behind the writer, past damage."""

import os
from dataclasses import dataclass, field

from setpoint_router.adapters.spool import frame
from setpoint_router.adapters.spool.folder import Folder, Position


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that hold no readable frame."""

    segment: int
    start: int
    data: bytes


@dataclass(slots=True)
class Piece:
    """What one reading found."""

    next: Position
    """Where to read on."""
    frames: list[frame.Frame] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)


def read(folder: Folder, start: Position, end: Position, limit: int) -> Piece:
    """Returns whole frames from `start` on, from one segment, some `limit` bytes.

    Args:
        folder: The spool.
        start: Where to begin.
        end: How far records are durable; older segments are read to their ends.
        limit: Bytes wanted; one frame comes whatever its size.
    """
    if start.segment >= end.segment:
        return _read_segment(folder, start, end.offset, limit)
    size = folder.size(start.segment)
    if start.offset < size:
        return _read_segment(folder, start, size, limit)
    later = [number for number in folder.segments() if number > start.segment]
    return Piece(Position(min([*later, end.segment]), 0))


def _read_segment(folder: Folder, start: Position, stop: int, limit: int) -> Piece:
    piece = Piece(start)
    if start.offset >= stop:
        return piece
    with folder.segment(start.segment).open("rb") as file:
        data = os.pread(file.fileno(), min(limit, stop - start.offset), start.offset)
        _take_frames(data, start, piece)
        if piece.frames:
            return piece
        # The first frame is longer than the limit, or it is damaged: look at all of the rest.
        data = os.pread(file.fileno(), stop - start.offset, start.offset)
    found = frame.parse(data, 0, start.offset)
    if isinstance(found, frame.Frame):
        piece.frames.append(found)
        piece.next = Position(start.segment, found.end)
    else:
        _skip_damage(data, start, piece)
    return piece


def _take_frames(data: bytes, start: Position, piece: Piece) -> None:
    position = 0
    while position < len(data):
        found = frame.parse(data, position, start.offset)
        if isinstance(found, frame.Flaw):
            break
        piece.frames.append(found)
        position = found.end - start.offset
    piece.next = Position(start.segment, start.offset + position)


def _skip_damage(data: bytes, start: Position, piece: Piece) -> None:
    following = frame.find(data, 1)
    length = len(data) if following is None else following
    piece.damages.append(Damage(start.segment, start.offset, data[:length]))
    piece.next = Position(start.segment, start.offset + length)


@dataclass(frozen=True, slots=True)
class Tail:
    """How a segment ends."""

    end: int
    """Behind the last whole frame."""
    last_sequence: int | None
    torn: bytes
    """What follows and is no frame, nor leads to one."""


def examine(folder: Folder, number: int) -> Tail:
    """Returns how a segment ends; damage with frames behind it is no tail."""
    data = folder.segment(number).read_bytes()
    end = 0
    last: int | None = None
    position: int | None = 0
    while position is not None and position < len(data):
        found = frame.parse(data, position)
        if isinstance(found, frame.Flaw):
            position = frame.find(data, position + 1)
        else:
            last, position = found.sequence, found.end
            end = position
    return Tail(end, last, data[end:])
