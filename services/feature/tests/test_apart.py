import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from setpoint_feature.domain import derivation
from setpoint_feature.service import apart
from setpoint_runtime import errors

SECONDS = 20.0
"""Far more than anything here takes."""


def recipe() -> derivation.Derivation:
    """Returns the transformations of a set."""
    return derivation.Derivation((), (), ())


class Stuck:
    """A function that does not return before it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        assert self.may_end.wait(SECONDS)
        return "late"


@pytest.fixture
async def stuck() -> AsyncIterator[Stuck]:
    """Such a function, which returns when the test is over."""
    made = Stuck()
    yield made
    made.may_end.set()


async def leave(threads: apart.Threads, of: derivation.Derivation, stuck: Stuck) -> None:
    """Calls the function and leaves while it runs."""
    call = asyncio.create_task(threads.run(of, stuck))
    assert await asyncio.to_thread(stuck.begun.acquire, timeout=SECONDS)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_calls_that_do_not_return_are_bounded(stuck: Stuck) -> None:
    """After two lost calls of a set no third is begun, others go on, and a call that returns frees a place."""
    threads, mine, other = apart.Threads(at_once=1), recipe(), recipe()
    for lost in (1, 2):
        await leave(threads, mine, stuck)
        assert threads.lost == lost
    with pytest.raises(errors.UnavailableError, match="2 of them") as caught:
        await threads.run(mine, lambda: "new")
    assert caught.value.reason is errors.Reason.TRANSFORMATION_STUCK
    assert caught.value.retry_after_seconds
    assert await threads.run(other, lambda: "new") == "new"
    stuck.may_end.set()
    async with asyncio.timeout(SECONDS):
        while threads.lost:
            await asyncio.sleep(0.005)
    assert await threads.run(mine, lambda: "new") == "new"


async def test_calls_of_all_sets_are_bounded(stuck: Stuck) -> None:
    """However many sets have such a function, so many threads and no more are lost."""
    threads = apart.Threads()
    sets = [recipe() for _ in range(apart.LOST)]
    for each in sets:
        await leave(threads, each, stuck)
    with pytest.raises(errors.UnavailableError) as caught:
        await threads.run(recipe(), lambda: "new")
    assert caught.value.reason is errors.Reason.TRANSFORMATION_STUCK


async def test_call_that_is_over_is_not_lost() -> None:
    """An answer and an error are the caller's, and neither is counted."""
    threads, mine = apart.Threads(), recipe()

    def fails() -> str:
        raise errors.InternalError(errors.Reason.TRANSFORMATION_FAILED, "broke")

    for _ in range(2 * apart.LOST_OF_ONE):
        assert await threads.run(mine, lambda: "done") == "done"
        with pytest.raises(errors.InternalError, match="broke"):
            await threads.run(mine, fails)
    assert threads.lost == 0


ENDING = """
import asyncio, threading
from setpoint_feature.domain import derivation
from setpoint_feature.service import apart

async def main():
    begun = threading.Event()
    recipe = derivation.Derivation((), (), ())
    work = lambda: (begun.set(), threading.Event().wait())
    call = asyncio.create_task(apart.Threads().run(recipe, work))
    await asyncio.to_thread(begun.wait)
    call.cancel()

asyncio.run(main())
print("ended")
"""


def test_process_does_not_wait_for_them() -> None:
    """A process whose transformations never return stops all the same."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], check=True, capture_output=True, text=True, timeout=50
    )
    assert ended.stdout == "ended\n"
