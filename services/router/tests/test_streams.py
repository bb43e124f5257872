"""Streams: bounded, each failure with its question, everything read is answered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2 as pb
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router.service import flow
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


def question(number: int, **fields: Any) -> pb.PredictStreamRequest:
    """Returns a question whose answer is its own number."""
    inputs = GIVEN | {"hour": Value(int_value=number)}
    asked = {"route": "flights", "inputs": inputs} | fields
    return pb.PredictStreamRequest(
        correlation_id=str(number),
        request=pb.PredictRequest(**asked),
        timeout_microseconds=30_000_000,
    )


class Source:
    """Questions as they are read; knows how many have been."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self._count):
            self.read += 1
            yield number


def flowing(source: Any, answer: Any, **changes: Any) -> flow.Flow[int, int]:
    """Returns a stream of three at once."""
    options: dict[str, Any] = {"at_once": 3, "in_order": False, "stopping": asyncio.Event()}
    options |= changes
    return flow.Flow(aiter(source), answer, **options)


async def taken(answers: AsyncIterator[Any], into: list[Any]) -> None:
    """Takes answers until there are no more; those before an error stay."""
    async for each in answers:
        into.append(each)  # noqa: PERF401  # a comprehension would lose them


async def test_flow_reads_no_more_than_it_may() -> None:
    """Shows that neither slow answers nor a caller who takes none let more be read."""
    source, gate = Source(50), asyncio.Event()
    running = highest = 0

    async def answer(number: int) -> int:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await gate.wait()
        running -= 1
        return number

    answers = flowing(source, answer).answers()
    first = asyncio.ensure_future(anext(answers))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (source.read, running) == (3, 3)
    gate.set()
    await first
    for _ in range(20):
        await asyncio.sleep(0)
    assert source.read == 3
    assert len([each async for each in answers]) == 49
    assert highest == 3


@pytest.mark.parametrize("in_order", [True, False])
async def test_flow_order(in_order: bool) -> None:
    """Shows that answers come in the order of questions, or as soon as they are there."""
    gates = [asyncio.Event() for _ in range(3)]

    async def answer(number: int) -> int:
        await gates[number].wait()
        return number

    answers = flowing(Source(3), answer, in_order=in_order).answers()
    found = []
    first = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    gates[2].set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert first.done() is not in_order
    for gate in gates:
        gate.set()
    found = [await first, *[each async for each in answers]]
    assert found[0] == (0 if in_order else 2)
    assert sorted(found) == [0, 1, 2]


async def test_flow_ends_when_told() -> None:
    """Shows that a stream that is to end answers what it has read, and says why it ends."""
    stopping, gate, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        await never.wait()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    found: list[int] = []
    stream = flowing(source(), answer, stopping=stopping)
    taking = asyncio.ensure_future(taken(stream.answers(), found))
    for _ in range(10):
        await asyncio.sleep(0)
    stopping.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert found == []
    gate.set()
    with pytest.raises(errors.UnavailableError):
        await taking
    assert sorted(found) == [1, 2]


async def test_flow_leaves_nothing_behind() -> None:
    """Shows that a caller who leaves takes all work with him."""
    cancelled = 0
    never = asyncio.Event()

    async def answer(number: int) -> int:
        nonlocal cancelled
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    before = asyncio.all_tasks()
    answers = flowing(Source(10), answer).answers()
    taking = asyncio.ensure_future(anext(answers))
    for _ in range(10):
        await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    await answers.aclose()
    assert cancelled == 3
    assert asyncio.all_tasks() == before


async def test_stream_answers_each_question(router: Any) -> None:
    """Shows that 300 questions get their own answers, and bad ones their own failures alone."""

    async def questions() -> AsyncIterator[pb.PredictStreamRequest]:
        for number in range(300):
            if number % 50 == 7:
                yield question(number, inputs={"hour": Value(int_value=1)})
            elif number % 50 == 8:
                yield question(number, route="trains")
            else:
                yield question(number)

    seen: dict[int, pb.PredictStreamResponse] = {}
    async for each in router.stub.PredictStream(questions(), timeout=30):
        assert int(each.correlation_id) not in seen
        seen[int(each.correlation_id)] = each
    assert sorted(seen) == list(range(300))
    for number, each in seen.items():
        if number % 50 == 7:
            assert each.failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert each.failure.reason == "MISSING_FIELD"
            assert each.failure.violations[0].field == 'inputs["share"]'
        elif number % 50 == 8:
            assert each.failure.code == grpc.StatusCode.NOT_FOUND.value[0]
            assert each.failure.metadata["route"] == "trains"
        else:
            assert each.answer.outputs["score"].double_value == 1e6 + 2.5 + number
    assert max(router.peers.inference.run.rows) > 1


