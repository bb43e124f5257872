import random

import pytest

from setpoint.feature.v1 import definition_pb2
from setpoint_columns import Columns, DataType
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start

ROUNDS = 4


async def prepare(client: Client, ttl: int, boundary: definition_pb2.Boundary) -> None:
    await client.entity("plane", plane=DataType.INT64, tail=DataType.STRING)
    await client.entity("global")
    fields = [
        ("flag", DataType.BOOL, True),
        ("count", DataType.INT32),
        ("share", DataType.FLOAT32, 0.5),
        ("note", DataType.STRING, "none"),
        ("seen", DataType.TIMESTAMP),
    ]
    await client.view("planes", "plane", fields, ttl_microseconds=ttl, boundary=boundary)
    await client.view("rates", "global", [("rate", DataType.FLOAT64)])
    features = [testing.reference("planes", str(each[0])) for each in fields]
    await client.feature_set("all", [testing.reference("rates", "rate"), *features])


def random_batch(seed: random.Random) -> Columns:
    count = seed.randrange(1, 12)
    events = [seed.randrange(-40, 1) for _ in range(count)]

    def some(values: list[object]) -> list[object]:
        return [seed.choice([None, *values]) for _ in range(count)]

    return Columns.from_dict(
        {
            "plane": (DataType.INT64, [seed.randrange(3) for _ in range(count)]),
            "tail": (DataType.STRING, [seed.choice(["N1", "N", "é"]) for _ in range(count)]),
            "event_time": (DataType.TIMESTAMP, [NOW + event for event in events]),
            "created_time": (
                DataType.TIMESTAMP,
                [NOW + min(0, event + seed.randrange(-3, 20)) for event in events],
            ),
            "flag": (DataType.BOOL, some([True, False])),
            "count": (DataType.INT32, some([1, -1])),
            "share": (DataType.FLOAT32, some([0.25, float("inf")])),
            "note": (DataType.STRING, some(["", "é", "long" * 9])),
            "seen": (DataType.TIMESTAMP, some([NOW, -1])),
        }
    )


@pytest.mark.parametrize("ttl", [0, 15])
@pytest.mark.parametrize(
    "boundary", [definition_pb2.BOUNDARY_INCLUSIVE, definition_pb2.BOUNDARY_EXCLUSIVE]
)
async def test_online_equals_offline_now(
    start: Start, ttl: int, boundary: definition_pb2.Boundary
) -> None:
    """Whatever was written in whatever order, both paths answer a time after it the same."""
    seed = random.Random(f"{ttl} {boundary}")
    entities = Columns.from_dict(
        {
            "plane": (DataType.INT64, [plane for plane in (0, 1, 2, 3, None) for _ in range(4)]),
            "tail": (DataType.STRING, ["N1", "N", "é", None] * 5),
        }
    )
    async with start() as running:
        client = running.client
        await prepare(client, ttl, boundary)
        for _ in range(ROUNDS):
            for _ in range(seed.randrange(1, 5)):
                await client.write("planes", random_batch(seed))
            rate: testing.Table = {
                "event_time": (DataType.TIMESTAMP, [NOW - 3]),
                "rate": (DataType.FLOAT64, [1.0]),
            }
            await client.write("rates", Columns.from_dict(rate))
            # Everything was known by now, so the greatest row is the one known now and later.
            for time in (NOW + 1, NOW + 5, NOW + 16):
                online = await client.online("all", entities, time)
                column = Columns.from_dict(
                    {"event_time": (DataType.TIMESTAMP, [time] * entities.rows)}
                )
                spine = entities.with_column(column["event_time"])
                (offline,) = await client.historical("all", spine)
                assert online == offline
