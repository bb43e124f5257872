"""Appends records to segments; many share one fdatasync."""

import asyncio
import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from setpoint_router.adapters.spool import frame, reader
from setpoint_router.adapters.spool.folder import Folder, Position
from setpoint_router.domain import refusal

_LOGGER = logging.getLogger(__name__)

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENTS_OF_CAP = 4
"""A small cap makes small segments: only whole ones can be deleted once they are shipped."""

COMMIT_BYTES = 8 * 1024 * 1024
"""Most bytes of one write, so that those who came first need not wait for the others' bytes."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The device is fine, there is just no room."""

RETRY_SECONDS = 1.0
"""After a failed write records are refused for so long, then the next one tries again."""


class _Entry(NamedTuple):
    """A record on its way to the disk."""

    payload: bytes
    future: "asyncio.Future[None]"


class Writer:
    """Keeps records; implements the port `Spool`."""

    def __init__(
        self,
        folder: Folder,
        *,
        cap_bytes: int,
        commit_seconds: float = 0.0,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a writer; `open` makes it ready.

        Args:
            folder: The spool.
            cap_bytes: Most bytes of all segments together.
            commit_seconds: Least time between two syncs; 0 syncs as often as the disk can. The first
                record after a pause never waits.
            on_failure: Told of each failed write, in the event loop.
        """
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(4096, cap_bytes // SEGMENTS_OF_CAP))
        self._commit_seconds = commit_seconds
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._bytes = 0
        self._failed_until = 0.0
        # Of the thread alone:
        self._handle = -1
        self._segment = 0
        self._offset = 0
        self._sequence = 1
        self._last_commit = 0.0
        self._durable = Position(0, 0)
        self.grown = asyncio.Event()
        """Set after each commit; the reader clears it."""

    @property
    def durable(self) -> Position:
        """How far records are on disk."""
        return self._durable

    @property
    def bytes_used(self) -> int:
        """Bytes of all segments and of what is on its way into them."""
        return self._bytes

    @property
    def is_full(self) -> bool:
        """Whether records cannot be kept now."""
        if self._bytes >= self._cap_bytes:
            return True
        return self._failed_until > 0.0 and time.monotonic() < self._failed_until

    def open(self) -> None:
        """Repair what a crash left, and begin.

        Raises:
            InUseError: Another router uses the folder.
            OSError: The folder cannot be written to.
        """
        self._folder.lock()
        self._recover()
        self._start_segment()
        self._thread.start()

    async def close(self) -> None:
        """Write what has been handed over and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._folder.unlock()

    def append(self, payload: bytes) -> "asyncio.Future[None]":
        """Begin to keep a record; the future is done once it is on disk.

        Raises:
            ResourceExhaustedError: The cap is reached; also when awaiting, when the disk refuses.
        """
        size = frame.HEAD_LENGTH + len(payload)
        if self._bytes + size > self._cap_bytes or self.is_full:
            raise refusal.spool_full()
        self._bytes += size
        future = self._loop.create_future()
        self._queue.put(_Entry(payload, future))
        return future

    def freed(self, size: int) -> None:
        """Take note that segments of `size` bytes have been deleted."""
        self._bytes = max(0, self._bytes - size)

    # At the start.

    def _recover(self) -> None:
        """Cut a torn tail off, and find out where to go on."""
        position = self._folder.read_position()
        if position is not None:
            self._sequence = max(self._sequence, position.segment + 1)
        for number in reversed(self._folder.segments()):
            tail = reader.examine(self._folder, number)
            if tail.torn:
                self._cut(number, tail)
            if tail.last_sequence is not None:
                self._sequence = max(self._sequence, tail.last_sequence + 1)
                break
            # Nothing was ever committed to it.
            self._folder.segment(number).unlink()
        self._bytes = sum(self._folder.size(each) for each in self._folder.segments())

    def _cut(self, number: int, tail: reader.Tail) -> None:
        aside = self._folder.set_aside(f"{number}-{tail.end}-torn.bin", tail.torn)
        os.truncate(self._folder.segment(number), tail.end)
        _LOGGER.warning(
            "cut %d bytes off the end of spool segment %d, which a crash left unfinished; kept as %s",
            len(tail.torn),
            number,
            aside.name,
        )

    # In the thread.

    def _work(self) -> None:
        while True:
            entry = self._queue.get()
            if entry is None:
                return
            if self._commit_seconds:
                pause = self._last_commit + self._commit_seconds - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
            batch, is_last = self._gather(entry)
            error = self._commit(batch)
            self._last_commit = time.monotonic()
            # The loop may be gone when a test or a crash ends it first.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._committed, batch, error)
            if is_last:
                return

    def _gather(self, first: _Entry) -> tuple[list[_Entry], bool]:
        """Return everything that waits, up to a bound, and whether the end was asked for."""
        batch, size = [first], len(first.payload)
        while size < COMMIT_BYTES:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                return batch, True
            batch.append(entry)
            size += len(entry.payload)
        return batch, False

    def _commit(self, batch: list[_Entry]) -> OSError | None:
        """Write and sync a batch; after an error of the device once more, in a new segment."""
        try:
            data = self._frames(batch)
            if self._offset and self._offset + len(data) > self._segment_bytes:
                self._start_segment()
            self._write(data)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._undo()
                return error
            _LOGGER.error(
                "spool segment %d failed, going on in a new one", self._segment, exc_info=error
            )
            return self._commit_elsewhere(batch)
        self._sequence += len(batch)
        return None

    def _commit_elsewhere(self, batch: list[_Entry]) -> OSError | None:
        """Write a batch to a new segment.

        After a failed sync the kernel may have dropped the pages and will say that all is well the
        next time, so the file is never trusted again beyond what was synced before.
        """
        with contextlib.suppress(OSError):
            self._undo()
        try:
            self._start_segment()
            self._write(self._frames(batch))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._undo()
            return error
        self._sequence += len(batch)
        return None

    def _frames(self, batch: list[_Entry]) -> bytes:
        parts = []
        for sequence, entry in enumerate(batch, self._sequence):
            parts.append(frame.head_of(sequence, entry.payload))
            parts.append(entry.payload)
        return b"".join(parts)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        os.fdatasync(self._handle)
        self._offset += len(data)
        self._durable = Position(self._segment, self._offset)

    def _undo(self) -> None:
        """Take away what a failed write has left behind the last commit."""
        os.ftruncate(self._handle, self._offset)
        os.lseek(self._handle, self._offset, os.SEEK_SET)

    def _start_segment(self) -> None:
        """Go on in a new file."""
        while self._folder.segment(self._sequence).exists():
            self._sequence += 1
        path = self._folder.segment(self._sequence)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            self._folder.sync()
        except OSError:
            os.close(handle)
            path.unlink()
            raise
        if self._handle >= 0:
            os.close(self._handle)
        self._handle, self._segment, self._offset = handle, self._sequence, 0
        self._durable = Position(self._segment, 0)

    # In the loop.

    def _committed(self, batch: list[_Entry], error: OSError | None) -> None:
        if error is None:
            self._failed_until = 0.0
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_result(None)
            self.grown.set()
            return
        self._bytes -= sum(frame.HEAD_LENGTH + len(entry.payload) for entry in batch)
        self._failed_until = time.monotonic() + RETRY_SECONDS
        _LOGGER.error("%d records could not be written: %s", len(batch), error)
        if self._on_failure is not None:
            self._on_failure(type(error).__name__)
        for entry in batch:
            _refuse(entry.future)


def _refuse(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(refusal.spool_full())
        # Nobody may wait any more; that is no defect.
        future.exception()
