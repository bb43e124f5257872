import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
import redis.asyncio

from setpoint.feature.v1 import aggregation_pb2, definition_pb2
from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, value
from setpoint_feature import testing
from setpoint_feature.domain import tiles
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors

MINUTE = 60_000_000
DAY = 1440 * MINUTE
PATIENCE_SECONDS = 40.0

SOURCE = [
    ("line", DataType.STRING),
    ("delay", DataType.FLOAT64),
    ("late", DataType.BOOL),
]


def field(name: str, function: str, window: int, **options: Any) -> aggregation_pb2.AggregateField:
    """Returns the message of an aggregate."""
    where = options.pop("where", None)
    default = options.pop("default", None)
    message = aggregation_pb2.AggregateField(
        name=name,
        function=aggregation_pb2.AggregateFunction.Value(f"AGGREGATE_FUNCTION_{function}"),
        window_microseconds=window,
        **options,
    )
    if where is not None:
        message.where.field = where[0]
        message.where.equals.CopyFrom(value.to_proto(where[1]))
    if default is not None:
        message.default_value.CopyFrom(value.to_proto(default))
    return message


FIELDS = [
    field("count_10min", "COUNT", 10 * MINUTE),
    field("delays_1h", "SUM", 60 * MINUTE, field="delay"),
    field("mean_1d", "MEAN", DAY, field="delay", default=-1.0),
    field("worst_30d", "MAX", 30 * DAY, field="delay"),
    field("best_1h", "MIN", 60 * MINUTE, field="delay"),
    field("late_share_1d", "SHARE", DAY, where=("late", True)),
    field("last_90d", "LAST", 90 * DAY, field="delay", n=2),
    field("different_7d", "DISTINCT", 7 * DAY, field="delay"),
]
COLUMNS = [
    "count_10min",
    "delays_1h",
    "mean_1d",
    "worst_30d",
    "best_1h",
    "late_share_1d",
    "last_90d_1",
    "last_90d_2",
    "different_7d",
]


async def register(
    client: Client,
    fields: list[aggregation_pb2.AggregateField] = FIELDS,
    source: str = "landings",
    group_by: dict[str, str] | None = None,
    **options: Any,
) -> definition_pb2.FeatureView:
    """Registers a view over landings by carrier."""
    aggregation = aggregation_pb2.Aggregation(
        source=source, fields=fields, group_by={"carrier": "line"} if group_by is None else group_by
    )
    return await client.view("lateness", "carrier", [], aggregation=aggregation, **options)


async def prepare(client: Client, **options: Any) -> None:
    """Registers everything."""
    await client.entity("flight", flight=DataType.INT64)
    await client.entity("carrier", carrier=DataType.STRING)
    await client.view("landings", "flight", SOURCE)
    await register(client, **options)
    await client.feature_set("rates", [testing.reference("lateness", name) for name in COLUMNS])


def landings(*rows: tuple[int, int, int, str | None, float | None, bool | None]) -> Columns:
    """Returns rows: flight, minutes before now of event and arrival, carrier, delay, lateness."""
    columns = list(zip(*rows, strict=True))
    return Columns.from_dict(
        {
            "flight": (DataType.INT64, columns[0]),
            "event_time": (DataType.TIMESTAMP, [NOW - each * MINUTE for each in columns[1]]),
            "created_time": (DataType.TIMESTAMP, [NOW - each * MINUTE for each in columns[2]]),
            "line": (DataType.STRING, columns[3]),
            "delay": (DataType.FLOAT64, columns[4]),
            "late": (DataType.BOOL, columns[5]),
        }
    )


def carriers(*lines: str | None) -> Columns:
    """Returns entities."""
    return Columns.from_dict({"carrier": (DataType.STRING, list(lines))})


async def both(client: Client, entities: Columns, *times: int) -> testing.Answer:
    """Reads online and offline, which must say the same, and returns it."""
    online = await client.online("rates", entities, *times)
    column = Columns.from_dict({"event_time": (DataType.TIMESTAMP, list(times))})
    spine = entities.with_column(column["event_time"])
    (offline,) = await client.historical("rates", spine)
    assert dataclasses.replace(online, history_views=[]) == offline
    return online


