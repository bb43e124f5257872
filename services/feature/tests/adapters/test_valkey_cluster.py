import asyncio
from collections.abc import AsyncIterator

import pytest

from setpoint_devstack import valkey
from setpoint_feature import ports
from setpoint_feature.adapters import valkey_client, valkey_store
from setpoint_feature.domain import online
from setpoint_runtime import errors
from setpoint_testkit import clusters

VERSION = "0123456789abcdef"
PARTS = 6
KEYS = [f"key {number}".encode() for number in range(200)]


@pytest.fixture
async def store(valkey_cluster: clusters.ValkeyCluster) -> AsyncIterator[valkey_store.ValkeyStore]:
    """A store in an empty cluster."""
    made = make(valkey_cluster.url)
    yield made
    await made.close()


def make(url: str) -> valkey_store.ValkeyStore:
    client = valkey_client.connect(url, timeout_seconds=5)
    return valkey_store.ValkeyStore(client, "test", PARTS)


def value(event: int) -> bytes:
    return online.pack_value(event, 0, 1, b"row")


def values(event: int) -> dict[bytes, bytes]:
    return {key: value(event + place) for place, key in enumerate(KEYS)}


async def found(
    store: valkey_store.ValkeyStore, *keys: bytes
) -> tuple[int | None, list[bytes | None]]:
    (copies,) = await store.read([ports.Lookup(VERSION, keys)])
    return copies.mark, copies.values


def owners(cluster: clusters.ValkeyCluster) -> list[int]:
    """Returns how many keys each server holds."""
    counts = []
    for server in cluster.servers:
        with cluster.client(server) as client:
            counts.append(client.dbsize())
    return counts


async def test_apply_and_read_over_all_servers(
    store: valkey_store.ValkeyStore, valkey_cluster: clusters.ValkeyCluster
) -> None:
    """Copies lie on several servers, are compared there, and are read in the order asked for."""
    assert await store.watermarks([VERSION]) == [None]
    first = await store.apply(VERSION, values(10), 0, len(KEYS))
    second = await store.apply(VERSION, {KEYS[0]: value(5), KEYS[1]: value(99)}, len(KEYS), 300)

    shuffled = [KEYS[7], b"unknown", KEYS[1], KEYS[0], KEYS[7]]
    assert (first, second) == (len(KEYS), 1)
    assert await found(store, *shuffled) == (
        300,
        [value(17), None, value(99), value(10), value(17)],
    )
    assert await store.watermarks([VERSION, "f" * 16]) == [300, None]
    assert sum(owners(valkey_cluster)) == len(KEYS) + PARTS
    assert sum(count > 0 for count in owners(valkey_cluster)) > 1


async def test_read_many_views_at_once(store: valkey_store.ValkeyStore) -> None:
    """Views and look-ups without keys keep their places."""
    await store.apply(VERSION, values(0), 0, 200)
    copies = await store.read(
        [
            ports.Lookup(VERSION, KEYS[:3]),
            ports.Lookup("f" * 16, KEYS[:2]),
            ports.Lookup(VERSION, []),
        ]
    )

    assert [each.mark for each in copies] == [200, None, 0]
    assert [each.values for each in copies] == [
        [value(0), value(1), value(2)],
        [None, None],
        [],
    ]


async def test_watermark_is_that_of_the_part_that_lags(store: valkey_store.ValkeyStore) -> None:
    """A part that missed a batch holds back its view; what begins below the others' marks closes the gap."""
    await store.apply(VERSION, {}, 0, 10)
    part = store._parts(VERSION)[2]
    await store._run(part, [], "10", "20")

    lagging = await store.watermarks([VERSION])
    await store.apply(VERSION, {}, 10, 15)
    between = await store.watermarks([VERSION])
    await store.apply(VERSION, {}, 10, 30)
    assert (lagging, between) == ([10], [15])
    assert await store.watermarks([VERSION]) == [30]


