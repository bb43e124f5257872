import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from setpoint_columns import Columns, DataType
from setpoint_devstack import ports, valkey
from setpoint_feature import testing
from setpoint_feature.service import catch_up
from setpoint_feature.testing import NOW, Client, Start
from setpoint_runtime import errors
from setpoint_testkit import clusters

PATIENCE_SECONDS = 40.0


async def prepare(client: Client) -> None:
    await client.entity("plane", plane=DataType.INT64)
    await client.view("ages", "plane", [("age", DataType.INT64)])
    await client.feature_set("planes", [testing.reference("ages", "age")])


async def write(client: Client, first: int, count: int, *, event: int = -10) -> bool:
    """Writes ages equal to numbers; returns whether the online copies followed."""
    rows = {
        "plane": (DataType.INT64, list(range(first, first + count))),
        "event_time": (DataType.TIMESTAMP, [NOW + event] * count),
        "created_time": (DataType.TIMESTAMP, [NOW + event] * count),
        "age": (DataType.INT64, list(range(first, first + count))),
    }
    return (await client.write("ages", Columns.from_dict(rows))).online_applied


async def ages(client: Client, count: int) -> list[int | None] | None:
    """Returns what the online copies hold, None while they cannot be read."""
    planes = Columns.from_dict({"plane": (DataType.INT64, list(range(count)))})
    answer = await client.online("planes", planes)
    return None if answer.history_views else answer.values["age"]


async def eventually(client: Client, expected: list[int | None]) -> None:
    """Waits until the online copies are read again and answer as expected."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while await ages(client, len(expected)) != expected:
        assert asyncio.get_running_loop().time() < deadline, "the online copies never caught up"
        await asyncio.sleep(0.05)


@pytest.fixture
async def own_valkey(tmp_path: pathlib.Path) -> AsyncIterator[valkey.ValkeyServer]:
    """A Valkey that this test may stop."""
    server = valkey.ValkeyServer(tmp_path, ports.free_port(), durable=False, with_password=False)
    await server.start()
    yield server
    await server.stop()


async def test_wiped_store_is_rebuilt(
    start: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a wipe reads come from the history, and say so, until all copies are back."""
    may_repair, repair = asyncio.Event(), catch_up.CatchUp._repair

    async def held(*arguments: Any) -> None:
        await may_repair.wait()
        await repair(*arguments)

    monkeypatch.setattr(catch_up.CatchUp, "_repair", held)
    async with start() as running:
        await prepare(running.client)
        await write(running.client, 0, 30)
        await write(running.client, 10, 30, event=-20)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            await client.flushall()
        planes = Columns.from_dict({"plane": (DataType.INT64, [1, 99])})
        answer = await running.client.online("planes", planes)

        assert answer.values["age"] == [1, None]
        assert answer.history_views == ["ages"]
        may_repair.set()
        await eventually(running.client, [*range(40), None])
        assert await write(running.client, 40, 1)
        assert await ages(running.client, 41) == list(range(41))