async def test_stream_question_out_of_time(router: Any) -> None:
    """Shows that the time of a question is its own, and does not end the stream."""
    router.peers.inference.run.delay_seconds = 0.3

    async def questions() -> AsyncIterator[pb.PredictStreamRequest]:
        late = question(1)
        late.timeout_microseconds = 50_000
        yield late
        yield question(2)
        negative = question(3)
        negative.timeout_microseconds = -1
        yield negative

    seen = {
        each.correlation_id: each
        async for each in router.stub.PredictStream(questions(), timeout=30)
    }
    assert seen["1"].failure.reason == "DEADLINE_EXCEEDED"
    assert seen["2"].answer.outputs["score"].double_value == 1e6 + 2.5 + 2
    assert seen["3"].failure.violations[0].field == "timeout_microseconds"


async def test_stream_survives_a_defect(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that what is wrong with us is told for its question, without the text."""
    from setpoint_router.service import predictor

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(predictor.Predictor, "_job", broken)

    async def questions() -> AsyncIterator[pb.PredictStreamRequest]:
        yield question(1)
        yield question(2)

    found = [each async for each in router.stub.PredictStream(questions(), timeout=30)]
    assert [each.failure.reason for each in found] == ["INTERNAL"] * 2
    assert not any("secret" in each.failure.message for each in found)


def chunk(start: int, rows: int = 20, **fields: Any) -> pb.PredictBatchStreamRequest:
    """Returns a chunk whose answers are its numbers."""
    made = Columns.from_dict(
        {
            "share": (DataType.FLOAT64, [0.5] * rows),
            "delay": (DataType.FLOAT64, [2.0] * rows),
            "hour": (DataType.FLOAT64, [float(start + row) for row in range(rows)]),
            "origin": (DataType.STRING, ["JFK"] * rows),
        }
    )
    return pb.PredictBatchStreamRequest(rows=columns_proto.to_proto(made), **fields)


async def test_batch_stream_answers_in_order(router: Any) -> None:
    """Shows that chunks are answered in order, rows too, by the route that the first one names."""

    async def chunks() -> AsyncIterator[pb.PredictBatchStreamRequest]:
        for number in range(30):
            yield chunk(number * 20, route="" if number else "flights")

    scores: list[float] = []
    numbers = []
    async for each in router.stub.PredictBatchStream(chunks(), timeout=30):
        numbers.append(each.chunk)
        assert each.route_revision == 1
        scores += columns_proto.from_proto(each.outputs)["score"].to_list()
    assert numbers == list(range(30))
    assert scores == [1e6 + 2.5 + number for number in range(600)]


async def test_batch_stream_names_bad_chunk(router: Any) -> None:
    """Shows that a bad chunk ends the stream by its number, after those before it."""
    for bad in (chunk(0).rows.columns[0].SerializeToString(), b"\xff\xff"):
        make: Any = router.to_router.stream_stream(
            "/setpoint.router.v1.RouterService/PredictBatchStream",
            response_deserializer=pb.PredictBatchStreamResponse.FromString,
        )

        async def chunks(bad: bytes = bad) -> AsyncIterator[bytes]:
            yield chunk(0, route="flights").SerializeToString()
            yield chunk(20).SerializeToString()
            broken = chunk(40)
            del broken.rows.columns[1:]
            yield broken.SerializeToString() if bad[:1] != b"\xff" else bad
            yield chunk(60).SerializeToString()

        found: list[pb.PredictBatchStreamResponse] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await taken(make(chunks(), timeout=30), found)
        error = channel.from_rpc_error(caught.value)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.metadata["chunk"] == "2"
        assert error.message.startswith("chunk 2: ")
        assert [each.chunk for each in found] == [0, 1]


async def test_batch_stream_waits_its_turn(start_router: Any, peers: Any) -> None:
    """Shows that a stream stands still while others are served, and goes on when there is a place."""
    async with start_router(batches_at_once=1) as router:
        await router.create()
        peers.inference.run.delay_seconds = 0.01

        async def chunks() -> AsyncIterator[pb.PredictBatchStreamRequest]:
            for number in range(5):
                yield chunk(number, 1, route="flights")

        async def scores() -> list[float]:
            return [
                columns_proto.from_proto(each.outputs)["score"].to_list()[0]
                async for each in router.stub.PredictBatchStream(chunks(), timeout=30)
            ]

        found = await asyncio.gather(scores(), scores(), scores())
        assert list(found) == [[1e6 + 2.5 + number for number in range(5)]] * 3
        refused = router.server.metrics_registry.get_sample_value(
            "setpoint_router_refused_total", {"reason": "OVERLOADED"}
        )
        assert not refused, "whoever waits for a place is told of it, and asks no more"


async def test_stream_ends_when_router_stops(router: Any) -> None:
    """Shows that an open stream does not hold up a stop: its caller is sent elsewhere."""
    never = asyncio.Event()

    async def questions() -> AsyncIterator[pb.PredictStreamRequest]:
        yield question(1)
        await never.wait()

    stream = router.stub.PredictStream(questions(), timeout=30)
    assert (await stream.read()).correlation_id == "1"
    await router.server.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
