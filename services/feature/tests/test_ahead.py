import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from setpoint_feature.service import ahead


async def test_ahead_works_while_what_is_done_is_used() -> None:
    """The next item is being made before somebody asks for it, and not more than fits."""
    made = []
    third = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        for number in range(9):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    async with contextlib.aclosing(ahead.ahead(source())) as items:
        assert await anext(items) == 0
        await third.wait()
        # One is ready, one waits for room.
        assert made == [0, 1, 2]
        assert [item async for item in items] == list(range(1, 9))


async def test_ahead_answers_before_more_is_asked() -> None:
    """Who waits for the first answer before it asks again gets it."""
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def source() -> AsyncGenerator[int, None]:
        while True:
            yield await asked.get()

    async with contextlib.aclosing(ahead.ahead(source())) as items:
        for number in range(3):
            asked.put_nowait(number)
            assert await anext(items) == number


async def test_ahead_raises_in_its_place() -> None:
    """What fails comes behind what did not."""

    async def source() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        raise ValueError("the third")

    items = ahead.ahead(source())
    assert [await anext(items), await anext(items)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        await anext(items)


async def test_ahead_closes_its_source() -> None:
    """Nothing goes on for somebody who has left, wherever the source is."""
    closed = []

    async def source(is_waiting: bool) -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            if is_waiting:
                await asyncio.Event().wait()
            yield 3
            yield 4
        finally:
            closed.append(is_waiting)

    for is_waiting in (False, True):
        async with contextlib.aclosing(ahead.ahead(source(is_waiting))) as items:
            assert await anext(items) == 1
    assert closed == [False, True]
