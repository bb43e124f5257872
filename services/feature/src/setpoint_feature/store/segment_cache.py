"""Segments made ready for reading, once, in files without a name that the system maps into memory.

What is read often stays in the system's page cache, what is not costs disk alone, and a dead process
leaves nothing behind.
"""

import asyncio
import collections
import math
import mmap
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from setpoint_feature.domain import key_table, run, segments
from setpoint_feature.store import segment_file, segment_folder
from setpoint_runtime import errors

_ALIGNMENT: Final = 64
_MEMORY: Final = Path("/proc/self/statm")
RESIDENT_BYTES: Final = 640 << 20
"""Bytes of files in the memory of this process that need not be given back to the system after use."""


class MissingError(Exception):
    """A segment's file is not in the folder; it was perhaps replaced meanwhile."""


@dataclass(frozen=True, slots=True)
class _Opened:
    run: run.Run
    mapping: mmap.mmap


class SegmentCache:
    """Opens segments; those used last stay ready."""

    def __init__(self, folder: segment_folder.SegmentFolder, scratch_bytes: int) -> None:
        """Prepares; ready segments take at most about `scratch_bytes` of temporary disk space."""
        self._folder = folder
        self._limit = scratch_bytes
        self._opened: collections.OrderedDict[str, _Opened] = collections.OrderedDict()
        self._guard = threading.Lock()
        self._loading: dict[str, asyncio.Lock] = {}
        self.bytes = 0
        """Bytes of the segments that are ready."""

    async def open(self, segment: segments.Segment) -> run.Run:
        """Returns the rows of a segment.

        Raises:
            MissingError: There is no such file.
            DataLossError: SEGMENT_DAMAGED.
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
        """
        found = self._find(segment.segment_id)
        if found is not None:
            return found
        lock = self._loading.setdefault(segment.segment_id, asyncio.Lock())
        try:
            async with lock:
                found = self._find(segment.segment_id)
                if found is None:
                    found = await asyncio.to_thread(self._load, segment)
                return found
        finally:
            if not lock.locked():
                self._loading.pop(segment.segment_id, None)

    def release(self) -> None:
        """Gives memory back to the system that it can fill again from its page cache."""
        with self._guard:
            # Whoever joins on needs the same pages again, so they go only when they are too many.
            if min(self.bytes, _file_bytes()) <= RESIDENT_BYTES:
                return
            for each in self._opened.values():
                each.mapping.madvise(mmap.MADV_DONTNEED)

    def drop(self, dropped: Iterable[segments.Segment]) -> None:
        """Lets go of segments that others replaced; whoever still reads them keeps them alive."""
        with self._guard:
            for each in dropped:
                opened = self._opened.pop(each.segment_id, None)
                self.bytes -= 0 if opened is None else len(opened.mapping)

    def _find(self, segment_id: str) -> run.Run | None:
        with self._guard:
            found = self._opened.get(segment_id)
            if found is None:
                return None
            self._opened.move_to_end(segment_id)
            return found.run

    def _load(self, segment: segments.Segment) -> run.Run:
        opened = _spill(read(self._folder, segment))
        segment_file.release_memory()
        with self._guard:
            # Whoever waited for it before may have given up while it was still being loaded.
            earlier = self._opened.pop(segment.segment_id, None)
            self.bytes -= 0 if earlier is None else len(earlier.mapping)
            self._opened[segment.segment_id] = opened
            self.bytes += len(opened.mapping)
            while self.bytes > self._limit and len(self._opened) > 1:
                # Whoever still reads it keeps it alive.
                self.bytes -= len(self._opened.popitem(last=False)[1].mapping)
        return opened.run


def read(folder: segment_folder.SegmentFolder, segment: segments.Segment) -> run.Run:
    """Returns the rows of a segment after checking every byte of it; blocks.

    Raises:
        MissingError: There is no such file.
        DataLossError: SEGMENT_DAMAGED.
        UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
    """
    data = check(folder, segment)
    try:
        found = segment_file.decode(data)
    except segment_file.DamagedError as error:
        raise damaged(segment, str(error)) from error
    if len(found) != segment.rows:
        raise damaged(segment, f"it holds {len(found)} rows instead of {segment.rows}")
    return found


def check(folder: segment_folder.SegmentFolder, segment: segments.Segment) -> bytes:
    """Returns the bytes of a segment if they are those that were written; blocks.

    Raises:
        MissingError: There is no such file.
        DataLossError: SEGMENT_DAMAGED.
        UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
    """
    data = folder.read(segment.path)
    if data is None:
        raise MissingError(segment.path)
    if digest(data) != segment.digest:
        raise damaged(segment, "its bytes are not those that were written")
    return data


def digest(data: bytes) -> bytes:
    """Returns the digest that tells whether a file is what was written."""
    return xxhash.xxh3_128_digest(data)


def damaged(segment: segments.Segment, why: str) -> errors.DataLossError:
    """Returns the error that names a segment which cannot be read, ever."""
    return errors.DataLossError(
        errors.Reason.SEGMENT_DAMAGED,
        f"the segment {segment.path} is damaged: {why}",
        metadata={"segment": segment.path, "view": str(segment.view)},
    )


def _file_bytes() -> float:
    """Returns how many bytes of files, mapped ones and libraries, lie in the memory of this process."""
    try:
        return int(_MEMORY.read_bytes().split()[2]) * mmap.PAGESIZE
    except OSError:
        # Only Linux tells; elsewhere all that is mapped counts.
        return math.inf


def _spill(content: run.Run) -> _Opened:
    """Writes a run into a file without a name and returns it with its arrays mapped."""
    packed = content.packed
    arrays: list[npt.NDArray[Any]] = [
        content.keys.data,
        content.keys.offsets,
        content.bounds,
        content.event_times,
        content.created_times,
        content.sequences,
        packed.data,
        np.zeros(0, np.int64) if packed.offsets is None else packed.offsets,
    ]
    try:
        with tempfile.TemporaryFile(prefix="setpoint-segment-") as file:
            starts = []
            for array in arrays:
                starts.append(file.tell())
                file.write(np.ascontiguousarray(array).data)
                file.write(bytes(-file.tell() % _ALIGNMENT + _ALIGNMENT))
            file.flush()
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise errors.UnavailableError(
            errors.Reason.SEGMENT_FOLDER_UNAVAILABLE,
            f"the temporary folder has no room for a segment: {error.strerror}",
            retry_after_seconds=1.0,
        ) from error
    key_bytes, key_offsets, bounds, events, created, sequences, data, offsets = (
        np.frombuffer(mapping, array.dtype, array.size, start)
        for array, start in zip(arrays, starts, strict=True)
    )
    mapped = run.Run(
        key_table.KeyTable(key_bytes, key_offsets),
        bounds,
        (events, created),
        sequences,
        run.Packed(data, packed.width, None if packed.offsets is None else offsets),
    )
    return _Opened(mapped, mapping)
