"""Threads that run models off the event loop, with a queue that has an end."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from setpoint_runtime import errors
from setpoint_scoring.runner import Stop

T = TypeVar("T")

_LOADER_NICENESS = 10
_LEAST_RETRY_SECONDS = 0.01


class ThreadPool:
    """Implements `ports.Workers`.

    A place is free again when the thread is, not when the caller stops waiting. Everything but the
    jobs happens on the event loop, so nothing here needs a lock.
    """

    def __init__(self, threads: int, max_queued: int, *, is_loader_nice: bool = True) -> None:
        """Make the threads.

        Args:
            threads: Jobs that run at once; 0 means the number of cores.
            max_queued: Jobs that wait.
            is_loader_nice: Let the thread that opens models give way to those that run them.
        """
        self.threads = threads or os.cpu_count() or 1
        self._places = self.threads + max_queued
        self._taken = 0
        self._pending_us = 0.0
        self._stops: set[Stop] = set()
        self._runners = concurrent.futures.ThreadPoolExecutor(self.threads, "predict")
        begin = _be_nice if is_loader_nice else None
        self._loader = concurrent.futures.ThreadPoolExecutor(1, "load", begin)

    def taken(self) -> int:
        """Return how many jobs run or wait."""
        return self._taken

    async def run(
        self,
        job: Callable[[], T],
        estimate_us: float,
        remaining_seconds: float | None,
        stop: Stop,
        ended: Callable[[], None],
    ) -> T:
        """Run a job off the event loop."""
        wait_us = self._pending_us / self.threads if self._taken >= self.threads else 0.0
        is_late = remaining_seconds is not None and wait_us + estimate_us > remaining_seconds * 1e6
        if self._taken >= self._places or (is_late and wait_us > 0):
            ended()
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED,
                f"{self._taken} calls are running or waiting",
                retry_after_seconds=max(_LEAST_RETRY_SECONDS, wait_us / 1e6),
            )
        loop = asyncio.get_running_loop()
        self._taken += 1
        self._pending_us += estimate_us
        self._stops.add(stop)

        def release() -> None:
            self._taken -= 1
            self._pending_us -= estimate_us
            self._stops.discard(stop)
            ended()

        def leave(_: object) -> None:
            # At the end of the process the loop may be closed before the last job is done.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(release)

        future = self._runners.submit(job)
        future.add_done_callback(leave)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # A waiting job has been taken back by now; a running one ends at its next operator.
            stop.set()
            raise

    async def load(self, job: Callable[[], T]) -> T:
        """Run a job on the thread that opens models, after those before it."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, job)

    def close(self) -> None:
        """Take back what waits, stop what runs, and let the threads end; blocks until they have."""
        for stop in self._stops:
            stop.set()
        for executor in (self._runners, self._loader):
            executor.shutdown(wait=True, cancel_futures=True)


def _be_nice() -> None:
    """Let a thread that opens models give way to those that answer, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOADER_NICENESS)
