"""Requests with an id: worked on once, and what is remembered of them stays within bounds."""

import asyncio
import gc
import uuid
import weakref
from typing import Any

import grpc
import grpc.aio
import hypothesis
import pytest
from hypothesis import strategies

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router.service import replays
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

ID = "0190a8c0-0000-7000-8000-000000000001"
Value = value_pb2.Value
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


class Work:
    """Counts how often it is done, and ends as told."""

    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> bytes:
        self.times += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return b"answer %d" % self.times


@pytest.fixture
def clock() -> clocks.ManualClock:
    """Time that stands still."""
    return clocks.ManualClock(0)


async def test_repetition_gets_first_answer(clock: clocks.ManualClock) -> None:
    """Shows that the same request is worked on once within the window, and again after it."""
    kept, work = replays.Replays(clock, replays.Bounds(seconds=10)), Work()
    assert await kept.once("me", ID, b"f", work) == (b"answer 1", False)
    clock.advance(9_999_999)
    assert await kept.once("me", ID, b"f", work) == (b"answer 1", True)
    clock.advance(1)
    assert await kept.once("me", ID, b"f", work) == (b"answer 2", False)


async def test_other_content_is_refused(clock: clocks.ManualClock) -> None:
    """Shows that an id stands for one content, while it is worked on and afterwards."""
    kept, work = replays.Replays(clock, replays.Bounds()), Work()
    work.gate = asyncio.Event()
    first = asyncio.create_task(kept.once("me", ID, b"f", work))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(errors.AlreadyExistsError) as caught:
            await kept.once("me", ID, b"g", work)
        assert caught.value.reason is errors.Reason.REQUEST_ID_REUSED
        work.gate.set()
        await first
    assert work.times == 1


async def test_callers_do_not_share(clock: clocks.ManualClock) -> None:
    """Shows that nobody gets another caller's answer by its id."""
    kept, work = replays.Replays(clock, replays.Bounds()), Work()
    assert await kept.once("me", ID, b"f", work) == (b"answer 1", False)
    assert await kept.once("you", ID, b"f", work) == (b"answer 2", False)


async def test_repetition_waits_for_first(clock: clocks.ManualClock) -> None:
    """Shows that a repetition while the first is on its way shares its outcome, good or bad."""
    for error in (None, errors.UnavailableError(errors.Reason.UNAVAILABLE, "away")):
        kept, work = replays.Replays(clock, replays.Bounds()), Work()
        work.gate, work.error = asyncio.Event(), error
        tasks = [asyncio.create_task(kept.once("me", ID, b"f", work)) for _ in range(5)]
        await asyncio.sleep(0)
        work.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert work.times == 1
        expected: list[Any] = [error] * 5
        if error is None:
            expected = [(b"answer 1", at > 0) for at in range(5)]
        assert found == expected


async def test_refused_request_is_not_kept(clock: clocks.ManualClock) -> None:
    """Shows that only what a refusal says is remembered, not the request it came from."""

    class Request:
        """Large."""

    seen: list[weakref.ref[Request]] = []

    async def work() -> bytes:
        request = Request()
        seen.append(weakref.ref(request))
        raise errors.invalid("rows", "x" * 80, "must be columns")

    kept = replays.Replays(clock, replays.Bounds())
    for _ in range(2):
        with pytest.raises(errors.InvalidArgumentError, match="must be columns"):
            await kept.once("me", ID, b"f", work)
    gc.collect()
    assert len(seen) == 1
    assert seen[0]() is None
    assert kept.size > 600 + len("must be columns")


async def test_first_caller_leaves(clock: clocks.ManualClock) -> None:
    """Shows that a repetition does the work itself when the first caller is gone or out of time."""
    for late in (True, False):
        kept, work = replays.Replays(clock, replays.Bounds()), Work()
        work.gate = asyncio.Event()
        first = asyncio.create_task(kept.once("me", ID, b"f", work))
        await asyncio.sleep(0)
        second = asyncio.create_task(kept.once("me", ID, b"f", work))
        await asyncio.sleep(0)
        if late:
            work.error = errors.DeadlineExceededError(errors.Reason.DEADLINE_EXCEEDED, "late")
            work.gate.set()
            with pytest.raises(errors.DeadlineExceededError):
                await first
            work.error = None
        else:
            first.cancel()
            await asyncio.wait([first])
            work.gate.set()
        assert await second == (b"answer 2", False)


