"""Batching, against the failures that others' batchers have had."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference import testing
from setpoint_inference.domain import batching
from setpoint_inference.domain.batching import Batching, TimeoutAction
from setpoint_inference.domain.cost import Cost
from setpoint_inference.service.batcher import Batcher, Joined, Ran
from setpoint_oip.client import Answer, OipClient
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.tensors import Tensor
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks
from setpoint_scoring.packing import Feeds, Output

F32 = DataType.FLOAT32
POISON = -1.0


@dataclass
class Model:
    """Doubles its rows; batches wait for `gate`, and a row of -1 breaks its batch."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sizes: list[int] = field(default_factory=list)
    cancelled: int = 0

    async def run(self, feeds: Feeds, rows: int, remaining_seconds: float | None) -> Ran:
        self.sizes.append(rows)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        values = feeds["X"]
        assert len(values) == rows
        if (values == POISON).any():
            raise errors.InternalError(errors.Reason.INFERENCE_FAILED, "poisoned")
        return Ran([Output("y", F32, values[:, 0] * 2)], 5)


@contextlib.asynccontextmanager
async def batcher_of(
    model: Model,
    rules: Batching,
    slots: int = 1,
    now: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Callable[..., asyncio.Task[Joined]]]:
    """A function that starts a call of a batcher with some rows."""
    async with tasks.TaskOwner() as owner:
        made = Batcher("m/1", rules, slots, model.run, owner.start, now)

        def call(*values: float, remaining: float | None = None) -> asyncio.Task[Joined]:
            feeds = {"X": np.array(values, np.float32).reshape(-1, 1)}
            return asyncio.create_task(made.join(feeds, len(values), remaining))

        yield call
        assert not owner.failed.is_set()


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def said(answer: Joined) -> list[float]:
    [output] = answer.outputs
    values: list[float] = output.values.tolist()
    return values


async def test_join_after_a_caller_left_at_once_finds_its_slot() -> None:
    """A caller that leaves before its batch has begun gives the slot back: the next one is served."""
    model = Model()
    model.gate.set()
    async with batcher_of(model, Batching(8)) as call:
        for _ in range(3):
            left = call(1.0)
            await asyncio.sleep(0)
            left.cancel()
            await turns()
        async with asyncio.timeout(10):
            assert said(await call(2.0)) == [4.0]
    assert model.sizes == [1]


async def test_full_batch_waits_for_no_more_than_it_may_hold() -> None:
    """A preferred number of rows beyond the most of a batch keeps no full batch waiting."""
    model = Model()
    model.gate.set()
    rules = Batching(2, preferred_rows=(8,), max_delay_us=60_000_000)
    async with batcher_of(model, rules) as call, asyncio.timeout(10):
        answers = await asyncio.gather(call(1.0), call(2.0))
    assert [said(each) for each in answers] == [[2.0], [4.0]]
    assert model.sizes == [2]


async def test_join_alone_runs_at_once() -> None:
    """A single caller at low load waits for no timer: its run begins in the same moment."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        calling = call(1.0)
        await turns(3)
        assert model.sizes == [1]
        model.gate.set()
        assert said(await calling) == [2.0]


async def test_join_gathers_while_busy() -> None:
    """Calls that come while the model is busy share the next run, each with its own rows."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        calls = [call(0.0)]
        await turns()
        calls += [call(float(number), float(-number - 1)) for number in range(1, 4)]
        await turns()
        model.gate.set()
        answers = [said(await each) for each in calls]
    assert answers == [[0.0], [2.0, -4.0], [4.0, -6.0], [6.0, -8.0]]
    assert model.sizes == [1, 6]


