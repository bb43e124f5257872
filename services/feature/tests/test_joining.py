import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest

from setpoint.feature.v1 import definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

FRESH, STALE, MISSING, DEFAULT = 1, 2, 3, 4


@dataclass(frozen=True)
class Row:
    """A stored row; its sequence is its place in the order of writing."""

    origin: str
    number: int
    event: int
    created: int
    value: float | None


def random_rows(seed: random.Random, count: int) -> list[Row]:
    """Returns rows with ties, late arrivals, corrections, nulls and values of the future."""
    return [
        Row(
            seed.choice(["A", "A1", "B"]),
            seed.choice([1, 11]),
            event := seed.randrange(-60, 10),
            event + seed.choice([0, 0, 1, 5, 30, -3]),
            seed.choice([None, float(number)]),
        )
        for number in range(count)
    ]


def batch(rows: list[Row]) -> Columns:
    return Columns.from_dict(
        {
            "origin": (DataType.STRING, [row.origin for row in rows]),
            "number": (DataType.INT32, [row.number for row in rows]),
            "event_time": (DataType.TIMESTAMP, [NOW + row.event for row in rows]),
            "created_time": (DataType.TIMESTAMP, [NOW + row.created for row in rows]),
            "value": (DataType.FLOAT64, [row.value for row in rows]),
            "text": (DataType.STRING, [f"é{row.event}" for row in rows]),
        }
    )


Spine = list[tuple[str | None, int, int]]


def random_spine(seed: random.Random, count: int) -> Spine:
    return [
        (seed.choice(["A", "A1", "B", "C", None]), seed.choice([1, 11]), seed.randrange(-70, 20))
        for _ in range(count)
    ]


def spine_columns(spine: Spine, name: str = "event_time") -> Columns:
    return Columns.from_dict(
        {
            "from": (DataType.STRING, [each[0] for each in spine]),
            "number": (DataType.INT64, [each[1] for each in spine]),
            name: (DataType.TIMESTAMP, [NOW + each[2] for each in spine]),
            "label": (DataType.BOOL, [True] * len(spine)),
        }
    )


def brute_force(
    rows: list[Row], spine: Spine, *, ttl: int, exclusive: bool, arrival: bool
) -> tuple[list[Any], list[Any], list[int], list[int]]:
    """Answers a spine by the definition: values, texts, statuses, event times."""
    answers: list[tuple[Any, Any, int, int]] = []
    for origin, number, time in spine:
        known = [
            (row.event, row.created, sequence)
            for sequence, row in enumerate(rows)
            if (row.origin, row.number) == (origin, number)
            and (row.event < time if exclusive else row.event <= time)
            and (row.created <= time or not arrival)
        ]
        if not known:
            answers.append((-1.0, None, DEFAULT, -1))
            continue
        winner = rows[max(known)[2]]
        if ttl and winner.event < time - ttl:
            answers.append((-1.0, None, STALE, NOW + winner.event))
        else:
            answers.append((winner.value, f"é{winner.event}", FRESH, NOW + winner.event))
    values, texts, statuses, times = zip(*answers, strict=True)
    return list(values), list(texts), list(statuses), list(times)


async def prepare(client: Client, rows: list[Row], **options: Any) -> None:
    await client.entity("leg", origin=DataType.STRING, number=DataType.INT64)
    fields = [("value", DataType.FLOAT64, -1.0), ("text", DataType.STRING)]
    await client.view("legs", "leg", fields, **options)
    references = [
        testing.reference("legs", "value", origin="from"),
        testing.reference("legs", "text", origin="from"),
    ]
    await client.feature_set("trips", references)
    for start in range(0, len(rows), 40):
        await client.write("legs", batch(rows[start : start + 40]))


@pytest.mark.parametrize("whole_rows", [0, 1_000_000])
@pytest.mark.parametrize("ttl", [0, 20])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("by_event", [False, True])
async def test_join_equals_brute_force(
    start: Start, whole_rows: int, ttl: int, exclusive: bool, by_event: bool
) -> None:
    """Whichever way the history is read, the service's join is the definition's, piece by piece."""
    seed = random.Random(f"{ttl}{exclusive}{by_event}")
    rows = random_rows(seed, 200)
    pieces = [random_spine(seed, 60), random_spine(seed, 1), random_spine(seed, 120)]
    boundary = definition_pb2.BOUNDARY_EXCLUSIVE if exclusive else definition_pb2.BOUNDARY_INCLUSIVE
    async with start(whole_view_rows=whole_rows) as running:
        await prepare(running.client, rows, ttl_microseconds=ttl, boundary=boundary)

        answers = await running.client.historical(
            "trips", *map(spine_columns, pieces), by_event=by_event
        )
        shared = await running.client.historical(
            "trips", *map(spine_columns, pieces), by_event=by_event, shared=True
        )

    assert len(answers) == len(pieces)
    assert shared == answers
    for piece, answer in zip(pieces, answers, strict=True):
        values, texts, statuses, times = brute_force(
            rows, piece, ttl=ttl, exclusive=exclusive, arrival=not by_event
        )
        assert answer.values == {"value": values, "text": texts}
        assert answer.statuses[0] == statuses
        assert answer.statuses[1] == [MISSING if each == DEFAULT else each for each in statuses]
        assert answer.event_times == [times, times]


