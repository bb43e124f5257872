import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc.aio
import pytest

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType
from setpoint_devstack import ports
from setpoint_devstack import postgres as postgres_server
from setpoint_feature import testing
from setpoint_feature.service import write_stream
from setpoint_feature.testing import NOW, Client, Start
from setpoint_rpc import channel as channels
from setpoint_runtime import errors

PLANES = Columns.from_dict({"plane": (DataType.INT64, [1, 2])})


async def prepare(client: Client) -> None:
    await client.entity("plane", plane=DataType.INT64)
    await client.view("ages", "plane", [("age", DataType.INT64)])
    await client.view("seats", "plane", [("seats", DataType.INT64)])
    await client.feature_set(
        "planes", [testing.reference("ages", "age"), testing.reference("seats", "seats")]
    )


def batch(
    sequence: int,
    value: int | None,
    *planes: int | None,
    view: str = "ages",
    keep_good: bool = False,
    batch_id: str | None = None,
) -> pb.StreamFeaturesRequest:
    """Returns a batch of rows that were true at the same time, so that the last one stored wins."""
    count = len(planes)
    rows = Columns.from_dict(
        {
            "plane": (DataType.INT64, list(planes)),
            "event_time": (DataType.TIMESTAMP, [NOW] * count),
            "created_time": (DataType.TIMESTAMP, [NOW] * count),
            {"ages": "age", "seats": "seats"}.get(view, "age"): (DataType.INT64, [value] * count),
        }
    )
    request = testing.write_request(view, rows, batch_id, keep_good)
    return pb.StreamFeaturesRequest(sequence=sequence, batch=request)


async def stream(
    client: Client, *batches: pb.StreamFeaturesRequest
) -> list[pb.StreamFeaturesResponse]:
    return [each async for each in client.stub.StreamFeatures(iter(batches), timeout=30)]


async def rest(call: Any) -> list[Any]:
    """Returns the answers that a call still gives."""
    found = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        found.append(answer)
    return found


async def test_stream_is_stored_and_answered_in_order(start: Start, feature_url: str) -> None:
    """Answers carry the numbers of their batches, and the history has the batches in that order."""
    async with start() as running:
        await prepare(running.client)
        count = 3 * write_stream.BATCHES_AT_ONCE
        # Small ones are prepared sooner than large ones before them.
        batches = [
            batch(3 * number, number, *([1] * (2000 if number % 5 == 0 else 1)))
            for number in range(1, count + 1)
        ]
        answers = await stream(running.client, *batches)
        online = await running.client.online("planes", PLANES)

    connection = await asyncpg.connect(feature_url)
    stored = await connection.fetchval(
        "SELECT array_agg(batch_id::text ORDER BY first_sequence) FROM feature.batches"
    )
    await connection.close()
    assert [each.sequence for each in answers] == [3 * number for number in range(1, count + 1)]
    assert all(each.written.online_applied for each in answers)
    assert stored == [each.batch.batch_id for each in batches]
    assert online.values["age"] == [count, None]


async def test_stream_goes_on_after_a_bad_batch(start: Start) -> None:
    """A batch that is wrong is answered in its place with what is wrong; the others are written."""
    async with start() as running:
        await prepare(running.client)
        ragged = batch(4, 9, 1)
        ragged.batch.rows.columns[0].values = b"short"
        reused = batch(1, 1, 1)
        answers = await stream(
            running.client,
            reused,
            batch(2, 2, None),
            batch(3, 3, 1, view="nothing"),
            ragged,
            batch(5, 5, 1, batch_id=reused.batch.batch_id),
            batch(6, 6, 2, view="seats"),
            batch(7, 7, 1, None, keep_good=True),
        )
        online = await running.client.online("planes", PLANES)

    assert [each.sequence for each in answers] == [1, 2, 3, 4, 5, 6, 7]
    reasons = [each.failure.reason for each in answers]
    assert reasons[1:5] == [
        "NULL_REFUSED",
        "FEATURE_VIEW_NOT_FOUND",
        "MALFORMED_COLUMNS",
        "REQUEST_ID_REUSED",
    ]
    assert answers[1].failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers[1].failure.violations[0].field == "rows.plane[0]"
    assert [each.written.rows_written for each in answers] == [1, 0, 0, 0, 0, 1, 1]
    assert answers[6].written.rows_refused == 1
    assert online.values == {"age": [7, None], "seats": [None, 6]}