async def test_rebuild_pages_through_all_keys(
    start: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild larger than one page brings back the greatest row of every key."""
    monkeypatch.setattr(catch_up, "APPLY_ROWS", 7)
    async with start() as running:
        await prepare(running.client)
        for number in range(5):
            await write(running.client, number * 5, 10)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            await client.flushall()

        await eventually(running.client, [*range(30), None])


async def test_partial_loss_is_followed_up(
    start: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that came back from an older state gets exactly what it lacks."""
    monkeypatch.setattr(catch_up, "APPLY_ROWS", 7)
    async with start() as running:
        await prepare(running.client)
        await write(running.client, 0, 10)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            names = await client.keys("*")
            before: dict[Any, Any] = {name: await client.get(name) for name in names}
            await write(running.client, 5, 30, event=-5)
            await client.flushall()
            await client.mset(before)

        await eventually(running.client, [*range(35), None])


async def test_loss_is_made_up_for_while_rows_keep_coming(
    start: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that never rest do not keep what is missing from coming back, and end up with nothing behind."""
    monkeypatch.setattr(catch_up, "APPLY_ROWS", 7)
    repairs: list[object] = []
    repair = catch_up.CatchUp._repair

    async def counted(self: catch_up.CatchUp, *arguments: Any) -> None:
        repairs.append(arguments)
        await repair(self, *arguments)

    monkeypatch.setattr(catch_up.CatchUp, "_repair", counted)
    async with start() as running, asyncio.TaskGroup() as group:
        await prepare(running.client)
        await write(running.client, 0, 10)
        async with redis.asyncio.Redis.from_url(valkey_url) as client:
            before: dict[Any, Any] = {name: await client.get(name) for name in await client.keys()}
            await write(running.client, 5, 30, event=-5)
            await client.flushall()
            await client.mset(before)
            is_over = asyncio.Event()

            async def keep_writing(plane: int) -> None:
                while not is_over.is_set():
                    await write(running.client, plane, 1)

            for number in range(3):
                group.create_task(keep_writing(1_000 + number))
            try:
                await eventually(running.client, [*range(35), None])
                (mark,) = await client.keys("*watermark")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    before_rows, count = 0, -1
                    # Once all is there, each batch joins on to the one before it.
                    while len(repairs) != count:
                        before_rows, count = int(await client.get(mark) or 0), len(repairs)
                        while int(await client.get(mark) or 0) < before_rows + 200:
                            await asyncio.sleep(0.01)
            finally:
                is_over.set()


async def test_damaged_history_of_one_view_holds_up_no_other(
    start: Start, valkey_url: str, tmp_path: pathlib.Path
) -> None:
    """Copies that cannot be rebuilt, since their segment is gone, end neither the process nor other rebuilds."""
    compacting = {"recent_rows": 0, "move_rows": 1, "compact_seconds": 0.05}
    async with start(**compacting) as running:
        await running.client.entity("plane", plane=DataType.INT64)
        await running.client.view("damaged", "plane", [("age", DataType.INT64)])
        await running.client.view("ages", "plane", [("age", DataType.INT64)])
        await running.client.feature_set("planes", [testing.reference("ages", "age")])
        await running.client.feature_set("gone", [testing.reference("damaged", "age")])
        rows = {"plane": (DataType.INT64, [0]), "event_time": (DataType.TIMESTAMP, [NOW - 1])}
        await running.client.write("damaged", Columns.from_dict(rows))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := list((tmp_path / "segments").rglob("*.parquet"))):
                await asyncio.sleep(0.02)
        await write(running.client, 0, 3)
    for each in found:
        each.unlink()
    async with redis.asyncio.Redis.from_url(valkey_url) as client:
        await client.flushall()
    async with start() as running:
        await eventually(running.client, [0, 1, 2, None])
        planes = Columns.from_dict({"plane": (DataType.INT64, [0])})
        error = await testing.error_of(running.client.online("gone", planes))

        assert error.reason is errors.Reason.SEGMENT_DAMAGED


async def test_store_down_then_back(start: Start, own_valkey: valkey.ValkeyServer) -> None:
    """Without the store writes are durable and say so, reads come from the history; later all is there."""
    async with start(valkey_url=own_valkey.url()) as running:
        await prepare(running.client)
        assert await write(running.client, 0, 5)
        await own_valkey.stop()
        applied = await write(running.client, 5, 5)
        planes = Columns.from_dict({"plane": (DataType.INT64, [1, 7])})
        answer = await running.client.online("planes", planes)
        spine = Columns.from_dict(
            {"plane": (DataType.INT64, [7]), "event_time": (DataType.TIMESTAMP, [NOW])}
        )
        (offline,) = await running.client.historical("planes", spine)
        await own_valkey.start()

        assert not applied
        assert answer.values["age"] == [1, 7]
        assert answer.history_views == ["ages"]
        assert offline.values["age"] == [7]
        await eventually(running.client, [*range(10), None])


async def test_store_down_at_the_start(start: Start, own_valkey: valkey.ValkeyServer) -> None:
    """The service starts without the store, and its first rows reach it later."""
    await own_valkey.stop()
    async with start(valkey_url=own_valkey.url()) as running:
        await prepare(running.client)
        assert not await write(running.client, 0, 5)
        await own_valkey.start()

        await eventually(running.client, [*range(5), None])
        batch_is_there = await write(running.client, 0, 5)
        assert batch_is_there


async def test_replay_tells_whether_copies_are_there(
    start: Start, own_valkey: valkey.ValkeyServer
) -> None:
    """A repeated batch says whether its copies are online by now."""
    batch_id = testing.request_id()
    rows = Columns.from_dict(
        {
            "plane": (DataType.INT64, [0]),
            "event_time": (DataType.TIMESTAMP, [NOW]),
            "age": (DataType.INT64, [0]),
        }
    )
    async with start(valkey_url=own_valkey.url()) as running:
        await prepare(running.client)
        await own_valkey.stop()
        first = await running.client.write("ages", rows, batch_id)
        second = await running.client.write("ages", rows, batch_id)
        await own_valkey.start()
        await eventually(running.client, [0, None])
        third = await running.client.write("ages", rows, batch_id)

    applied = [each.online_applied for each in (first, second, third)]
    assert applied == [False, False, True]


async def test_other_replica_is_seen(start: Start) -> None:
    """What one replica writes is served by another."""
    async with start() as one, start() as other:
        await prepare(one.client)
        await write(one.client, 0, 3)

        await eventually(other.client, [0, 1, 2, None])


async def test_cluster_loses_a_server_and_is_rebuilt(
    start: Start, valkey_cluster: clusters.ValkeyCluster
) -> None:
    """Without one server of a cluster reads come from the history; once it is back its copies are rebuilt."""
    async with start(valkey_url=valkey_cluster.url, online_parts=5) as running:
        await prepare(running.client)
        assert await write(running.client, 0, 40)
        assert await ages(running.client, 41) == [*range(40), None]
        server = valkey_cluster.servers[0]
        await server.stop()
        try:
            applied = await write(running.client, 40, 1)
            planes = Columns.from_dict({"plane": (DataType.INT64, list(range(42)))})
            answer = await running.client.online("planes", planes)
        finally:
            await server.start()

        assert not applied
        assert answer.values["age"] == [*range(41), None]
        assert answer.history_views == ["ages"]
        await eventually(running.client, [*range(41), None])
        assert await write(running.client, 41, 1)
    await asyncio.to_thread(valkey_cluster.wait)
