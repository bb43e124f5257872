"""Coalescing: answers never cross, and nobody suffers with another."""

import asyncio
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from setpoint_router.service import coalescer as coalescers
from setpoint_router.service.coalescer import Bounds, Coalescer, Load
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


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn of the loop counts as a long one, not even with a collection of garbage in it."""
    monkeypatch.setattr(coalescers, "BUSY_SECONDS", 60.0)


@pytest.mark.usefixtures("calm")
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
    while not batches:
        await asyncio.sleep(0)
    for number in range(1, 10):
        coalescer.submit(item(number))
    await asyncio.sleep(0.01)
    assert batches == [[0]]
    gate.set()
    await coalescer.drain()
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


class FixedLoad(Load):
    """A loop that is as busy as the test says."""

    def __init__(self, *, is_saturated: bool) -> None:
        super().__init__()
        self.is_saturated = is_saturated

    def look(self) -> bool:
        """Say what the test said."""
        return self.is_saturated


@pytest.fixture
def started_beside_a_call(calm: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the items started beside a running call: at once, and in the end."""
    return partial(_started_beside_a_call, monkeypatch)


async def _started_beside_a_call(
    monkeypatch: pytest.MonkeyPatch, load: Load
) -> tuple[list[int], list[int]]:
    gate = asyncio.Event()
    started: list[int] = []

    async def run(batch: list[Item]) -> None:
        started.extend(each.number for each in batch)
        await gate.wait()

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=2), load)
    coalescer.submit(item(0))
    while not started:
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        # A machine that pauses here does not let the time come at which patience ends.
        patched.setattr(loop, "time", partial(float, loop.time()))
        coalescer.submit(item(1))
        for _ in range(3):
            await asyncio.sleep(0)
        at_once = list(started)
    while len(started) < 2:
        await asyncio.sleep(0.001)
    gate.set()
    await coalescer.drain()
    return at_once, started


async def test_submit_beside_call_starts_at_once(started_beside_a_call: Any) -> None:
    """Shows that a loop with time to spare begins a second call while the first is away."""
    at_once, _ = await started_beside_a_call(FixedLoad(is_saturated=False))
    assert at_once == [0, 1]


async def test_submit_beside_call_of_saturated_loop_waits(started_beside_a_call: Any) -> None:
    """Shows that a saturated loop lets batches grow, yet no call keeps others back for long."""
    at_once, started = await started_beside_a_call(FixedLoad(is_saturated=True))
    assert at_once == [0]
    assert started == [0, 1]


def test_load_is_the_share_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that saturation is processor time by time passed, looked at every few milliseconds."""
    now, spent = 10.0, 1.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "thread_time", lambda: spent)
    load = Load()
    now, spent = 10.1, 1.09
    assert load.look()
    now, spent = 10.101, 1.09
    assert load.look()
    now, spent = 10.2, 1.1
    assert not load.look()


@pytest.mark.usefixtures("calm")
async def test_submit_starts_calls_for_each_replica() -> None:
    """Shows that as many calls run as the bounds allow for each replica, also when one more joins."""
    gate = asyncio.Event()
    started: list[int] = []
    replicas = 2

    async def run(batch: list[Item]) -> None:
        started.extend(each.number for each in batch)
        await gate.wait()

    coalescer: Coalescer[Item] = Coalescer(
        run,
        Bounds(calls=1, rows=1),
        FixedLoad(is_saturated=False),
        replicas=lambda: replicas,
    )
    for number in range(4):
        coalescer.submit(item(number))
    for _ in range(5):
        await asyncio.sleep(0)
    assert started == [0, 1]
    replicas = 3
    coalescer.submit(item(4))
    for _ in range(5):
        await asyncio.sleep(0)
    assert started == [0, 1, 2]
    gate.set()
    await coalescer.drain()
    assert started == [0, 1, 2, 3, 4]


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
    while coalescer._queue:
        await asyncio.sleep(0)
    coalescer.submit(item(1))
    coalescer.submit(item(2))
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        coalescer.submit(item(3))
    assert caught.value.reason is errors.Reason.OVERLOADED
    assert caught.value.retry_after_seconds
    gate.set()
    await coalescer.drain()


async def test_submit_too_late_refused() -> None:
    """Shows that what would still wait at its deadline is refused, and only with full calls ahead."""
    gate = asyncio.Event()

    async def run(batch: list[Item]) -> None:
        if gate.is_set():
            return
        await asyncio.sleep(0.05)
        if batch[0].number:
            await gate.wait()

    coalescer: Coalescer[Item] = Coalescer(run, Bounds(calls=1, rows=2, queued_rows=100))
    coalescer.submit(item(0))
    await coalescer.drain()
    assert coalescer.wait_seconds == 0.0
    coalescer.submit(item(1))
    while coalescer._queue:
        await asyncio.sleep(0)
    now = time.monotonic()
    for number in range(2, 4):
        # They go with the next call, whenever that will be; nobody knows that it comes too late.
        coalescer.submit(item(number), now)
    for number in range(4, 44):
        coalescer.submit(item(number), now + 1_000)
    assert coalescer.wait_seconds >= 22 * 0.05
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        coalescer.submit(item(44), time.monotonic() + 1.0)
    assert caught.value.reason is errors.Reason.OVERLOADED
    assert (caught.value.retry_after_seconds or 0.0) >= 1.0
    coalescer.submit(item(45), now + 1_000)
    gate.set()
    await coalescer.drain()


async def test_wait_is_shared_by_replicas() -> None:
    """Shows that calls which go to several replicas are not waited for one after the other."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def run(batch: list[Item]) -> None:
        if batch[0].number:
            begun.set()
            await gate.wait()
        else:
            await asyncio.sleep(0.01)

    waits = []
    for replicas in (1, 4):
        coalescer: Coalescer[Item] = Coalescer(
            run, Bounds(calls=1, rows=1, queued_rows=100), replicas=partial(int, replicas)
        )
        coalescer.submit(item(0))
        await coalescer.drain()
        usual = coalescer._durations[0]
        for _ in range(replicas):
            coalescer.submit(item(1))
            await begun.wait()
        while coalescer._queue:
            await asyncio.sleep(0)
        for _ in range(8):
            coalescer.submit(item(1))
        waits.append(coalescer.wait_seconds / usual)
        gate.set()
        await coalescer.drain()
        gate.clear()
    assert waits == pytest.approx([1 + 8, 1 + 8 / 4])


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