async def test_cancel_one_member_leaves_others() -> None:
    """A member that leaves, waiting or running, takes nobody along (MLServer#1312)."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        running = [call(1.0), call(2.0)]
        await turns()
        waiting = [call(3.0), call(4.0)]
        await turns()
        running[0].cancel()
        waiting[0].cancel()
        await turns()
        model.gate.set()
        assert said(await running[1]) == [4.0]
        assert said(await waiting[1]) == [8.0]
    assert model.sizes == [2, 1]
    assert model.cancelled == 0


async def test_cancel_all_stops_the_run() -> None:
    """When every member has left, the run is stopped and the next calls are answered (ray#50046)."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        leaving = [call(1.0), call(2.0)]
        await turns()
        for each in leaving:
            each.cancel()
        await turns()
        assert model.cancelled == 1
        model.gate.set()
        assert said(await call(3.0)) == [6.0]


async def test_poison_fails_alone() -> None:
    """A row that breaks its batch is answered with its error; its mates get answers (ray#66140)."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        first = call(0.0)
        await turns()
        calls = [call(1.0), call(POISON), call(2.0, 3.0)]
        await turns()
        model.gate.set()
        assert said(await first) == [0.0]
        assert said(await calls[0]) == [2.0]
        with pytest.raises(errors.InternalError, match="poisoned"):
            await calls[1]
        assert said(await calls[2]) == [4.0, 6.0]


async def test_poison_is_found_by_halves() -> None:
    """The one of many who breaks a run is found in a few runs, not by one for each of the others."""
    model = Model()
    async with batcher_of(model, Batching(64)) as call:
        first = call(0.0)
        await turns()
        calls = [call(POISON if at == 21 else float(at)) for at in range(64)]
        await turns()
        model.gate.set()
        await first
        for at, each in enumerate(calls):
            if at == 21:
                with pytest.raises(errors.InternalError, match="poisoned"):
                    await each
            else:
                assert said(await each) == [2.0 * at]
    assert len(model.sizes) == 1 + 1 + 2 * 6


async def test_busy_server_is_not_asked_again_for_each() -> None:
    """What says nothing of the rows is told to all who shared the run, after one run."""
    model = Model()
    busy = errors.ResourceExhaustedError(errors.Reason.OVERLOADED, "all threads are taken")

    async def refuse(*_: object) -> Ran:
        model.sizes.append(0)
        await model.gate.wait()
        raise busy

    model.run = refuse  # type: ignore[method-assign,assignment]  # another model
    async with batcher_of(model, Batching(8)) as call:
        calls = [call(float(at)) for at in range(5)]
        await turns()
        model.gate.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in found} == {errors.ResourceExhaustedError}
    assert len({id(each) for each in found}) == 5, "each caller has an error of his own"
    assert len(model.sizes) == 1


async def test_odd_tensors_fail_alone() -> None:
    """Tensors that do not fit together are run one by one, not given up (ray#66140)."""
    model = Model()
    model.gate.set()
    async with tasks.TaskOwner() as owner:
        made = Batcher("m/1", Batching(8), 1, model.run, owner.start, time.monotonic)
        odd = {"X": np.ones((1, 2), np.float32)}
        calls = [made.join({"X": np.ones((1, 1), np.float32)}, 1, None), made.join(odd, 1, None)]
        assert [said(each) for each in await asyncio.gather(*calls)] == [[2.0], [2.0]]


async def test_no_batch_exceeds_its_maximum() -> None:
    """Neither preferred sizes nor a long queue make a larger batch, and nobody is turned away
    (BentoML#3710, #3200).
    """
    model = Model()
    async with batcher_of(model, Batching(5, (2, 4))) as call:
        calls = [call(float(number), float(number)) for number in range(200)]
        await turns()
        model.gate.set()
        answers = [said(await each) for each in calls]
    assert answers == [[2.0 * number] * 2 for number in range(200)]
    assert max(model.sizes) <= 5


async def test_preferred_size_is_taken() -> None:
    """Of what waits below the maximum, the largest preferred number of rows goes first."""
    model = Model()
    async with batcher_of(model, Batching(100, (4, 8))) as call:
        calls = [call(0.0)]
        await turns()
        calls += [call(float(number)) for number in range(10)]
        await turns()
        model.gate.set()
        await asyncio.gather(*calls)
    assert model.sizes == [1, 8, 2]


async def test_delay_waits_for_preferred_size() -> None:
    """With a delay a call waits for others, and leaves as soon as there are enough."""
    model = Model()
    model.gate.set()
    async with batcher_of(model, Batching(100, (3,), max_delay_us=60_000_000)) as call:
        calls = [call(1.0), call(2.0)]
        await turns()
        assert model.sizes == []
        calls.append(call(3.0))
        assert [said(each) for each in await asyncio.gather(*calls)] == [[2.0], [4.0], [6.0]]
    assert model.sizes == [3]


async def test_delay_ends() -> None:
    """With a delay a call that stays alone leaves when it is over."""
    model = Model()
    model.gate.set()
    async with batcher_of(model, Batching(100, max_delay_us=1000)) as call:
        assert said(await call(1.0)) == [2.0]


async def test_full_queue_refuses() -> None:
    """Only a queue that was given an end turns calls away."""
    model = Model()
    async with batcher_of(model, Batching(8, max_queued=2)) as call:
        calls = [call(1.0)]
        await turns()
        calls += [call(2.0), call(3.0)]
        await turns()
        with pytest.raises(errors.ResourceExhaustedError) as caught:
            await call(4.0)
        assert caught.value.reason == errors.Reason.OVERLOADED
        model.gate.set()
        assert [said(each) for each in await asyncio.gather(*calls)] == [[2.0], [4.0], [6.0]]


async def test_timeout_rejects() -> None:
    """A call that waits for too long is told so while the model is still busy."""
    model, clock = Model(), clocks.ManualClock(0)
    async with batcher_of(model, Batching(8, timeout_us=1000), now=clock.monotonic) as call:
        running = call(1.0)
        await turns()
        waiting = call(2.0)
        await turns()
        clock.advance(1001)
        with pytest.raises(errors.DeadlineExceededError, match="in the queue"):
            await waiting
        model.gate.set()
        assert said(await running) == [2.0]


def note(order: list[int], number: int, _: object) -> None:
    order.append(number)


async def test_timeout_delays() -> None:
    """A call that waits for too long goes behind those that came later, and is answered."""
    model, clock = Model(), clocks.ManualClock(0)
    rules = Batching(2, timeout_us=1000, timeout_action=TimeoutAction.DELAY)
    async with batcher_of(model, rules, now=clock.monotonic) as call:
        order: list[int] = []
        calls = [call(0.0)]
        await turns()
        calls.append(call(1.0))
        await turns()
        clock.advance(1001)
        calls += [call(2.0), call(3.0)]
        for number, each in enumerate(calls):
            each.add_done_callback(functools.partial(note, order, number))
        await turns()
        model.gate.set()
        await asyncio.gather(*calls)
    assert order == [0, 2, 3, 1]


async def test_stop_answers_those_who_wait() -> None:
    """A server that stops leaves no caller without an answer."""
    model = Model()
    async with batcher_of(model, Batching(8)) as call:
        calling = call(1.0)
        await turns()
    with pytest.raises(errors.UnavailableError):
        await calling


@settings(max_examples=60, deadline=None)
@given(data=st.data())
async def test_any_calls_get_their_own(data: st.DataObject) -> None:
    """Whatever joins, leaves and breaks: every answer is its caller's own (MLServer#1306)."""
    rules = Batching(
        data.draw(st.integers(2, 9)), max_delay_us=data.draw(st.sampled_from([0, 1000]))
    )
    model = Model()
    async with batcher_of(model, rules, slots=data.draw(st.integers(1, 3))) as call:
        kinds = data.draw(
            st.lists(
                st.tuples(st.sampled_from("okcp"), st.integers(1, rules.max_rows), st.booleans()),
                max_size=30,
            )
        )
        calls = []
        for number, (kind, rows, pauses) in enumerate(kinds):
            values = [POISON if kind == "p" else number + index / 16 for index in range(rows)]
            calls.append(call(*values))
            if kind == "c":
                if pauses:
                    await turns(3)
                calls[-1].cancel()
            if pauses:
                model.gate.set()
                await turns(2)
                model.gate.clear()
        model.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for number, ((kind, rows, _), answer) in enumerate(zip(kinds, answers, strict=True)):
        if kind == "p":
            assert isinstance(answer, errors.InternalError)
        elif kind == "c" and not isinstance(answer, Joined):
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert isinstance(answer, Joined)
            assert said(answer) == [2 * (number + index / 16) for index in range(rows)]
    assert all(size <= rules.max_rows for size in model.sizes)


@pytest.mark.parametrize(
    ("own", "default", "shared_us", "has_loops", "expected"),
    [
        (None, Batching(8), 100.0, False, 8),
        (None, Batching(8), 1.0, False, None),
        (Batching(4), Batching(8), 1.0, False, 4),
        (Batching(4), Batching(0), 1.0, False, 4),
        (Batching(1, max_delay_us=500), Batching(8), 100.0, False, None),
        (None, Batching(0, max_delay_us=500), 100.0, False, None),
        (Batching(4), Batching(8), 100.0, True, None),
    ],
)
def test_chosen_rules(
    own: Batching | None,
    default: Batching,
    shared_us: float,
    has_loops: bool,
    expected: int | None,
) -> None:
    """A manifest's rules come first, the server's only where batching pays; a delay does nothing
    where batching is off (BentoML#4265), and rows that may loop are never joined.
    """
    cost = Cost(shared_us + 1.0, shared_us + 64.0)
    assert cost.shared_us == pytest.approx(shared_us)
    found = batching.chosen(own, default, cost, has_loops=has_loops)
    assert (found.max_rows if found else None) == expected


Start = Callable[..., AbstractAsyncContextManager[testing.Inference]]
X = ("X", F32, ("a",))


def gathering() -> bytes:
    """A model `score = table[a]` that fails beyond its ten entries."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["X"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["score"]),
        ],
        "gathering",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [10], np.arange(10.0) * 3)],
    )
    return artifacts.serialised(graph)


@pytest.mark.parametrize("inline", [0, 5000])
async def test_predict_joined(start: Start, inline: int) -> None:
    """Over the wire: direct callers share runs, on the loop and in the pool; a bad row is its own."""
    async with start(threads=1, inline_microseconds=inline) as inference:
        version = inference.registry.add(
            "gather", 1, gathering(), [X], [("score", F32, ("score",))]
        )
        version.manifest.batching.CopyFrom(
            model_pb2.Batching(max_batch_rows=16, max_queue_delay_microseconds=1000)
        )
        await inference.load("gather", 1)

        async def ask(number: int) -> Any:
            return await inference.predict("gather", 1, testing.floats({"a": [float(number)]}))

        answers = await asyncio.gather(
            *map(ask, [*range(10), 99, *range(10)]), return_exceptions=True
        )
        for number, answer in zip([*range(10), 99, *range(10)], answers, strict=True):
            if number == 99:
                assert isinstance(answer, grpc.aio.AioRpcError)
                assert channel.from_rpc_error(answer).reason == errors.Reason.INFERENCE_FAILED
            else:
                assert isinstance(answer, Columns)
                assert answer.to_rows() == [{"score": 3.0 * number}]
        wide = testing.floats({"a": np.arange(40) % 10})
        assert (await inference.predict("gather", 1, wide)).rows == 40


async def test_requests_stay_apart(start: Start) -> None:
    """Through the Open Inference Protocol too: mates in one batch have their own wanted outputs, ids
    and parameters (MLServer#514, and its merging of parameters).
    """
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["X"], ["same"]),
            helper.make_node("Neg", ["X"], ["negative"]),
        ],
        "two",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
            for name in ("same", "negative")
        ],
    )
    outputs = [("same", F32, ("same",)), ("negative", F32, ("negative",))]
    async with start(threads=1) as inference:
        version = inference.registry.add("two", 1, artifacts.serialised(graph), [X], outputs)
        # They wait for each other until all twelve are there.
        version.manifest.batching.CopyFrom(
            model_pb2.Batching(
                max_batch_rows=16,
                preferred_batch_rows=[12],
                max_queue_delay_microseconds=10_000_000,
            )
        )
        await inference.load("two", 1)
        client = OipClient(inference.channel)
        wanted: list[list[str]] = [["same"], ["negative"], ["negative", "same"], []] * 3

        async def ask(number: int, names: list[str]) -> Answer:
            tensor = Tensor("X", DATATYPES["FP32"], np.full((1, 1), number, np.float32))
            return await client.infer(
                "two",
                [tensor],
                version="1",
                outputs=names,
                request_id=str(number),
                given={"mine": number},
                timeout_seconds=30,
            )

        answers = await asyncio.gather(*(ask(*each) for each in enumerate(wanted)))
    for number, (names, answer) in enumerate(zip(wanted, answers, strict=True)):
        assert list(answer.outputs) == (names or ["same", "negative"])
        for name, tensor in answer.outputs.items():
            assert tensor.array.tolist() == [[-number if name == "negative" else number]]
        assert "mine" not in answer.parameters
