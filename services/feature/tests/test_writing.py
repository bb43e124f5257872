import asyncio
import random
import string
from typing import Any

import asyncpg
import pytest

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_feature import testing
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors


@pytest.fixture
async def delays(client: Client) -> Client:
    """A service with a view of carriers and a set that reads it."""
    await prepare(client)
    return client


async def prepare(client: Client) -> None:
    await client.entity("carrier", carrier=DataType.STRING)
    await client.view("delays", "carrier", [("late", DataType.FLOAT64), ("note", DataType.STRING)])
    await client.feature_set("flights", [testing.reference("delays", "late")])


def rows(
    *values: tuple[str, int, int, float | None], **more: tuple[DataType, list[Any]]
) -> Columns:
    """Returns rows of (carrier, event time, created time, late), times relative to now."""
    return Columns.from_dict(
        {
            "carrier": (DataType.STRING, [value[0] for value in values]),
            "event_time": (DataType.TIMESTAMP, [NOW + value[1] for value in values]),
            "created_time": (DataType.TIMESTAMP, [NOW + value[2] for value in values]),
            "late": (DataType.FLOAT64, [value[3] for value in values]),
            **more,
        }
    )


async def latest(client: Client, *carriers: str) -> list[float | None]:
    entities = Columns.from_dict({"carrier": (DataType.STRING, list(carriers))})
    return (await client.online("flights", entities)).values["late"]


async def count(feature_url: str) -> tuple[int, int]:
    """Returns how many rows and batches are stored."""
    connection = await asyncpg.connect(feature_url)
    try:
        return (
            await connection.fetchval("SELECT count(*) FROM feature.history"),
            await connection.fetchval("SELECT count(*) FROM feature.batches"),
        )
    finally:
        await connection.close()


async def test_write_keeps_the_greatest_online(delays: Client) -> None:
    """Late rows do not replace newer ones, corrections at the same event time do."""
    first = await delays.write("delays", rows(("AA", -10, -10, 1.0), ("UA", -10, -10, 1.0)))
    late = await delays.write("delays", rows(("AA", -20, -5, 2.0)))
    correction = await delays.write("delays", rows(("AA", -10, -4, 3.0)))
    older_correction = await delays.write("delays", rows(("AA", -10, -6, 4.0)))
    repeated = await delays.write("delays", rows(("UA", -10, -10, 5.0)))

    assert (first.rows_written, first.online_updated, first.online_applied) == (2, 2, True)
    assert [late.online_updated, correction.online_updated, older_correction.online_updated] == [
        0,
        1,
        0,
    ]
    assert repeated.online_updated == 1
    assert await latest(delays, "AA", "UA") == [3.0, 5.0]


async def test_write_one_batch_reduces_its_keys(delays: Client) -> None:
    """Within a batch the greatest row of a key wins, and the later of equal ones."""
    written = await delays.write(
        "delays",
        rows(("AA", -5, -5, 1.0), ("AA", -9, -1, 2.0), ("AA", -5, -5, 3.0), ("AA", -5, -6, 4.0)),
    )

    assert (written.rows_written, written.online_updated) == (4, 1)
    assert await latest(delays, "AA") == [3.0]


async def test_write_replay_of_a_batch(delays: Client, feature_url: str) -> None:
    """A batch that comes twice is stored once; the second answer says so."""
    batch_id = testing.request_id()
    first = await delays.write("delays", rows(("AA", -1, -1, 1.0)), batch_id)
    second = await delays.write("delays", rows(("AA", -1, -1, 1.0)), batch_id.upper())

    assert (first.replayed, second.replayed) == (False, True)
    assert (second.rows_written, second.online_updated, second.online_applied) == (1, 0, True)
    assert await count(feature_url) == (1, 1)


async def test_write_replay_without_created_time(start: Start) -> None:
    """A retry later in time is the same batch, although the clock stands for its arrival."""
    async with start() as running:
        await prepare(running.client)
        batch_id = testing.request_id()
        batch = rows(("AA", -1, -1, 1.0)).without("created_time")
        await running.client.write("delays", batch, batch_id)
        running.clock.advance(1_000)

        again = await running.client.write("delays", batch, batch_id)

        assert again.replayed


