import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from setpoint_client import (
    AsyncClient,
    Columns,
    DataType,
    Question,
    RowError,
    errors,
    requests,
    streaming,
)


def questions(count: int) -> Iterator[Question]:
    """Questions, every fifth of a route that does not exist."""
    for number in range(count):
        route = "trains" if number % 5 == 3 else None
        yield Question(id=str(number), inputs={"x": float(number)}, route=route)


def frame(rows: int) -> Columns:
    """A frame with so many rows."""
    return Columns.from_dict({"x": (DataType.FLOAT64, [float(row) for row in range(rows)])})


def fail(server: Any, code: grpc.StatusCode, **more: Any) -> None:
    """Lets the server fail."""
    server.failure = sys.modules[type(server).__module__].Failure(code, **more)


def test_stream_gives_each_its_own(client: Any, server: Any) -> None:
    """Every question gets its answer by its id, the bad ones their errors with all they say."""
    answers = {each.id: each for each in client.predict_stream("flights", questions(40))}
    assert sorted(answers, key=int) == [str(number) for number in range(40)]
    for number, answer in answers.items():
        if int(number) % 5 != 3:
            assert answer.get().outputs["probability"] == 0.25
            assert answer.error is None
            continue
        assert answer.prediction is None
        with pytest.raises(errors.NotFoundError) as caught:
            answer.get()
        assert caught.value.reason is errors.Reason.ROUTE_NOT_FOUND
        assert caught.value.metadata == {"route": "trains"}
        assert caught.value.violations[0].field == "route"
        assert caught.value.retry_after_seconds == 0.25
    sent = [each for each in server.requests if hasattr(each, "correlation_id")]
    assert {each.timeout_microseconds for each in sent} == {2_000_000}
    assert server.streams == 1


