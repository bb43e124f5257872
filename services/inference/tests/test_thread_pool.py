import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from setpoint_inference.adapters import thread_pool
from setpoint_runtime import errors

LONG = 60.0
"""Seconds that no test waits for, unless something is broken."""


class Stop:
    """Records that it was set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def set(self) -> None:
        self.event.set()


class Calls:
    """Runs jobs in a pool and counts how they ended."""

    def __init__(self, pool: thread_pool.ThreadPool) -> None:
        self.pool = pool
        self.ended = 0
        self.begun = threading.Semaphore(0)
        self.stops: list[Stop] = []

    async def run(self, seconds: float, remaining: float | None = None) -> str:
        """Run a job that is said to take some seconds, and takes none."""
        return await self._run(seconds, remaining, threading.Event().is_set)

    def hold(self, seconds: float) -> asyncio.Task[str]:
        """Start a job that runs until it is stopped."""
        stop = Stop()
        return asyncio.create_task(self._run(seconds, None, lambda: stop.event.wait(LONG), stop))

    async def _run(
        self,
        seconds: float,
        remaining: float | None,
        wait: Callable[[], object],
        stop: Stop | None = None,
    ) -> str:
        stop = stop or Stop()
        self.stops.append(stop)

        def job() -> str:
            self.begun.release()
            wait()
            return threading.current_thread().name

        return await self.pool.run(job, seconds * 1e6, remaining, stop, self._end)

    async def until_begun(self) -> None:
        """Wait until one more job runs."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=LONG)

    async def until_ended(self, count: int) -> None:
        """Wait until so many jobs have given their places back."""
        async with asyncio.timeout(LONG):
            while self.ended < count:
                await asyncio.sleep(0.001)
        assert self.ended == count

    def _end(self) -> None:
        self.ended += 1


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    """A pool with one thread and one waiting place."""
    pool = thread_pool.ThreadPool(1, 1)
    yield Calls(pool)
    pool.close()


async def test_run_returns(calls: Calls) -> None:
    """A job's result comes back from a thread of the pool."""
    assert (await calls.run(0.0)).startswith("predict")
    await calls.until_ended(1)


async def test_run_raises(calls: Calls) -> None:
    """A job's exception comes back, and its place is free again."""

    def fail() -> None:
        raise ValueError("wrong")

    for count in range(5):
        with pytest.raises(ValueError, match="wrong"):
            await calls.pool.run(fail, 1.0, None, Stop(), calls._end)
        await calls.until_ended(count + 1)


async def test_run_full(calls: Calls) -> None:
    """A job beyond the places is refused at once, and told when to come back."""
    running = [calls.hold(0.2) for _ in range(2)]
    await calls.until_begun()
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        await calls.run(0.2)
    assert not any(each.done() for each in running)
    assert caught.value.reason == errors.Reason.OVERLOADED
    assert caught.value.retry_after_seconds == pytest.approx(0.4)
    for stop in calls.stops:
        stop.set()
    await asyncio.gather(*running)
    await calls.until_ended(3)


async def test_run_would_wait_too_long(calls: Calls) -> None:
    """A job that cannot end in time because of those before it is refused before it waits."""
    running = calls.hold(0.2)
    await calls.until_begun()
    with pytest.raises(errors.ResourceExhaustedError):
        await calls.run(0.1, remaining=0.25)
    waiting = asyncio.create_task(calls.run(0.0, remaining=0.25))
    await asyncio.sleep(0)
    calls.stops[0].set()
    assert await waiting
    await running


async def test_cancel_waiting(calls: Calls) -> None:
    """A waiting job whose caller leaves never runs, and frees its place."""
    running = calls.hold(0.1)
    await calls.until_begun()
    waiting = calls.hold(10.0)
    await asyncio.sleep(0)
    assert calls.pool.taken() == 2
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await calls.until_ended(1)
    calls.stops[0].set()
    await running
    await calls.run(0.0, remaining=0.5)
    await calls.until_begun()
    assert not calls.begun.acquire(blocking=False)


async def test_cancel_running(calls: Calls) -> None:
    """A running job whose caller leaves is stopped; its place is free when the thread is."""
    running = calls.hold(10.0)
    await calls.until_begun()
    assert calls.ended == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert calls.stops[0].event.is_set()
    await calls.until_ended(1)
    await calls.run(0.0)


async def test_close_stops_running(calls: Calls) -> None:
    """Closing ends what runs instead of waiting for it."""
    running = calls.hold(10.0)
    await calls.until_begun()
    calls.pool.close()
    assert calls.stops[0].event.is_set()
    await running


async def test_load_apart(calls: Calls) -> None:
    """Loading has a thread of its own, so calls do not wait for it."""
    loaded = threading.Event()
    loading = asyncio.create_task(calls.pool.load(lambda: loaded.wait(LONG)))
    await asyncio.sleep(0)
    await calls.run(0.0)
    assert not loading.done()
    loaded.set()
    assert await loading