@pytest.mark.parametrize("whole_rows", [0, 1_000_000])
async def test_join_of_both_places_equals_brute_force(start: Start, whole_rows: int) -> None:
    """Rows that lie in segments, or move there between two pieces, are joined as all others."""
    seed = random.Random(whole_rows)
    rows = random_rows(seed, 300)
    pieces = [random_spine(seed, 90), random_spine(seed, 90)]
    async with start(
        whole_view_rows=whole_rows,
        recent_rows=20,
        move_rows=30,
        segment_rows=70,
        compact_seconds=0.01,
        segment_grace_seconds=0.0,
    ) as running:
        await prepare(running.client, rows[:200], ttl_microseconds=30)
        while segment_files(running) < 2:
            await asyncio.sleep(0.01)
        first = await running.client.historical("trips", *map(spine_columns, pieces))
        for begin in range(200, 300, 25):
            await running.client.write("legs", batch(rows[begin : begin + 25]))
        second = await running.client.historical("trips", *map(spine_columns, pieces))

    for known, answers in ((rows[:200], first), (rows, second)):
        for piece, answer in zip(pieces, answers, strict=True):
            values, texts, statuses, times = brute_force(
                known, piece, ttl=30, exclusive=False, arrival=True
            )
            assert answer.values == {"value": values, "text": texts}
            assert answer.statuses[0] == statuses
            assert answer.event_times == [times, times]


def segment_files(running: testing.Running) -> float:
    """Returns how many segments hold rows, as the metrics tell."""
    return sum(
        sample.value
        for metric in running.server.metrics_registry.collect()
        for sample in metric.samples
        if sample.name == "setpoint_feature_segments"
    )


async def test_join_large_piece_spans_messages(start: Start) -> None:
    """A piece whose answer would not fit a message is answered in several, in order, and says so."""
    seed = random.Random(3)
    rows, spine = random_rows(seed, 40), random_spine(seed, 500)
    async with start(answer_bytes=4_000) as running:
        await prepare(running.client, rows)

        async def requests() -> Any:
            for index in range(2):
                request = pb.GetHistoricalFeaturesRequest(
                    spine=proto.to_proto(spine_columns(spine))
                )
                if not index:
                    request.feature_set.name = "trips"
                yield request

        answers = [each async for each in running.client.stub.GetHistoricalFeatures(requests())]

    values = [
        value
        for answer in answers
        if answer.piece == 1
        for value in proto.from_proto(answer.features)["value"].to_list()
    ]
    assert len(answers) > 4
    assert [answer.piece for answer in answers] == sorted(answer.piece for answer in answers)
    assert sum(answer.piece_complete for answer in answers) == 2
    assert answers[-1].piece_complete
    assert values == brute_force(rows, spine, ttl=0, exclusive=False, arrival=True)[0]


async def read(call: Any) -> pb.GetHistoricalFeaturesResponse:
    """Returns the next answer of a stream."""
    answer = await call.read()
    assert isinstance(answer, pb.GetHistoricalFeaturesResponse)
    return answer


async def test_join_sees_the_history_of_its_beginning(client: Client) -> None:
    """Rows written while a stream runs do not make its later pieces differ from its first."""
    await prepare(client, [Row("A", 1, -5, -5, 1.0)])
    spine = spine_columns([("A", 1, 0)])
    call = client.stub.GetHistoricalFeatures()
    first = pb.GetHistoricalFeaturesRequest(spine=proto.to_proto(spine))
    first.feature_set.name = "trips"
    await call.write(first)
    before = testing.decode(await read(call))
    await client.write("legs", batch([Row("A", 1, -4, -4, 2.0)]))
    await call.write(pb.GetHistoricalFeaturesRequest(spine=proto.to_proto(spine)))
    after = testing.decode(await read(call))
    await call.done_writing()

    assert before.values["value"] == after.values["value"] == [1.0]
    assert (await client.historical("trips", spine))[0].values["value"] == [2.0]


async def test_join_other_time_column(client: Client) -> None:
    """The spine's times may be in a column of another name."""
    await prepare(client, [Row("A", 1, -5, -5, 1.0)])

    (answer,) = await client.historical(
        "trips", spine_columns([("A", 1, -6), ("A", 1, -5)], "departure"), time_column="departure"
    )

    assert answer.values["value"] == [-1.0, 1.0]


