"""Coalescing: answers never cross, and nobody suffers with another."""

import asyncio
import random
from dataclasses import dataclass

import hypothesis
import pytest
from hypothesis import strategies

from setpoint_router.service.coalescer import Bounds, Coalescer
from setpoint_runtime import errors


@dataclass
class Item:
    """Something to be doubled."""

    number: int
    future: "asyncio.Future[int]"
    rows: int = 1


def item(number: int, rows: int = 1) -> Item:
    """Returns an item that waits."""
    return Item(number, asyncio.get_running_loop().create_future(), rows)


async def test_submit_alone_starts_at_once() -> None:
    """Shows that a lone item does not wait for company."""
    started = asyncio.Event()

    async def run(batch: list[Item]) -> None:
        started.set()
        for each in batch:
            each.future.set_result(each.number * 2)

    coalescer: Coalescer[Item] = Coalescer(run, Bounds())
    only = item(21)
    coalescer.submit(only)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert started.is_set()
    assert await only.future == 42
    await coalescer.drain()
    assert coalescer.is_idle


async def test_submit_together_shares_call() -> None:
    """Shows that what is queued while calls run goes together, within the bound."""
    gate = asyncio.Event()
    batches: list[list[int]] = []

    async def run(batch: list[Item]) -> None:
        batches.append([each.number for each in batch])
        await gate.wait()

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=1, rows=4, queued_rows=100))
    coalescer.submit(item(0))
    await asyncio.sleep(0.01)
    for number in range(1, 10):
        coalescer.submit(item(number))
    await asyncio.sleep(0.01)
    assert batches == [[0]]
    gate.set()
    await coalescer.drain()
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


async def test_submit_counts_rows() -> None:
    """Shows that large items fill a call by their rows, and one above the bound goes alone."""
    sizes: list[list[int]] = []

    async def run(batch: list[Item]) -> None:
        sizes.append([each.rows for each in batch])

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=1, rows=10, queued_rows=100))
    for rows in (6, 4, 1, 30, 5):
        coalescer.submit(item(0, rows))
    await coalescer.drain()
    assert sizes == [[6, 4], [1], [30], [5]]


async def test_submit_full_queue_refused() -> None:
    """Shows that a full queue says so at once, with a time to come back."""
    gate = asyncio.Event()

    async def run(batch: list[Item]) -> None:
        await gate.wait()

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=1, rows=1, queued_rows=2))
    coalescer.submit(item(0))
    await asyncio.sleep(0.01)
    coalescer.submit(item(1))
    coalescer.submit(item(2))
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        coalescer.submit(item(3))
    assert caught.value.reason is errors.Reason.OVERLOADED
    assert caught.value.retry_after_seconds
    gate.set()
    await coalescer.drain()


async def test_run_defect_does_not_block(caplog: pytest.LogCaptureFixture) -> None:
    """Shows that a batch which raises frees its place for the next one."""

    async def run(batch: list[Item]) -> None:
        raise ValueError("a defect")

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=1, rows=1))
    for number in range(3):
        coalescer.submit(item(number))
    await coalescer.drain()
    assert caplog.text.count("unexpected error") == 3


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    strategies.integers(0, 2**32), strategies.integers(1, 4), strategies.integers(1, 9)
)
def test_answers_never_cross(seed: int, calls: int, rows: int) -> None:
    """Shows that with random delays and cancels everybody who stays gets his own answer."""
    asyncio.run(_storm(random.Random(seed), calls, rows))


async def _storm(chance: random.Random, calls: int, rows: int) -> None:
    async def run(batch: list[Item]) -> None:
        assert len(batch) <= rows
        await asyncio.sleep(chance.random() * 0.002)
        for each in batch:
            if not each.future.done():
                each.future.set_result(each.number * 2)

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls, rows, 10_000))

    async def ask(number: int) -> int:
        await asyncio.sleep(chance.random() * 0.005)
        mine = item(number)
        coalescer.submit(mine)
        return await mine.future

    tasks = [asyncio.create_task(ask(number)) for number in range(60)]
    victims = set(chance.sample(range(60), 15))
    for number in victims:
        asyncio.get_running_loop().call_later(chance.random() * 0.008, tasks[number].cancel)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if not (number in victims and isinstance(answer, asyncio.CancelledError)):
            assert answer == number * 2
    await coalescer.drain()