async def test_windows_are_served_online_and_offline(client: Client) -> None:
    """Values, defaults, statuses and event times of every function, for known and unknown groups."""
    await prepare(client)
    answer = await client.write(
        "landings",
        landings(
            (1, 5, 5, "UA", 10.0, True),
            (2, 30, 30, "UA", 0.1, False),
            (3, 60 * 24 * 20, 60 * 24 * 20, "UA", 90.0, None),
            (4, 5, 5, None, 1000.0, True),
        ),
    )

    assert answer.online_applied
    found = await both(client, carriers("UA", "DL", None), NOW, NOW, NOW)
    assert found.values == {
        "count_10min": [1, 0, None],
        "delays_1h": [10.1, None, None],
        "mean_1d": [5.05, -1.0, -1.0],
        "worst_30d": [90.0, None, None],
        "best_1h": [0.1, None, None],
        "late_share_1d": [0.5, None, None],
        "last_90d_1": [10.0, None, None],
        "last_90d_2": [0.1, None, None],
        "different_7d": [2, 0, None],
    }
    assert found.statuses[0] == [pb_status("FRESH"), pb_status("FRESH"), pb_status("MISSING")]
    assert found.statuses[2] == [pb_status("FRESH"), pb_status("DEFAULT"), pb_status("DEFAULT")]
    assert found.event_times[0] == [NOW - 5 * MINUTE, -1, -1]


def pb_status(name: str) -> int:
    """Returns the number of a status."""
    return int(definition_pb2.FeatureStatus.Value(f"FEATURE_STATUS_{name}"))


async def test_corrections_and_late_events_change_windows(client: Client) -> None:
    """A corrected event moves to its group, a withdrawn one leaves, a late one counts from its arrival."""
    await prepare(client)
    await client.write(
        "landings", landings((1, 5, 5, "UA", 10.0, True), (2, 4, 4, "UA", 7.0, True))
    )
    await client.write(
        "landings", landings((1, 5, 3, "DL", 20.0, False), (3, 9, 2, "UA", 1.0, True))
    )
    await client.write("landings", landings((2, 4, 1, None, None, None)))

    times = [NOW - 4 * MINUTE, NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW]
    found = await both(client, carriers(*["UA"] * 4), *times)
    assert found.values["count_10min"] == [2, 1, 2, 1]
    assert found.values["last_90d_1"] == [7.0, 7.0, 7.0, 1.0]
    assert (await both(client, carriers("DL"), NOW)).values["delays_1h"] == [20.0]


def batch(seed: random.Random, count: int) -> Columns:
    """Returns events of the last 40 days, many late or corrections."""
    rows = []
    for _ in range(count):
        event = seed.choice([seed.randrange(20), seed.randrange(1500), seed.randrange(57_600)])
        arrived = max(0, event - seed.choice([0, 0, seed.randrange(3000)]))
        rows.append(
            (
                seed.randrange(40),
                event,
                arrived,
                seed.choice(["UA", "DL", None]),
                seed.choice([None, 0.1, 0.2, -7.5, 1e16]),
                seed.choice([None, True, False]),
            )
        )
    return landings(*rows)


@pytest.mark.parametrize(
    "boundary", [definition_pb2.BOUNDARY_INCLUSIVE, definition_pb2.BOUNDARY_EXCLUSIVE]
)
async def test_online_equals_offline_at_any_time(
    start: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch, boundary: Any
) -> None:
    """After writes, replays and a wipe both paths agree, where tiles cannot tell through the history."""
    monkeypatch.setattr(tiles, "SINGLE", 4)
    seed = random.Random(int(boundary))
    async with start() as running:
        client = running.client
        await prepare(client, boundary=boundary)
        for step in range(6):
            rows, batch_id = batch(seed, 40), testing.request_id()
            await client.write("landings", rows, batch_id)
            assert (await client.write("landings", rows, batch_id)).replayed
            if step == 3:
                async with redis.asyncio.Redis.from_url(valkey_url) as store:
                    await store.flushall()
            elif step > 3:
                # A rebuild that began before this batch leaves it to the one after.
                await up_to_date(client)
            lines = [seed.choice(["UA", "DL", "AA"]) for _ in range(6)]
            await both(client, carriers(*lines), *[NOW + 1] * 6)
            times = [NOW - seed.randrange(60) * MINUTE for _ in range(6)]
            await both(client, carriers(*lines), *times)
        await eventually(client, lambda found: not found.history_views)
        await both(client, carriers("UA", "DL"), NOW, NOW + 1)