async def test_join_empty_pieces(client: Client) -> None:
    """A piece without rows has an answer without rows; a stream without pieces has none."""
    await prepare(client, [Row("A", 1, -5, -5, 1.0)])

    answers = await client.historical("trips", spine_columns([]))

    assert [answer.values for answer in answers] == [{"value": [], "text": []}]
    assert await client.historical("trips") == []


@pytest.mark.parametrize(
    ("spine", "reason", "field"),
    [
        (
            spine_columns([("A", 1, 0)]).without("event_time"),
            errors.Reason.MISSING_FIELD,
            "spine.event_time",
        ),
        (
            spine_columns([("A", 1, 0)]).without("from"),
            errors.Reason.ENTITY_KEY_MISSING,
            "spine.from",
        ),
        (
            Columns.from_dict(
                {
                    "from": (DataType.STRING, ["A", "B"]),
                    "number": (DataType.INT64, [1, 1]),
                    "event_time": (DataType.TIMESTAMP, [1, None]),
                }
            ),
            errors.Reason.NULL_REFUSED,
            "spine.event_time[1]",
        ),
        (
            Columns.from_dict(
                {
                    "from": (DataType.STRING, ["A"]),
                    "number": (DataType.INT64, [1]),
                    "event_time": (DataType.INT64, [1]),
                }
            ),
            errors.Reason.WRONG_TYPE,
            "spine.event_time",
        ),
    ],
)
async def test_join_bad_spine_is_named(
    client: Client, spine: Columns, reason: errors.Reason, field: str
) -> None:
    """A spine without its times or keys is refused with the column's path."""
    await prepare(client, [])

    error = await testing.error_of(client.historical("trips", spine))

    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.reason, error.violations[0].field) == (reason, field)


async def test_join_other_set_in_a_later_piece(client: Client) -> None:
    """One stream reads one feature set."""
    await prepare(client, [])

    async def requests() -> Any:
        for name in ("trips", "other"):
            request = pb.GetHistoricalFeaturesRequest(spine=proto.to_proto(spine_columns([])))
            request.feature_set.name = name
            yield request

    async def collect() -> list[Any]:
        return [each async for each in client.stub.GetHistoricalFeatures(requests())]

    error = await testing.error_of(collect())

    assert error.violations[0].field == "requests[1].feature_set"


async def test_join_unknown_set(client: Client) -> None:
    """A feature set that does not exist is not found."""
    error = await testing.error_of(client.historical("nothing", spine_columns([])))

    assert error.reason is errors.Reason.FEATURE_SET_NOT_FOUND


@pytest.mark.parametrize("whole_rows", [0, 5, 1_000])
async def test_join_one_view_by_two_keys(start: Start, whole_rows: int) -> None:
    """One view joined as origin and as destination, beside another view, gives each its own."""
    async with start(whole_view_rows=whole_rows) as running:
        client = running.client
        await client.entity("airport", airport=DataType.STRING)
        await client.entity("global")
        await client.view("weather", "airport", [("wind", DataType.INT64)])
        await client.view("rates", "global", [("rate", DataType.INT64)])
        references = [
            testing.reference("weather", "wind", "to_wind", airport="dest"),
            testing.reference("rates", "rate"),
            testing.reference("weather", "wind", "from_wind", airport="origin"),
        ]
        await client.feature_set("trips", references)
        winds: testing.Table = {
            "airport": (DataType.STRING, ["JFK", "LAX"] * 3),
            "event_time": (DataType.TIMESTAMP, [NOW - each for each in (9, 9, 6, 6, 3, 3)]),
            "created_time": (DataType.TIMESTAMP, [NOW - each for each in (9, 9, 6, 2, 3, 3)]),
            "wind": (DataType.INT64, [1, 2, 3, 4, 5, 6]),
        }
        await client.write("weather", Columns.from_dict(winds))
        rates: testing.Table = {
            "event_time": (DataType.TIMESTAMP, [NOW - 7, NOW - 4]),
            "created_time": (DataType.TIMESTAMP, [NOW - 7, NOW - 4]),
            "rate": (DataType.INT64, [10, 20]),
        }
        await client.write("rates", Columns.from_dict(rates))
        spine: testing.Table = {
            "origin": (DataType.STRING, ["JFK", "LAX", "JFK", "???"]),
            "dest": (DataType.STRING, ["LAX", "JFK", "LAX", "JFK"]),
            "event_time": (DataType.TIMESTAMP, [NOW - 8, NOW - 5, NOW, NOW - 20]),
        }

        (answer,) = await client.historical("trips", Columns.from_dict(spine))

    assert answer.values == {
        "to_wind": [2, 3, 6, None],
        "rate": [None, 10, 20, None],
        "from_wind": [1, 2, 5, None],
    }
