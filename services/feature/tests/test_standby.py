import asyncio
import os
import pathlib
import signal
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
import redis.asyncio

from setpoint.feature.v1 import feature_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_devstack import ports, valkey
from setpoint_feature import testing
from setpoint_feature.service import breaker
from setpoint_feature.testing import NOW, Client, Running, Start
from setpoint_runtime import errors


async def prepare(client: Client) -> None:
    """Makes a set of two views, one of them joined twice, and writes three planes of one and two of the other."""
    await client.entity("plane", plane=DataType.INT64)
    await client.view("ages", "plane", [("age", DataType.INT64)], ttl_microseconds=1_000)
    await client.view("seats", "plane", [("seats", DataType.INT64, 100)])
    await client.feature_set(
        "planes",
        [
            testing.reference("ages", "age"),
            testing.reference("seats", "seats"),
            testing.reference("ages", "age", "other_age", plane="other"),
        ],
    )
    for view, field, rows in (
        ("ages", "age", [(1, -500, 7), (2, -2_000, 8), (3, -10, None), (1, -900, 6)]),
        ("seats", "seats", [(1, -500, 150), (2, -500, 160)]),
    ):
        await client.write(
            view,
            Columns.from_dict(
                {
                    "plane": (DataType.INT64, [row[0] for row in rows]),
                    "event_time": (DataType.TIMESTAMP, [NOW + row[1] for row in rows]),
                    "created_time": (DataType.TIMESTAMP, [NOW + row[1] for row in rows]),
                    field: (DataType.INT64, [row[2] for row in rows]),
                }
            ),
        )


ENTITIES = Columns.from_dict(
    {
        "plane": (DataType.INT64, [1, 2, 3, 4, None, 1]),
        "other": (DataType.INT32, [2, 1, 1, None, 3, 1]),
    }
)


@pytest.fixture
async def own_valkey(tmp_path: pathlib.Path) -> AsyncIterator[valkey.ValkeyServer]:
    """A Valkey that this test may stop."""
    server = valkey.ValkeyServer(tmp_path, ports.free_port(), durable=False, with_password=False)
    await server.start()
    yield server
    await server.stop()


def reads(running: Running) -> dict[str, float]:
    """Returns how many reads there were by what answered them."""
    return {
        sample.labels["source"]: sample.value
        for metric in running.server.metrics_registry.collect()
        for sample in metric.samples
        if sample.name == "setpoint_feature_online_reads_total"
    }


async def test_history_answers_as_the_online_store_did(
    start: Start, own_valkey: valkey.ValkeyServer
) -> None:
    """Values, defaults, statuses and event times are the same from either, and the answer says which it was."""
    async with start(valkey_url=own_valkey.url()) as running:
        await prepare(running.client)
        before = await running.client.online("planes", ENTITIES)
        await own_valkey.stop()
        after = await running.client.online("planes", ENTITIES)
        nobody = await running.client.online("planes", ENTITIES.slice(0, 0))

        assert before.history_views == []
        assert after.history_views == ["ages", "seats"]
        assert after.values == before.values
        assert after.values["age"] == [7, None, None, None, None, 7]
        assert after.statuses == before.statuses
        assert after.event_times == before.event_times
        assert nobody.values["age"] == []
        assert reads(running) == {"online": 1, "history": 2, "refused": 0}


async def test_history_tells_of_the_past(start: Start, own_valkey: valkey.ValkeyServer) -> None:
    """At an earlier time the history knows the row of then, where the online store has a later one alone."""
    async with start(valkey_url=own_valkey.url()) as running:
        await prepare(running.client)
        entities = ENTITIES.slice(0, 1)
        online = await running.client.online("planes", entities, NOW - 600)
        await own_valkey.stop()
        history = await running.client.online("planes", entities, NOW - 600)

    assert online.values["age"] == [None]
    assert history.values["age"] == [6]


async def test_only_the_view_without_copies_comes_from_the_history(
    start: Start, valkey_url: str
) -> None:
    """While one view is being rebuilt the others are still read online."""
    # The copies are not repaired while this test looks.
    async with start(poll_seconds=60.0) as running:
        await prepare(running.client)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            view = await running.client.stub.GetFeatureView(pb.GetFeatureViewRequest(name="seats"))
            names = await client.keys(f"setpoint:*:{view.view.version}:*")
            await client.delete(*names)
        answer = await running.client.online("planes", ENTITIES)

    assert len(names) == 3
    assert answer.history_views == ["seats"]
    assert answer.values["seats"] == [150, 160, 100, 100, 100, 150]
    assert answer.values["age"] == [7, None, None, None, None, 7]


async def test_too_many_keys_for_the_history(start: Start, own_valkey: valkey.ValkeyServer) -> None:
    """A read that the history cannot bear is refused clearly, smaller ones are answered."""
    async with start(valkey_url=own_valkey.url(), standby_keys=6) as running:
        await prepare(running.client)
        await own_valkey.stop()
        error = await testing.error_of(running.client.online("planes", ENTITIES))
        fewer = await running.client.online("planes", ENTITIES.slice(0, 2))

        assert isinstance(error, errors.UnavailableError)
        assert error.reason is errors.Reason.ONLINE_STORE_UNAVAILABLE
        assert "at most 6 keys" in error.message
        assert fewer.values["age"] == [7, None]
        assert reads(running) == {"online": 0, "history": 1, "refused": 1}