async def test_stream_with_numbers_that_do_not_grow(start: Start) -> None:
    """Answers could not be told apart; what came before is answered, and the call ends."""
    async with start() as running:
        await prepare(running.client)
        call = running.client.stub.StreamFeatures(
            iter([batch(5, 1, 1), batch(5, 2, 1)]), timeout=30
        )
        first = await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    assert isinstance(first, pb.StreamFeaturesResponse)
    assert (first.sequence, first.written.rows_written) == (5, 1)
    error = channels.from_rpc_error(caught.value)
    assert error.violations[0].field == "sequence"


async def test_stream_takes_in_so_much_and_no_more(start: Start, feature_url: str) -> None:
    """While nothing can be stored, a writer is held back instead of filling the service's memory."""
    async with start() as running:
        await prepare(running.client)
        connection = await asyncpg.connect(feature_url)
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK TABLE feature.batches IN ACCESS EXCLUSIVE MODE")
        taken, seen, count = 0, -1, 80

        async def batches() -> AsyncIterator[pb.StreamFeaturesRequest]:
            nonlocal taken
            for number in range(1, count + 1):
                taken = number
                # Large enough for the buffers of the transport to be full soon.
                yield batch(number, number, *([1] * (write_stream.ROWS_AT_ONCE // 4)))

        call = running.client.stub.StreamFeatures(batches(), timeout=30)
        # At first for the transport to fill, then for it to stand still.
        async with asyncio.timeout(20):
            while taken < 4 or seen != taken:
                seen = taken
                await asyncio.sleep(0.2)
        call.cancel()
        await lock.rollback()
        await connection.close()

    assert seen < count


@pytest.fixture
async def own_postgres(
    run_folder: pathlib.Path,
) -> AsyncIterator[postgres_server.PostgresServer]:
    """A PostgreSQL that this test may stop."""
    options = postgres_server.PostgresOptions(durable=False, with_password=False)
    server = postgres_server.PostgresServer(run_folder / "stream", ports.free_port(), options)
    await server.start()
    yield server
    await server.stop()


async def test_stream_ends_when_nothing_can_be_stored(
    start: Start, own_postgres: postgres_server.PostgresServer
) -> None:
    """Without the database the call ends; the batches without an answer, sent again, are stored once."""
    async with start(database_url=own_postgres.url()) as running:
        await prepare(running.client)
        batches = [batch(number, number, 1) for number in range(1, 9)]
        waits = asyncio.Event()

        async def some() -> AsyncIterator[pb.StreamFeaturesRequest]:
            for each in batches[:2]:
                yield each
            await waits.wait()
            for each in batches[2:]:
                yield each

        call = running.client.stub.StreamFeatures(some(), timeout=30)
        answered = [await call.read(), await call.read()]
        await own_postgres.stop()
        waits.set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            answered += await rest(call)
        await own_postgres.start()
        again = await stream(running.client, *batches)
        online = await running.client.online("planes", PLANES)

    assert len(answered) == 2
    assert channels.from_rpc_error(caught.value).reason is errors.Reason.DATABASE_UNAVAILABLE
    assert [each.written.replayed for each in again] == [True] * 2 + [False] * 6
    assert online.values["age"] == [8, None]


async def test_write_good_rows_and_replay(start: Start) -> None:
    """A replay tells of the same bad rows as the first time, even when time has made them good."""
    async with start() as running:
        await prepare(running.client)
        rows = Columns.from_dict(
            {
                "plane": (DataType.INT64, [1, None, 2]),
                "event_time": (DataType.TIMESTAMP, [NOW, NOW, NOW + 10**10]),
                "age": (DataType.INT64, [1, 2, 3]),
            }
        )
        batch_id = testing.request_id()
        first = await running.client.write("ages", rows, batch_id, keep_good=True)
        running.clock.advance(2 * 10**10)
        again = await running.client.write("ages", rows, batch_id, keep_good=True)

    assert (first.rows_written, first.rows_refused) == (1, 2)
    assert [(each.row, each.column, each.reason) for each in first.row_errors] == [
        (1, "plane", "NULL_REFUSED"),
        (2, "event_time", "EVENT_TIME_IN_FUTURE"),
    ]
    assert again.replayed
    assert (again.rows_written, again.rows_refused) == (1, 2)
    assert again.row_errors == first.row_errors