async def test_replicas_count_each_event_once(start: Start) -> None:
    """Two replicas that write and correct the same events side by side make one state of them."""
    seed = random.Random(7)
    async with start() as one, start() as other:
        await prepare(one.client)
        clients = [one.client, other.client]
        for _ in range(3):
            batches = [(client, batch(seed, 30)) for client in clients * 2]
            await asyncio.gather(*(client.write("landings", rows) for client, rows in batches))
        for client in clients:
            await eventually(client, lambda found: not found.history_views)
        await up_to_date(one.client)
        for client in clients:
            await both(client, carriers("UA", "DL"), NOW, NOW)


async def up_to_date(client: Client) -> None:
    """Waits until a write finds every state up to date."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    row = landings((1000, 0, 0, "AA", None, None))
    while not (await client.write("landings", row)).online_applied:
        assert asyncio.get_running_loop().time() < deadline, "never caught up"
        await asyncio.sleep(0.05)


async def test_history_answers_what_tiles_cannot(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time before what is merged is answered from the history, and the answer says so."""
    monkeypatch.setattr(tiles, "SINGLE", 2)
    await prepare(client)
    for minute in (9, 7, 5, 3, 1):
        await client.write("landings", landings((minute, minute, minute, "UA", 1.0, True)))

    assert not (await client.online("rates", carriers("UA"), NOW)).history_views
    before = await client.online("rates", carriers("UA"), NOW - 8 * MINUTE)
    assert before.history_views == ["lateness"]
    found = await both(client, carriers("UA", "UA"), NOW, NOW - 8 * MINUTE)
    assert found.values["count_10min"] == [5, 1]


async def test_view_registered_later_counts_what_was_written_before(start: Start) -> None:
    """A new aggregate view over an old source is built from the history by itself."""
    async with start() as running:
        client = running.client
        await client.entity("flight", flight=DataType.INT64)
        await client.entity("carrier", carrier=DataType.STRING)
        await client.view("landings", "flight", SOURCE)
        await client.write("landings", landings((1, 5, 5, "UA", 10.0, True)))
        await register(client)
        await client.feature_set("rates", [testing.reference("lateness", name) for name in COLUMNS])

        await eventually(client, lambda found: not found.history_views)
        assert (await both(client, carriers("UA"), NOW)).values["count_10min"] == [1]
        assert (await client.write("landings", landings((2, 4, 4, "UA", 1.0, True)))).online_applied
        assert (await both(client, carriers("UA"), NOW)).values["count_10min"] == [2]


