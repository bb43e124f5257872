"""Places that are taken at once or in turn."""

import asyncio
import random
import time

import pytest

from setpoint_router.service.places import Places


def far() -> float:
    """Return a time that does not come in a good run."""
    return time.monotonic() + 60


async def test_take_while_there_are_places() -> None:
    """Who does not wait is told at once when every place is taken."""
    places = Places(2)
    assert [await places.take() for _ in range(3)] == [True, True, False]
    assert places.are_taken
    places.give_back()
    assert not places.are_taken


async def test_take_in_turn() -> None:
    """Who waits gets the next place, the longest first, before anybody who comes later."""
    places, served = Places(1), []
    assert await places.take()

    async def wait(number: int) -> None:
        assert await places.take(far())
        served.append(number)

    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(wait(number)))
        await asyncio.sleep(0)
    for count in range(1, 4):
        places.give_back()
        assert not await places.take(), "somebody waits for longer"
        await waiting[count - 1]
        assert served == list(range(count))
    places.give_back()
    assert not places.are_taken


async def test_take_until_a_time() -> None:
    """Who has waited for long enough gets none, and takes none from the next one."""
    places = Places(1)
    assert await places.take()
    assert not await places.take(time.monotonic())
    places.give_back()
    assert await places.take()


async def test_take_cancelled_loses_no_place() -> None:
    """Whenever those who wait leave, every place is there in the end."""
    places, chance = Places(3), random.Random(5)
    most = held = 0

    async def hold() -> None:
        nonlocal most, held
        if not await places.take(far()):
            pytest.fail("there was time enough")
        held += 1
        most = max(most, held)
        try:
            await asyncio.sleep(0)
        finally:
            held -= 1
            places.give_back()

    tasks = [asyncio.create_task(hold()) for _ in range(300)]
    while not all(task.done() for task in tasks):
        tasks[chance.randrange(300)].cancel()
        await asyncio.sleep(0)
    assert most <= 3
    assert [await places.take() for _ in range(4)] == [True, True, True, False]
