"""Waiting for what other processes do, without a guess at how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")

PATIENCE_SECONDS = 90.0
"""A limit for things that never happen, far above what a busy machine needs for those that do."""

PAUSE_SECONDS = 0.1


async def until(
    ask: Callable[[], Awaitable[_T]],
    is_enough: Callable[[_T], bool],
    *,
    seconds: float = PATIENCE_SECONDS,
) -> _T:
    """Asks again and again until the answer is enough, and returns it.

    Args:
        ask: Gets an answer.
        is_enough: Judges it.
        seconds: How long to go on.

    Raises:
        AssertionError: The time is over; it shows the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = await ask()
        if is_enough(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not enough after {seconds:g} s: {answer!r}")
        await asyncio.sleep(PAUSE_SECONDS)