async def test_write_batch_id_with_other_rows(delays: Client, feature_url: str) -> None:
    """A batch id names one content; with another one nothing is written."""
    batch_id = testing.request_id()
    await delays.write("delays", rows(("AA", -1, -1, 1.0)), batch_id)

    error = await testing.error_of(delays.write("delays", rows(("AA", -1, -1, 2.0)), batch_id))

    assert isinstance(error, errors.AlreadyExistsError)
    assert error.reason is errors.Reason.REQUEST_ID_REUSED
    assert await count(feature_url) == (1, 1)


async def test_write_no_rows(delays: Client) -> None:
    """An empty batch is a batch."""
    written = await delays.write("delays", rows())

    assert (written.rows_written, written.online_applied) == (0, True)


@pytest.mark.parametrize(
    ("batch", "reason", "field"),
    [
        (
            rows(("AA", -1, -1, 1.0), ("UA", 10**12, -1, 1.0)),
            errors.Reason.EVENT_TIME_IN_FUTURE,
            "rows.event_time[1]",
        ),
        (
            rows(("AA", -1, -1, 1.0), lat=(DataType.FLOAT64, [1.0])),
            errors.Reason.UNKNOWN_FIELD,
            "rows.lat",
        ),
        (
            rows(("AA", -1, -1, 1.0), note=(DataType.STRING, ["x" * 1_000_000])),
            errors.Reason.TOO_LARGE,
            "rows.note[0]",
        ),
        (
            Columns.from_dict({"carrier": (DataType.STRING, ["AA"])}),
            errors.Reason.MISSING_FIELD,
            "rows.event_time",
        ),
    ],
)
async def test_write_bad_batch_leaves_nothing(
    delays: Client, feature_url: str, batch: Columns, reason: errors.Reason, field: str
) -> None:
    """A bad row refuses the whole batch, names itself, and leaves the batch id free."""
    batch_id = testing.request_id()
    error = await testing.error_of(delays.write("delays", batch, batch_id))
    stored = await count(feature_url)
    good = await delays.write("delays", rows(("AA", -1, -1, 1.0)), batch_id)

    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.reason, error.violations[0].field) == (reason, field)
    assert stored == (0, 0)
    assert not good.replayed


async def test_write_ragged_columns(delays: Client) -> None:
    """Columns of different lengths are refused by name."""
    message = proto.to_proto(rows(("AA", -1, -1, 1.0), ("UA", -1, -1, 1.0)))
    message.columns[3].values = message.columns[3].values[:8]

    error = await testing.error_of(
        delays.stub.WriteFeatures(
            pb.WriteFeaturesRequest(batch_id=testing.request_id(), view="delays", rows=message)
        )
    )

    assert error.reason is errors.Reason.MALFORMED_COLUMNS
    assert error.violations[0].field == "rows.columns[3].values"


async def test_write_unknown_view(client: Client) -> None:
    """A view that nobody registered takes no rows."""
    error = await testing.error_of(client.write("nothing", rows(("AA", -1, -1, 1.0))))

    assert error.reason is errors.Reason.FEATURE_VIEW_NOT_FOUND


@pytest.mark.parametrize("batch_id", ["", "batch-1"])
async def test_write_bad_batch_id(delays: Client, batch_id: str) -> None:
    """A batch without a proper id could not be repeated safely."""
    request = pb.WriteFeaturesRequest(
        batch_id=batch_id, view="delays", rows=proto.to_proto(rows(("AA", -1, -1, 1.0)))
    )

    error = await testing.error_of(delays.stub.WriteFeatures(request))

    assert error.violations[0].field == "batch_id"