async def test_neither_store_answers(
    start: Start, feature_url: str, free_port: Callable[[], int]
) -> None:
    """Without Valkey, and with a history that does not answer in time, a read fails clearly within its deadline."""
    async with start(valkey_url=f"redis://127.0.0.1:{free_port()}/0", standby_reads=1) as running:
        await prepare(running.client)
        connection = await asyncpg.connect(feature_url)
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK TABLE feature.history IN ACCESS EXCLUSIVE MODE")
        found = await asyncio.gather(
            *(
                testing.error_of(running.client.online("planes", ENTITIES, timeout=5))
                for _ in range(3)
            )
        )
        await lock.rollback()
        await connection.close()
        later = await running.client.online("planes", ENTITIES)

    assert {each.reason for each in found} == {errors.Reason.ONLINE_STORE_UNAVAILABLE}
    assert later.history_views == ["ages", "seats"]


async def test_frozen_store_leaves_time_for_the_history(
    start: Start, own_valkey: valkey.ValkeyServer
) -> None:
    """A Valkey that takes commands and never answers costs one read half of its deadline, and the others nothing."""
    async with start(valkey_url=own_valkey.url(), online_read_timeout_seconds=60.0) as running:
        await prepare(running.client)
        request = pb.GetOnlineFeaturesRequest(entities=proto.to_proto(ENTITIES))
        request.feature_set.name = "planes"
        await running.client.stub.GetOnlineFeatures(request, timeout=10)
        os.kill(own_valkey.child.pid, signal.SIGSTOP)
        try:
            # Without a share for the history, the whole time would be spent on waiting for Valkey.
            answer = await running.client.stub.GetOnlineFeatures(request, timeout=3)
        finally:
            os.kill(own_valkey.child.pid, signal.SIGCONT)

    assert list(answer.history_views) == ["ages", "seats"]


def test_breaker_lets_one_try_in_each_pause() -> None:
    """After failures one caller tries for all, until one succeeds."""
    now = 1.0
    made = breaker.Breaker(lambda: now)

    assert [made.may_try() for _ in range(3)] == [True] * 3
    assert not made.failed(began=0.5)
    assert made.may_try()
    assert made.failed(began=1.0)
    assert not made.failed(began=1.0)
    assert [made.may_try() for _ in range(3)] == [False] * 3
    now += breaker.PAUSE_SECONDS
    assert [made.may_try() for _ in range(3)] == [True, False, False]
    now = 10.0
    assert made.may_try()
    assert made.succeeded()
    assert not made.succeeded()
    assert [made.may_try() for _ in range(3)] == [True] * 3


def test_breaker_bears_one_moment_of_silence() -> None:
    """Calls that fail together are one failure; what began before it proves nothing more."""
    now = 5.0
    made = breaker.Breaker(lambda: now)

    assert [made.failed(began) for began in (4.0, 4.5, 4.9)] == [False] * 3
    now = 6.0
    assert not made.failed(began=4.8)
    assert made.may_try()
    assert not made.succeeded()
    assert not made.failed(began=5.5)
    assert made.failed(began=6.0)
    assert not made.may_try()


async def test_edges_of_time_are_answered(start: Start, valkey_url: str) -> None:
    """At the first and the last microsecond that there is the history answers as a join does, whatever the boundary."""
    first, last = -(1 << 63), (1 << 63) - 1
    async with start(poll_seconds=60) as running:
        await running.client.entity("plane", plane=DataType.INT64)
        for boundary in ("INCLUSIVE", "EXCLUSIVE"):
            name = boundary.lower()
            options = {"boundary": f"BOUNDARY_{boundary}"}
            await running.client.view(name, "plane", [("at", DataType.INT64)], **options)
            times = (DataType.TIMESTAMP, [first, first + 1, NOW])
            rows = {"plane": (DataType.INT64, [1] * 3), "at": (DataType.INT64, times[1])}
            rows |= {"event_time": times, "created_time": times}
            await running.client.write(name, Columns.from_dict(rows))
        references = [testing.reference(name, "at", name) for name in ("inclusive", "exclusive")]
        await running.client.feature_set("edges", references)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            await client.flushall()
        for time in (first, first + 1, last):
            plane = Columns.from_dict({"plane": (DataType.INT64, [1])})
            online = await running.client.online("edges", plane, time)
            asked = (DataType.TIMESTAMP, [time])
            spine = Columns.from_dict({"plane": (DataType.INT64, [1]), "event_time": asked})
            (offline,) = await running.client.historical("edges", spine)
            assert online.values == offline.values
            expected = {first: [None], first + 1: [first], last: [NOW]}
            assert online.values["exclusive"] == expected[time]
