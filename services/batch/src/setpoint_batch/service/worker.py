"""Taking jobs that wait, one after the other, for as long as their leases hold."""

from __future__ import annotations

import asyncio
import logging
import os

from setpoint_batch.domain.job import Job, State
from setpoint_batch.service.attempt import Attempt, Needs
from setpoint_runtime import errors, ids

_LOGGER = logging.getLogger(__name__)

HEARTBEATS = 6
"""Signs of life in the time of a lease."""


class Worker:
    """Takes jobs that wait and does them."""

    def __init__(self, needs: Needs, lease_seconds: float) -> None:
        """Take what it works with."""
        self._needs = needs
        self._store = needs.store
        self._lease_seconds = lease_seconds
        # Unique per process: a restarted one must not look like the one that died.
        self._holder = f"{os.getpid()}-{ids.uuid7()}"
        self._woken = asyncio.Event()

    def wake(self, job_id: str) -> None:
        """Tell of a job that waits or is to be cancelled; another one's only costs a look."""
        self._woken.set()

    async def work(self, poll_seconds: float) -> None:
        """Take jobs and do them, forever."""
        while True:
            # Before the look, so that a job that is added during it is not slept through.
            self._woken.clear()
            try:
                job = await self._store.claim(self._holder, self._lease_seconds)
            except errors.UnavailableError as error:
                _LOGGER.warning("no look for jobs: %s", error)
                job = None
            if job is not None:
                await self._do(job)
                continue
            await self._sleep(poll_seconds)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _do(self, job: Job) -> None:
        """Do a claimed job for as long as the lease holds and nobody cancels it."""
        doing = asyncio.create_task(Attempt(self._needs, job).run(), name=f"batch {job.job_id}")
        # Waking is how a cancellation in this process is told; each look keeps the lease as well.
        try:
            while not doing.done():
                self._woken.clear()
                looked = asyncio.create_task(self._sleep(self._lease_seconds / HEARTBEATS))
                await asyncio.wait({doing, looked}, return_when=asyncio.FIRST_COMPLETED)
                looked.cancel()
                if not doing.done() and not await self._keep(job.job_id):
                    _LOGGER.info("batch prediction %s is stopped", job.job_id)
                    break
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        await self._take_back(job.job_id)

    async def _keep(self, job_id: str) -> bool:
        try:
            return await self._store.extend(job_id, self._holder, self._lease_seconds)
        except errors.UnavailableError:
            return True

    async def _take_back(self, job_id: str) -> None:
        """Take away what a cancelled job has written; others keep what they have for a resume."""
        try:
            job = await self._store.job(job_id)
            if job.state is State.CANCELLING:
                await Attempt(self._needs, job).run()
        except errors.SetpointError as error:
            # Its lease passes, and whoever claims it then tries again.
            _LOGGER.warning("batch prediction %s is not cancelled yet: %s", job_id, error)