async def eventually(client: Client, wanted: Callable[[testing.Answer], bool]) -> None:
    """Waits for an answer that comes from the online store."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        if wanted(await client.online("rates", carriers("UA"), NOW)):
            return
        assert asyncio.get_running_loop().time() < deadline, "never caught up"
        await asyncio.sleep(0.05)


async def test_computed_views_have_no_rows(client: Client) -> None:
    """Nobody writes, reads or checks rows of an aggregate view."""
    await prepare(client)
    rows = Columns.from_dict(
        {"carrier": (DataType.STRING, ["UA"]), "event_time": (DataType.TIMESTAMP, [NOW])}
    )
    error = await testing.error_of(client.write("lateness", rows))
    assert isinstance(error, errors.InvalidArgumentError)
    assert error.violations[0].field == "view"
    with pytest.raises(grpc.aio.AioRpcError, match="rows of its own"):
        _ = [
            each
            async for each in client.stub.ReadFeatureView(
                pb.ReadFeatureViewRequest(view="lateness")
            )
        ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"source": "nothing"}, "view.aggregation.source"),
    ({"source": "lateness"}, "view.aggregation.source"),
    ({"fields": []}, "view.aggregation.fields"),
    ({"ttl_microseconds": 5}, "view.ttl_microseconds"),
    ({"group_by": {"carrier": "tail"}}, "view.aggregation.group_by[carrier]"),
    ({"group_by": {"carrier": "delay"}}, "view.aggregation.group_by[carrier]"),
    ({"group_by": {"line": "line"}}, "view.aggregation.group_by"),
    ({"fields": [field("a", "UNSPECIFIED", DAY)]}, "view.aggregation.fields[0].function"),
    ({"fields": [field("a", "SUM", DAY)]}, "view.aggregation.fields[0].field"),
    ({"fields": [field("a", "SUM", DAY, field="x")]}, "view.aggregation.fields[0].field"),
    ({"fields": [field("a", "SUM", DAY, field="line")]}, "view.aggregation.fields[0].field"),
    ({"fields": [field("a", "MIN", DAY, field="late")]}, "view.aggregation.fields[0].field"),
    ({"fields": [field("a", "LAST", DAY, field="line")]}, "view.aggregation.fields[0].field"),
    ({"fields": [field("a", "SHARE", DAY)]}, "view.aggregation.fields[0].where"),
    (
        {"fields": [field("a", "SHARE", DAY, where=("delay", 1.0))]},
        "view.aggregation.fields[0].where.field",
    ),
    (
        {"fields": [field("a", "SHARE", DAY, where=("late", "yes"))]},
        "view.aggregation.fields[0].where.equals",
    ),
    ({"fields": [field("a", "COUNT", 0)]}, "view.aggregation.fields[0].window_microseconds"),
    (
        {"fields": [field("a", "COUNT", 7 * MINUTE)]},
        "view.aggregation.fields[0].window_microseconds",
    ),
    (
        {"fields": [field("a", "COUNT", DAY, hop_microseconds=1000)]},
        "view.aggregation.fields[0].hop_microseconds",
    ),
    (
        {"fields": [field("a", "COUNT", DAY, hop_microseconds=MINUTE)]},
        "view.aggregation.fields[0].hop_microseconds",
    ),
    (
        {"fields": [field("a", "LAST", DAY, field="delay", n=17)]},
        "view.aggregation.fields[0].n",
    ),
    ({"fields": [field("a", "COUNT", DAY, n=1)]}, "view.aggregation.fields[0].n"),
    (
        {"fields": [field("a", "MEAN", DAY, field="delay", default="x")]},
        "view.aggregation.fields[0].default_value",
    ),
    (
        {"fields": [field("a", "COUNT", DAY), field("a", "COUNT", DAY)]},
        "view.fields",
    ),
]


async def test_register_refuses_by_field(client: Client) -> None:
    """Each bad definition is refused with the path of what is wrong, and nothing is stored."""
    await prepare(client)
    for change, path in REFUSED:
        error = await testing.error_of(register(client, **change))
        assert isinstance(error, errors.InvalidArgumentError)
        assert error.violations[0].field == path
    stored = await client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="lateness"))
    assert [each.name for each in stored.view.fields] == COLUMNS


async def test_definition_is_answered_as_registered(client: Client) -> None:
    """What is read of a view registers it again, as the same version; another window is another."""
    await prepare(client)
    stored = (await client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="lateness"))).view
    assert [each.name for each in stored.fields] == COLUMNS
    assert stored.aggregation.fields[0].hop_microseconds == 5 * MINUTE
    assert stored.aggregation.source_version
    again = await client.stub.RegisterFeatureView(
        pb.RegisterFeatureViewRequest(request_id=testing.request_id(), view=stored)
    )
    assert again.view == stored
    other = await register(client, [field("count_10min", "COUNT", 20 * MINUTE)])
    assert other.version != stored.version