async def test_write_goes_to_the_latest_version(delays: Client) -> None:
    """A new version of a view starts empty, and the old one keeps what it has."""
    old = await delays.feature_set("flights", [testing.reference("delays", "late")])
    await delays.write("delays", rows(("AA", -1, -1, 1.0)))
    await delays.view("delays", "carrier", [("late", DataType.FLOAT64, 9.0)])
    await delays.feature_set("flights", [testing.reference("delays", "late")])
    empty = await latest(delays, "AA")
    await delays.write("delays", rows(("AA", -1, -1, 2.0)))

    entities = Columns.from_dict({"carrier": (DataType.STRING, ["AA"])})
    pinned = await delays.online("flights", entities, version=old.version)
    assert empty == [9.0]
    assert await latest(delays, "AA") == [2.0]
    assert pinned.values["late"] == [1.0]


async def test_write_from_many_at_once(start: Start, feature_url: str) -> None:
    """Writers in two replicas lose nothing: sequences have no gaps, the greatest row is online."""
    seed = random.Random(5)
    async with start() as one, start() as other:
        await prepare(one.client)
        batches = [
            [
                (
                    "AA",
                    -seed.randrange(1000) - 1,
                    -seed.randrange(1000) - 1,
                    float(number * 100 + row),
                )
                for row in range(20)
            ]
            for number in range(30)
        ]
        await asyncio.gather(
            *(
                (one if number % 2 else other).client.write("delays", rows(*batch))
                for number, batch in enumerate(batches)
            )
        )
        online = await latest(one.client, "AA")

    connection = await asyncpg.connect(feature_url)
    sequences = [
        row[0] for row in await connection.fetch("SELECT sequence FROM feature.history ORDER BY 1")
    ]
    winner = await connection.fetchrow(
        "SELECT event_time, created_time FROM feature.history "
        "ORDER BY event_time DESC, created_time DESC, sequence DESC LIMIT 1"
    )
    await connection.close()
    assert sequences == list(range(1, 601))
    matching = {
        value
        for batch in batches
        for _, event, created, value in batch
        if (NOW + event, NOW + created) == tuple(winner)
    }
    assert set(online) <= matching


async def test_write_int32_and_int64_keys_are_the_same(client: Client) -> None:
    """What is written under one width is read under the other."""
    await client.entity("plane", plane=DataType.INT32)
    await client.view("ages", "plane", [("age", DataType.INT64)])
    await client.feature_set("planes", [testing.reference("ages", "age")])
    for dtype, number in ((DataType.INT32, 7), (DataType.INT64, 1 << 40)):
        batch = {"plane": (dtype, [number]), "event_time": (DataType.TIMESTAMP, [NOW])}
        await client.write("ages", Columns.from_dict({**batch, "age": (DataType.INT64, [number])}))

    found = await client.online(
        "planes", Columns.from_dict({"plane": (DataType.INT64, [7, 1 << 40, 8])})
    )

    assert found.values["age"] == [7, 1 << 40, None]


async def test_long_keys_are_stored_or_refused_by_name(client: Client) -> None:
    """Keys of several texts that are too long for an index are refused, row by row where that is asked for."""
    await client.entity("place", **dict.fromkeys("abc", DataType.STRING))
    await client.view("weather", "place", [("fog", DataType.BOOL)])
    characters = random.Random(0)

    def text(length: int) -> str:
        # Of any others the index would keep a shorter form.
        return "".join(characters.choices(string.printable, k=length))

    keys = {
        "a": [text(1024), text(1024), "x"],
        "b": [text(1023), text(1024), "y"],
        "c": [text(1), text(1), "z"],
    }
    rows = Columns.from_dict(
        {
            **{name: (DataType.STRING, values) for name, values in keys.items()},
            "event_time": (DataType.TIMESTAMP, [NOW] * 3),
            "fog": (DataType.BOOL, [True] * 3),
        }
    )
    error = await testing.error_of(client.write("weather", rows))
    kept = await client.write("weather", rows, keep_good=True)

    assert (error.reason, error.violations[0].field) == (errors.Reason.TOO_LARGE, "rows.c[1]")
    assert (kept.rows_written, kept.online_updated) == (2, 2)
    assert [each.row for each in kept.row_errors] == [1]
