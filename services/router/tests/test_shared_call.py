"""Calls that nobody waits for any more are given up, and others are not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from setpoint.common.v1 import value_pb2
from setpoint_router.domain import work
from setpoint_router.service.coalescer import Coalescer
from setpoint_router.service.shared_call import AbandonedError, SharedCall

Value = value_pb2.Value
CANCELLED = 1
ENTITIES = {"carrier": Value(string_value="UA")}
REQUESTED = {"hour": Value(int_value=8), "origin": Value(string_value="JFK")}
GIVEN = REQUESTED | {"share": Value(double_value=0.5), "delay": Value(double_value=2.0)}


class Calls:
    """Holds every call to a double back until it is let go, and notes how it ended."""

    def __init__(self, behaviour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.cancelled: list[int] = []
        self._gates: list[asyncio.Event] = []
        self._changed = asyncio.Event()
        monkeypatch.setattr(behaviour, "act", self._act)

    async def _act(self, rows: int, context: Any) -> None:
        number, gate = len(self.rows), asyncio.Event()
        self._gates.append(gate)
        self.rows.append(rows)
        self._changed.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            self._changed.set()
            raise

    def let_go(self, number: int) -> None:
        """Lets a call end."""
        self._gates[number].set()

    async def until(self, *, begun: int, cancelled: int = 0) -> None:
        """Waits for so many calls."""
        async with asyncio.timeout(20):
            while (len(self.rows), len(self.cancelled)) != (begun, cancelled):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Awaitable[None]]:
    """Waits until so many predictions have been queued for a first call."""
    submit, count = Coalescer.submit, 0
    changed = asyncio.Event()

    def counted(self: Any, item: Any, *until: float) -> None:
        nonlocal count
        submit(self, item, *until)
        count += isinstance(item, work.Job)
        changed.set()

    async def wait(wanted: int) -> None:
        async with asyncio.timeout(20):
            while count < wanted:
                changed.clear()
                await changed.wait()

    monkeypatch.setattr(Coalescer, "submit", counted)
    return wait


def ask(router: Any, key: str, **fields: Any) -> "asyncio.Task[Any]":
    """Begins to ask."""
    return asyncio.create_task(router.predict(timeout=30, assignment_key=key, **fields))


async def leave(*asks: "asyncio.Task[Any]") -> None:
    """Lets callers go away."""
    for each in asks:
        each.cancel()
    await asyncio.gather(*asks, return_exceptions=True)


async def statuses(router: Any, count: int) -> list[int]:
    """Returns the statuses that are recorded, once they are so many."""
    async with asyncio.timeout(20):
        while len(router.peers.ingest.ids) < count:
            await asyncio.sleep(0.005)
    return sorted(router.peers.ingest.row(each)["status"] for each in router.peers.ingest.ids)


@pytest.mark.parametrize("stage", ["features", "inference"])
async def test_call_ends_with_the_last_who_waits(
    start_router: Any, monkeypatch: pytest.MonkeyPatch, queued: Any, stage: str
) -> None:
    """Shows that a call of two goes on for the one who stays, and ends when he leaves as well."""
    fields = (
        {"inputs": GIVEN} if stage == "inference" else {"entities": ENTITIES, "inputs": REQUESTED}
    )
    async with start_router(calls_at_once=1) as router:
        await router.create()
        peer = router.peers
        calls = Calls(
            peer.inference.run if stage == "inference" else peer.features.online, monkeypatch
        )
        first = ask(router, "a", **fields)
        await calls.until(begun=1)
        two = [ask(router, key, **fields) for key in ("b", "c")]
        await queued(3)
        calls.let_go(0)
        await first
        await calls.until(begun=2)
        assert calls.rows == [1, 2]
        await leave(two[0])
        last = ask(router, "d", **fields)
        await leave(two[1])
        # The place is free again before anybody let the call go.
        await calls.until(begun=3, cancelled=1)
        calls.let_go(2)
        assert (await last).outputs
        assert await statuses(router, 4) == [0, 0, CANCELLED, CANCELLED]


async def test_call_goes_on_for_who_stays(
    start_router: Any, monkeypatch: pytest.MonkeyPatch, queued: Any
) -> None:
    """Shows that of a shared call one caller gets his answer after the others have left."""
    async with start_router(calls_at_once=1) as router:
        await router.create()
        calls = Calls(router.peers.inference.run, monkeypatch)
        first = ask(router, "a", inputs=GIVEN)
        await calls.until(begun=1)
        others = [ask(router, str(at), inputs=GIVEN) for at in range(5)]
        await queued(6)
        calls.let_go(0)
        await first
        await calls.until(begun=2)
        await leave(*others[1:])
        calls.let_go(1)
        assert (await others[0]).outputs
        assert calls.cancelled == []
        assert calls.rows == [1, 5]


class Waiting:
    """Somebody who waits."""

    is_left = False
    call: Any = None


async def test_call_of_those_who_have_left_counts_nobody_twice() -> None:
    """Shows that who left before a call began is not counted when he says so afterwards."""
    gone, here = Waiting(), Waiting()
    gone.is_left = True
    shared = SharedCall([gone, here])  # type: ignore[list-item]  # as far as it looks
    ended = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(shared.run(ended))
    await asyncio.sleep(0)
    assert gone.call is None
    ended.set_result("answer")
    assert await running == "answer"
    here.call.leave()


async def test_cancelling_the_worker_is_no_abandonment() -> None:
    """Shows that a task which is ended from outside ends, whoever leaves at the same moment."""
    here = Waiting()
    shared = SharedCall([here])  # type: ignore[list-item]  # as far as it looks
    running = asyncio.create_task(shared.run(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    here.call.leave()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    again = SharedCall([here])  # type: ignore[list-item]  # as far as it looks
    running = asyncio.create_task(again.run(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    here.call.leave()
    with pytest.raises(AbandonedError):
        await running