async def test_failures_are_forgotten_but_facts(clock: clocks.ManualClock) -> None:
    """Shows that only a refusal of the request itself is remembered, and says that it is."""
    kept, work = replays.Replays(clock, replays.Bounds()), Work()
    forgotten: list[errors.SetpointError] = [
        errors.UnavailableError(errors.Reason.INFERENCE_UNAVAILABLE, "away"),
        errors.ResourceExhaustedError(errors.Reason.OVERLOADED, "busy"),
        errors.InternalError(errors.Reason.INFERENCE_FAILED, "broken"),
        errors.NotFoundError(errors.Reason.ROUTE_NOT_FOUND, "no such route"),
    ]
    for error in forgotten:
        work.error = error
        with pytest.raises(type(error)):
            await kept.once("me", ID, b"f", work)
    assert work.times == len(forgotten)
    work.error = errors.invalid("hour", 25, "must be below 24", errors.Reason.RULE_VIOLATED)
    for is_replay in (False, True):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            await kept.once("me", ID, b"f", work)
        assert caught.value.reason is errors.Reason.RULE_VIOLATED
        assert caught.value.violations == work.error.violations
        assert ("replayed" in caught.value.metadata) is is_replay
    assert work.times == len(forgotten) + 1


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 12), strategies.integers(0, 3_000)), max_size=60
    )
)
def test_memory_is_bounded(requests: list[tuple[int, int]]) -> None:
    """Shows that entries and bytes stay within bounds, the newest are kept, and losses counted."""

    async def run() -> None:
        forgotten = 0

        def forget() -> None:
            nonlocal forgotten
            forgotten += 1

        bounds = replays.Bounds(seconds=5, entries=5, size=12_000)
        clock = clocks.ManualClock(0)
        kept = replays.Replays(clock, bounds, on_forgotten=forget)
        asked = 0
        for number, size in requests:
            clock.advance(100_000)

            async def work(size: int = size) -> bytes:
                return b"x" * size

            request_id = str(uuid.UUID(int=number))
            _, is_replay = await kept.once("me", request_id, b"f", work)
            asked += not is_replay
            assert len(kept) <= bounds.entries
            assert kept.size <= bounds.size
            if not is_replay and size < 2_000:
                assert (await kept.once("me", request_id, b"f", work))[1]
        if asked > bounds.entries:
            assert forgotten or len(kept) < asked

    asyncio.run(run())


async def test_predict_twice_is_one_prediction(router: Any) -> None:
    """Shows over the wire that a repetition gets the recorded answer, and says so."""
    request_id = str(uuid.uuid4())
    first = await router.predict(inputs=GIVEN, request_id=request_id)
    again = await router.predict(inputs=GIVEN, request_id=request_id)
    assert not first.replayed
    assert again.replayed
    again.replayed = False
    assert again == first
    assert router.peers.inference.run.calls == 1
    other = GIVEN | {"hour": Value(int_value=9)}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.predict(inputs=other, request_id=request_id)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert channel.from_rpc_error(caught.value).reason is errors.Reason.REQUEST_ID_REUSED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.predict(inputs=GIVEN, request_id="not a uuid")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await asyncio.sleep(0)
    counted = router.server.metrics_registry.get_sample_value("setpoint_router_replayed_total")
    assert counted == 1


async def test_predict_batch_twice_is_one_batch(router: Any) -> None:
    """Shows that the same holds for batches, and that an id is of one method."""
    rows = Columns.from_dict(
        {
            "carrier": (DataType.STRING, ["UA", "B6"]),
            "hour": (DataType.INT64, [1, 2]),
            "origin": (DataType.STRING, ["JFK"] * 2),
        }
    )
    request = router_service_pb2.PredictBatchRequest(
        route="flights", rows=columns_proto.to_proto(rows), request_id=str(uuid.uuid4())
    )
    first = await router.stub.PredictBatch(request, timeout=20)
    again = await router.stub.PredictBatch(request, timeout=20)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.results == again.results
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.predict(inputs=GIVEN, request_id=request.request_id)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
