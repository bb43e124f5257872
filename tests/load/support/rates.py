"""How often something can be asked in a second, and how long an answer takes."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.load.support import figures


@dataclass(frozen=True, slots=True)
class Reading:
    """What one turn of a side gave."""

    rate: float
    """Things asked about in a second."""
    p50_ms: float
    """Of an answer."""


def reading(things: int, seconds: float, taken: list[float]) -> Reading:
    """Sums a turn up: so many things in each answer, and how long each answer took."""
    return Reading(things * len(taken) / seconds, 1000 * figures.percentile(taken, 0.5))


async def of_threads(
    asks: Sequence[Callable[[int], object]], things: int, seconds: float
) -> Reading:
    """Asks again as soon as it is answered, with calls that block, each in a thread of its own.

    Args:
        asks: Each takes the number of a question; they share the questions.
        things: How many things one question is about.
        seconds: How long.
    """
    return await asyncio.to_thread(_in_threads, asks, things, seconds)


def _in_threads(asks: Sequence[Callable[[int], object]], things: int, seconds: float) -> Reading:
    for ask in asks:
        ask(0)
    taken: list[float] = []
    began = time.perf_counter()

    def go_on(number: int, ask: Callable[[int], object]) -> None:
        # However short the turn, each asks once.
        is_over = False
        while not is_over:
            sent = time.perf_counter()
            ask(number)
            answered = time.perf_counter()
            taken.append(answered - sent)
            number += len(asks)
            is_over = answered - began >= seconds

    threads = [threading.Thread(target=go_on, args=each) for each in enumerate(asks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reading(things, time.perf_counter() - began, taken)