def test_stream_is_renewed(client: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that have their time behind them are followed by others; nothing is asked twice."""
    monkeypatch.setattr(streaming, "RENEWAL_SECONDS", 0.001)
    ids = [each.id for each in client.predict_stream("flights", questions(60))]
    assert sorted(ids, key=int) == [str(number) for number in range(60)]
    assert server.streams > 1
    sent = [each.correlation_id for each in server.requests if hasattr(each, "correlation_id")]
    assert len(sent) == 60
    frames = [frame(1 + number) for number in range(30)]
    found = list(client.predict_batches("flights", iter(frames)))
    assert [each.columns.rows for each in found] == [each.rows for each in frames]


def test_batches_answer_frames_in_order(client: Any, server: Any) -> None:
    """Each frame comes back whole, whether it was sent in one piece or in several."""
    frames = [frame(3), frame(25_000), frame(0), frame(7)]
    found = list(client.predict_batches("flights", frames, assignment_key_column="x", event_time=5))
    assert [each.frame.rows for each in found] == [3, 25_000, 0, 7]
    assert [each.route_revisions for each in found] == [(7,)] * 4
    chunks = [each for each in server.requests if hasattr(each, "rows")]
    assert [each.rows.rows for each in chunks] == [3, 10_000, 10_000, 5_000, 0, 7]
    assert {(each.route, each.assignment_key_column, each.event_time) for each in chunks} == {
        ("flights", "x", 5)
    }


def test_batches_name_the_frame(client: Any, server: Any) -> None:
    """A failure of the call says which frame it ended at, with everything the server said."""
    taken: list[Any] = []
    info = error_details_pb2.ErrorInfo(
        reason="MISSING_FIELD", domain="setpoint", metadata={"chunk": "0", "more": "yes"}
    )

    def frames() -> Iterator[Columns]:
        yield frame(2)
        while not taken:
            threading.Event().wait(0.001)
        fail(server, grpc.StatusCode.INVALID_ARGUMENT, details=[info])
        yield frame(3)

    with pytest.raises(errors.InvalidArgumentError) as caught:
        for each in client.predict_batches("flights", Threaded(frames())):
            taken.append(each)  # noqa: PERF402  # those before the error count
    assert [each.columns.rows for each in taken] == [2]
    assert caught.value.reason is errors.Reason.MISSING_FIELD
    assert caught.value.metadata == {"frame": "1", "more": "yes"}


class Threaded:
    """Both kinds of iterable; as an asynchronous one it does not block its loop."""

    def __init__(self, items: Iterator[Columns]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Columns]:
        return self._items

    async def __aiter__(self) -> AsyncIterator[Columns]:
        nothing = frame(0)
        while (found := await asyncio.to_thread(next, self._items, nothing)) is not nothing:
            yield found


def test_source_failure_is_raised(client: Any) -> None:
    """What reading the questions fails with is raised, after the answers to those before it."""

    def broken() -> Iterator[Question]:
        yield Question(id="1", inputs={"x": 1.0})
        raise ZeroDivisionError("of mine")

    seen = []
    with pytest.raises(ZeroDivisionError, match="of mine"):
        for each in client.predict_stream("flights", broken()):
            seen.append(each.id)  # noqa: PERF401  # those before the error count
    assert seen == ["1"]


def test_question_that_cannot_be_sent(client: Any) -> None:
    """A request id that is none is refused before any call."""
    bad = Question(id="1", request_id="mine")
    with pytest.raises(errors.InvalidArgumentError, match="request_id"):
        list(client.predict_stream("flights", [bad]))
    with pytest.raises(errors.InvalidArgumentError, match="request_id"):
        client.predict("flights", request_id="mine")


def test_predict_with_request_id_is_repeated(client: Any, server: Any) -> None:
    """With an id of the caller's a prediction is repeated under it; without it never is."""
    fail(server, grpc.StatusCode.UNAVAILABLE, times=2)
    request_id = "0190a8c0-0000-7000-8000-000000000001"
    answer = client.predict("flights", inputs={"x": 1.0}, request_id=request_id)
    assert answer.prediction_id
    assert not answer.replayed
    assert [each.request_id for each in server.requests] == [request_id] * 3
    fail(server, grpc.StatusCode.UNAVAILABLE, times=1)
    with pytest.raises(errors.UnavailableError):
        client.predict("flights", inputs={"x": 1.0})


async def test_stream_waits_for_slow_source(
    async_client: AsyncClient, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that pauses loses no question, and no stream is held open for it meanwhile."""
    monkeypatch.setattr(streaming, "RENEWAL_SECONDS", 0.01)
    answered = asyncio.Event()

    async def slow() -> AsyncIterator[Question]:
        for number in range(3):
            yield Question(id=str(number), inputs={"x": 1.0})
            await answered.wait()
            answered.clear()
            await asyncio.sleep(0.03)

    seen = []
    async for each in async_client.predict_stream("flights", slow()):
        seen.append(each.id)
        answered.set()
    assert seen == ["0", "1", "2"]
    assert server.streams == 4


async def test_stream_left_early_ends_the_call(async_client: AsyncClient, server: Any) -> None:
    """Whoever stops taking answers leaves neither call nor task behind."""
    before = asyncio.all_tasks()
    answers = async_client.predict_stream("flights", questions(10_000))
    await anext(answers)
    await answers.aclose()  # type: ignore[attr-defined]  # a generator, as every one is
    for _ in range(200):
        if asyncio.all_tasks() <= before:
            break
        await asyncio.sleep(0.01)
    left = [each for each in asyncio.all_tasks() - before if "Poll" not in str(each)]
    assert not left
    assert len(server.requests) < 10_000


def frames(count: int) -> Iterator[Columns]:
    """So many frames of growing sizes."""
    return (frame(1 + number) for number in range(count))


STREAM_ID = "0190a8c0-0000-7000-8000-00000000000a"


def test_writes_give_one_result_for_each_frame(client: Any, server: Any, monkeypatch: Any) -> None:
    """Results come in order; a frame in several pieces is one, and its bad rows count from its beginning."""
    monkeypatch.setattr(requests, "WRITE_ROWS", 4)
    found = list(client.stream_features("delays", frames(10), keep_good_rows=True))

    sizes = [1 + number for number in range(10)]
    assert [each.rows_written for each in found] == sizes
    assert [each.rows_refused for each in found] == [-(-size // 4) for size in sizes]
    assert [row.row for row in found[9].row_errors] == [1, 5, 9]
    assert found[9].row_errors[0] == RowError(1, "x", "", "must be good", "WRONG_TYPE")
    assert {each.batch.view for each in server.requests} == {"delays"}
    assert [each.sequence for each in server.requests] == list(range(1, 19))
    assert len({each.batch_id for each in found}) == 10


def test_writes_begin_again_where_they_broke_off(client: Any, server: Any) -> None:
    """A stream that breaks off is followed by others with the same batches; each is written once, in order."""
    server.batches_per_stream = 3
    found = list(client.stream_features("delays", frames(20), stream_id=STREAM_ID))
    written = list(server.stored)
    server.batches_per_stream = 1_000_000
    again = list(client.stream_features("delays", frames(20), stream_id=STREAM_ID))

    assert [each.rows_written for each in found] == list(range(1, 21))
    assert server.streams > 7
    assert written == server.stored == [each.batch_id for each in found]
    # What was stored before the answer was lost is a replay.
    assert any(each.replayed for each in found)
    assert not all(each.replayed for each in found)
    assert [each.batch_id for each in again] == written
    assert all(each.replayed for each in again)


def test_writes_are_renewed(client: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that have their time behind them are followed by others; nothing is sent twice."""
    monkeypatch.setattr(streaming, "RENEWAL_SECONDS", 0.001)
    found = list(client.stream_features("delays", frames(60)))

    assert [each.rows_written for each in found] == list(range(1, 61))
    assert server.streams > 1
    assert len(server.requests) == 60


def test_writes_name_the_frame_that_is_refused(client: Any, server: Any) -> None:
    """The results before it are there, and the error says which frame it was and what was wrong."""
    server.refused = {4: "NULL_REFUSED"}
    found = []
    with pytest.raises(errors.InvalidArgumentError) as caught:
        for each in client.stream_features("delays", frames(9), stream_id=STREAM_ID):
            found.append(each)  # noqa: PERF402  # those before the error count

    assert [each.rows_written for each in found] == [1, 2, 3]
    assert caught.value.reason is errors.Reason.NULL_REFUSED
    assert caught.value.metadata == {"frame": "3", "stream_id": STREAM_ID}


def test_writes_lose_patience(client: Any, server: Any) -> None:
    """A service that stays away is waited for as long as was said, then the error is raised."""
    fail(server, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(errors.UnavailableError) as caught:
        list(client.stream_features("delays", frames(3), patience=0.05))

    assert caught.value.metadata["frame"] == "0"
    assert server.streams > 1


def test_writes_of_a_broken_source(client: Any) -> None:
    """What reading the frames fails with is raised, after the results of those before it."""

    def broken() -> Iterator[Columns]:
        yield frame(2)
        raise ZeroDivisionError("of mine")

    found = []
    with pytest.raises(ZeroDivisionError, match="of mine"):
        for each in client.stream_features("delays", broken()):
            found.append(each)  # noqa: PERF402  # those before the error count
    assert [each.rows_written for each in found] == [2]


def test_writes_with_a_bad_id(client: Any) -> None:
    """An id that frames' ids cannot follow from is refused."""
    with pytest.raises(errors.InvalidArgumentError, match="stream_id"):
        list(client.stream_features("delays", frames(1), stream_id="mine"))
