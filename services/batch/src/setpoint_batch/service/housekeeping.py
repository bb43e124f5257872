"""What ended jobs leave behind, removed when it is old enough."""

from __future__ import annotations

import asyncio
import logging

from setpoint_batch import ports
from setpoint_runtime import errors
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)


async def clean(
    store: ports.Store, leftovers: ports.Leftovers, clock: Clock, retention_seconds: float
) -> None:
    """Forget what has not been needed for so long."""
    before_us = clock.now_us() - round(retention_seconds * 1e6)
    jobs = await store.forget(before_us)
    files = await asyncio.to_thread(leftovers.remove_unused, before_us / 1e6)
    if jobs or files:
        _LOGGER.info("plans and rows of %d jobs are forgotten, %d files removed", jobs, files)


async def keep_clean(
    store: ports.Store,
    leftovers: ports.Leftovers,
    clock: Clock,
    retention_seconds: float,
    pause_seconds: float,
) -> None:
    """Clean now and then, for ever."""
    while True:
        try:
            await clean(store, leftovers, clock, retention_seconds)
        except (errors.UnavailableError, OSError) as error:
            _LOGGER.warning("nothing is cleaned: %s", error)
        await asyncio.sleep(pause_seconds)