async def test_wiped_part_is_not_taken_for_the_whole(
    store: valkey_store.ValkeyStore, valkey_cluster: clusters.ValkeyCluster
) -> None:
    """When one server loses its memory, what it held is known to be unknown, and the rest is served."""
    await store.apply(VERSION, values(0), 0, 200)
    before = owners(valkey_cluster)
    server = valkey_cluster.servers[max(range(3), key=before.__getitem__)]
    with valkey_cluster.client(server) as client:
        client.flushall()

    marks = [(await found(store, key))[0] for key in KEYS]
    assert await store.watermarks([VERSION]) == [None]
    assert set(marks) == {None, 200}
    for key, mark in zip(KEYS, marks, strict=True):
        assert ((await found(store, key))[1] == [None]) == (mark is None)


async def test_moved_slots_are_followed(
    store: valkey_store.ValkeyStore, valkey_cluster: clusters.ValkeyCluster
) -> None:
    """A part that moves to another server while it is used is found there, also half way."""
    await store.apply(VERSION, values(0), 0, 200)
    slot = store._parts(VERSION)[0].slot
    keys = [key for key in KEYS if store._part_of(key) == 0]
    owner, other = await asyncio.to_thread(_owner_and_other, valkey_cluster, slot)
    with valkey_cluster.client(owner) as source, valkey_cluster.client(other) as target:
        source_id = source.execute_command("CLUSTER", "MYID")
        target_id = target.execute_command("CLUSTER", "MYID")
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        names = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        try:
            for name in names:
                source.migrate("127.0.0.1", other.port, name, 0, 5000)
            # The slot is still the source's; it sends whoever asks for its keys on.
            asked = await found(store, keys[0])
        finally:
            for client in (target, source):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        moved = await store.apply(VERSION, {keys[0]: value(1_000)}, 200, 201)
        afterwards = await found(store, *keys[:2])

    assert asked[0] == 200
    assert asked[1] != [None]
    assert moved == 1
    assert (afterwards[0], afterwards[1][0]) == (201, value(1_000))


def _owner_and_other(
    cluster: clusters.ValkeyCluster, slot: int
) -> tuple[valkey.ValkeyServer, valkey.ValkeyServer]:
    def holds(server: valkey.ValkeyServer) -> bool:
        with cluster.client(server) as client:
            return bool(client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))

    owner = next(server for server in cluster.servers if holds(server))
    return owner, next(server for server in cluster.servers if server is not owner)


async def test_server_down_is_a_typed_error(
    store: valkey_store.ValkeyStore, valkey_cluster: clusters.ValkeyCluster
) -> None:
    """Without one server its parts are unavailable, the others answer, and all is well once it is back."""
    await store.apply(VERSION, values(0), 0, 200)
    server = valkey_cluster.servers[1]
    await server.stop()
    outcomes: list[object] = []
    try:
        for key in KEYS:
            try:
                outcomes.append((await found(store, key))[0])
            except errors.UnavailableError as error:
                outcomes.append(error.reason)
        with pytest.raises(errors.UnavailableError):
            await store.watermarks([VERSION])
    finally:
        await server.start()
        await asyncio.to_thread(valkey_cluster.wait)

    assert set(outcomes) == {200, errors.Reason.ONLINE_STORE_UNAVAILABLE}
    # It kept nothing on disk, so the watermark says that its parts are missing.
    assert await store.watermarks([VERSION]) == [None]
    await store.apply(VERSION, values(0), 0, 200)
    assert await store.watermarks([VERSION]) == [200]
    assert await found(store, KEYS[0]) == (200, [value(0)])


async def test_no_server_at_all(valkey_cluster: clusters.ValkeyCluster) -> None:
    """A cluster of which nobody answers is a typed, quick error."""
    store = make("redis+cluster://127.0.0.1:1,127.0.0.1:2")

    with pytest.raises(errors.UnavailableError) as caught:
        await found(store, KEYS[0])

    assert caught.value.reason is errors.Reason.ONLINE_STORE_UNAVAILABLE
    await store.close()
