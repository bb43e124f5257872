import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from setpoint_inference.adapters import thread_pool
from setpoint_runtime import errors


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
        self.stops: list[Stop] = []

    async def run(self, seconds: float, remaining: float | None = None) -> str:
        stop = Stop()
        self.stops.append(stop)

        def job() -> str:
            stop.event.wait(seconds)
            return threading.current_thread().name

        return await self.pool.run(job, seconds * 1e6, remaining, stop, self._end)

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
    await asyncio.sleep(0)
    assert calls.ended == 1


async def test_run_raises(calls: Calls) -> None:
    """A job's exception comes back, and its place is free again."""

    def fail() -> None:
        raise ValueError("wrong")

    for _ in range(5):
        with pytest.raises(ValueError, match="wrong"):
            await calls.pool.run(fail, 1.0, None, Stop(), lambda: None)
        await asyncio.sleep(0.01)


async def test_run_full(calls: Calls) -> None:
    """A job beyond the places is refused at once, and told when to come back."""
    running = [asyncio.ensure_future(calls.run(0.2)) for _ in range(2)]
    await asyncio.sleep(0.02)
    started = time.monotonic()
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        await calls.run(0.2)
    assert time.monotonic() - started < 0.05
    assert caught.value.reason == errors.Reason.OVERLOADED
    assert caught.value.retry_after_seconds == pytest.approx(0.4)
    await asyncio.gather(*running)
    await asyncio.sleep(0.01)
    assert calls.ended == 3


async def test_run_would_wait_too_long(calls: Calls) -> None:
    """A job that cannot end in time because of those before it is refused before it waits."""
    running = asyncio.ensure_future(calls.run(0.2))
    await asyncio.sleep(0.02)
    with pytest.raises(errors.ResourceExhaustedError):
        await calls.run(0.1, remaining=0.25)
    await calls.run(0.0, remaining=0.25)
    await running


async def test_cancel_waiting(calls: Calls) -> None:
    """A waiting job whose caller leaves never runs, and frees its place."""
    running = asyncio.ensure_future(calls.run(0.1))
    await asyncio.sleep(0.02)
    waiting = asyncio.ensure_future(calls.run(10.0))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await running
    await calls.run(0.0, remaining=0.5)


async def test_cancel_running(calls: Calls) -> None:
    """A running job whose caller leaves is stopped; its place is free when the thread is."""
    running = asyncio.ensure_future(calls.run(10.0))
    await asyncio.sleep(0.02)
    assert calls.ended == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert calls.stops[0].event.is_set()
    await asyncio.sleep(0.05)
    assert calls.ended == 1
    await calls.run(0.0)


async def test_close_stops_running(calls: Calls) -> None:
    """Closing ends what runs instead of waiting for it."""
    running = asyncio.ensure_future(calls.run(10.0))
    await asyncio.sleep(0.02)
    started = time.monotonic()
    calls.pool.close()
    assert time.monotonic() - started < 1.0
    await running


async def test_load_apart(calls: Calls) -> None:
    """Loading has a thread of its own, so calls do not wait for it."""
    loading = asyncio.ensure_future(calls.pool.load(lambda: time.sleep(0.2)))
    started = time.monotonic()
    await calls.run(0.0)
    assert time.monotonic() - started < 0.1
    await loading
