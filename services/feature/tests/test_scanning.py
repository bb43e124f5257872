import random

import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.service import joining
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

Stored = list[tuple[str, int, int, float]]


async def prepare(client: Client, stored: Stored) -> None:
    await client.entity("carrier", carrier=DataType.STRING)
    await client.view("delays", "carrier", [("late", DataType.FLOAT64)])
    for start in range(0, len(stored), 37):
        rows = stored[start : start + 37]
        table: testing.Table = {
            "carrier": (DataType.STRING, [row[0] for row in rows]),
            "event_time": (DataType.TIMESTAMP, [NOW + row[1] for row in rows]),
            "created_time": (DataType.TIMESTAMP, [NOW + row[2] for row in rows]),
            "late": (DataType.FLOAT64, [row[3] for row in rows]),
        }
        await client.write("delays", Columns.from_dict(table))


async def scan(client: Client, *bounds: int, known_at: int = 0) -> list[Columns]:
    request = pb.ReadFeatureViewRequest(view="delays", known_at_time=known_at)
    if bounds:
        request.range.CopyFrom(reference_pb2.TimeRange(start_time=bounds[0], end_time=bounds[1]))
    return [proto.from_proto(each.rows) async for each in client.stub.ReadFeatureView(request)]


def flat(pages: list[Columns]) -> Stored:
    return [
        (row["carrier"], row["event_time"] - NOW, row["created_time"] - NOW, row["late"])
        for page in pages
        for row in page.to_rows()
    ]


@pytest.mark.parametrize("page_rows", [3, 20_000])
async def test_scan_equals_brute_force(
    start: Start, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    """Of each entity and event time the greatest row known by then is streamed, in order of time."""
    monkeypatch.setattr(joining, "SCAN_ROWS", page_rows)
    seed = random.Random(1)
    stored = [
        (
            seed.choice("ab"),
            event := seed.randrange(-9, 1),
            event + seed.randrange(6),
            float(number),
        )
        for number in range(90)
    ]
    async with start() as running:
        await prepare(running.client, stored)
        found = flat(await scan(running.client, NOW - 7, NOW, known_at=NOW - 1))

    greatest: dict[tuple[str, int], tuple[int, int]] = {}
    for sequence, (carrier, event, created, _) in enumerate(stored):
        if -7 <= event < 0 and created <= -1 and event <= -1:
            key = carrier, event
            greatest[key] = max(greatest.get(key, (-99, 0)), (created, sequence))
    winners = [stored[sequence] for _, sequence in greatest.values()]
    order = {row: sequence for sequence, row in enumerate(stored)}
    assert found == sorted(winners, key=lambda row: (row[1], row[2], order[row]))


async def test_scan_everything(client: Client) -> None:
    """Without range and time all rows are streamed, typed as declared."""
    await prepare(client, [("a", -1, -1, 1.0), ("b", -5, 5, 2.0)])

    pages = await scan(client)

    assert flat(pages) == [("b", -5, 5, 2.0), ("a", -1, -1, 1.0)]
    assert pages[0].schema == {
        "carrier": DataType.STRING,
        "event_time": DataType.TIMESTAMP,
        "created_time": DataType.TIMESTAMP,
        "late": DataType.FLOAT64,
    }


async def test_scan_in_several_messages(start: Start) -> None:
    """Rows that do not fit one message come in several."""
    stored = [("a", -number, -number, 0.0) for number in range(100)]
    async with start(answer_bytes=500) as running:
        await prepare(running.client, stored)
        pages = await scan(running.client)

    assert len(pages) > 3
    assert len(flat(pages)) == 100


async def test_scan_nothing(client: Client) -> None:
    """A view without rows in the range has an empty stream."""
    await prepare(client, [("a", -1, -1, 1.0)])

    assert await scan(client, NOW, NOW) == []


async def test_scan_bad_questions(client: Client) -> None:
    """A range that ends before it starts and an unknown view are refused."""
    unknown = await testing.error_of(scan(client))
    await prepare(client, [])
    backwards = await testing.error_of(scan(client, 5, 4))

    assert unknown.reason is errors.Reason.FEATURE_VIEW_NOT_FOUND
    assert backwards.violations[0].field == "range.end_time"
