import asyncio
import itertools
import os
import pathlib
import random
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from setpoint_devstack import ports as free_ports
from setpoint_devstack import valkey as valkey_server
from setpoint_feature import ports
from setpoint_feature.adapters import valkey_client, valkey_store
from setpoint_feature.domain import online
from setpoint_runtime import errors

VERSION = "0123456789abcdef"
LOW, HIGH = -(1 << 63), (1 << 63) - 1
Store = valkey_store.ValkeyStore


def make(url: str, store_id: str = "test") -> Store:
    return Store(valkey_client.connect(url, timeout_seconds=5), store_id, 4)


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    """A store in an empty Valkey."""
    made = make(valkey_url)
    yield made
    await made.close()


def value(event: int, created: int = 0, sequence: int = 1) -> bytes:
    return online.pack_value(event, created, sequence, b"row")


async def stored(store: Store, *keys: bytes) -> list[bytes | None]:
    (copies,) = await store.read([ports.Lookup(VERSION, keys)])
    return copies.values


async def test_apply_keeps_the_greatest_of_any_numbers(store: Store) -> None:
    """The order is exact for all 64-bit numbers and for bytes that end strings or collate oddly."""
    numbers = [LOW, LOW + 1, -(1 << 53) - 1, -(1 << 32), -256, -1, 0, 1, 127, 128, 255, 256]
    numbers += [(1 << 31), (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 53) + 1, HIGH - 1, HIGH]
    for part in range(3):
        triples = [tuple(number if each == part else 0 for each in range(3)) for number in numbers]
        for number, (first, second) in enumerate(itertools.product(triples, repeat=2)):
            key = f"{part} {number}".encode()
            await store.apply(VERSION, {key: value(*first)}, -1, -1)
            replaced = await store.apply(VERSION, {key: value(*second)}, -1, -1)
            assert replaced == (second > first), (first, second)
            assert await stored(store, key) == [value(*max(first, second))]


async def test_apply_in_any_order_ends_the_same(store: Store) -> None:
    """Writers that race, and repeat themselves, leave the greatest value of each key."""
    seed = random.Random(2)
    values = [
        (seed.choice([b"a", b"b"]), seed.randrange(4), seed.randrange(3), n) for n in range(200)
    ]
    await asyncio.gather(
        *(store.apply(VERSION, {key: value(*rest)}, -1, -1) for key, *rest in values * 2)
    )

    expected = [max(tuple(rest) for key, *rest in values if key == each) for each in (b"a", b"b")]
    assert await stored(store, b"a", b"b") == [value(*each) for each in expected]


async def test_apply_moves_the_watermark_without_gaps(store: Store) -> None:
    """The watermark follows only what joins on, so it never claims what was not applied."""
    steps = [(5, 9), (0, 5), (6, 9), (5, 9), (0, 2), (9, 9)]
    seen = []
    for after, upto in steps:
        await store.apply(VERSION, {}, after, upto)
        seen += await store.watermarks([VERSION])

    assert seen == [None, 5, 5, 9, 9, 9]


async def test_apply_many_values(store: Store) -> None:
    """Values beyond one script call are all applied, and the watermark comes with the last."""
    count = 3 * valkey_store.CHUNK + 1
    values = {str(number).encode(): value(number) for number in range(count)}

    first = await store.apply(VERSION, values, 0, count)
    second = await store.apply(VERSION, values, 0, count)

    assert (first, second) == (count, 0)
    assert await stored(store, b"0", str(count - 1).encode()) == [value(0), value(count - 1)]
    assert await store.watermarks([VERSION]) == [count]


async def test_fill_from_the_beginning(store: Store) -> None:
    """Copies that are being filled are not the whole; at the end they are, whoever else filled them too."""
    mine = await store.begin(VERSION)
    theirs = await store.begin(VERSION)
    await store.apply(VERSION, {b"a": value(1)}, -1, -1)
    await store.apply(VERSION, {b"b": value(1)}, 7, 9)
    unfinished = await store.watermarks([VERSION])
    await store.finish(VERSION, mine, 9)
    await store.apply(VERSION, {}, 9, 12)
    with pytest.raises(errors.UnavailableError):
        await store.finish(VERSION, theirs, 13)

    assert mine == theirs
    assert unfinished == [None]
    assert (await store.read([ports.Lookup(VERSION, [b"a"])]))[0].mark == 12


async def test_fill_that_was_wiped_half_way(store: Store, valkey_url: str) -> None:
    """A store that lost its memory while it was filled is not taken for full, even if it was filled on."""
    begun = await store.begin(VERSION)
    await store.apply(VERSION, {b"a": value(1)}, -1, -1)
    async with redis.asyncio.Redis.from_url(valkey_url) as client:
        await client.flushall()
    other = await store.begin(VERSION)
    await store.apply(VERSION, {b"b": value(1)}, -1, -1)

    with pytest.raises(errors.UnavailableError, match="lost"):
        await store.finish(VERSION, begun, 9)
    assert await store.watermarks([VERSION]) == [None]
    await store.finish(VERSION, other, 9)
    assert await store.watermarks([VERSION]) == [9]


async def test_first_batch_that_was_wiped_half_way(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first batch of a view claims nothing of which a part is gone."""
    monkeypatch.setattr(valkey_store, "CHUNK", 2)
    run = store._run

    async def wipe(*arguments: Any) -> int:
        if arguments[3]:
            async with redis.asyncio.Redis.from_url(valkey_url) as client:
                await client.flushall()
        return await run(*arguments)

    monkeypatch.setattr(store, "_run", wipe)
    await store.apply(VERSION, {key: value(1) for key in (b"a", b"b", b"c")}, 0, 3)

    assert await store.watermarks([VERSION]) == [None]


async def test_fill_across_a_restart(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started again may have kept the token, or the watermark, and lost what came after it."""
    monkeypatch.setattr(valkey_store, "CHUNK", 2)
    server = valkey_server.ValkeyServer(tmp_path, free_ports.free_port(), durable=True)
    await server.start()
    store = make(server.url())
    begun = await store.begin(VERSION)
    await store.apply(VERSION, {b"a": value(1)}, -1, -1)
    await server.stop()
    await server.start()
    with pytest.raises(errors.UnavailableError, match="lost"):
        await store.finish(VERSION, begun, 3)
    again = await store.begin(VERSION)
    await store.finish(VERSION, again, 3)
    run = store._run

    async def restart(*arguments: Any) -> int:
        if arguments[3]:
            await server.stop()
            await server.start()
        return await run(*arguments)

    values = {key: value(2) for key in (b"a", b"b", b"c")}
    with monkeypatch.context() as patch:
        patch.setattr(store, "_run", restart)
        await store.apply(VERSION, values, 3, 6)
    lost = await store.watermarks([VERSION])
    await store.apply(VERSION, values, 3, 6)
    kept = await store.watermarks([VERSION])
    await store.close()
    await server.stop()

    assert [each.token for each in begun] == [each.token for each in again]
    assert (lost, kept) == ([3], [6])


async def test_apply_after_scripts_were_forgotten(store: Store, valkey_url: str) -> None:
    """A server that lost its scripts gets them again without anybody noticing."""
    await store.apply(VERSION, {b"a": value(1)}, 0, 1)
    async with redis.asyncio.Redis.from_url(valkey_url) as client:
        await client.script_flush()

    assert await store.apply(VERSION, {b"a": value(2)}, 1, 2) == 1


async def test_read_keeps_stores_and_versions_apart(store: Store, valkey_url: str) -> None:
    """Copies of other histories and other versions are other keys."""
    await store.apply(VERSION, {b"a": value(1)}, 0, 1)
    other = make(valkey_url, "other")

    found = await store.read(
        [
            ports.Lookup(VERSION, [b"a", b"b"]),
            ports.Lookup("f" * 16, [b"a"]),
            ports.Lookup(VERSION, []),
        ]
    )

    assert [each.mark for each in found] == [1, None, 1]
    assert [each.values for each in found] == [[value(1), None], [None], []]
    assert await other.read([ports.Lookup(VERSION, [b"a"])]) == [ports.Copies(None, [None])]
    await other.close()


async def test_read_nothing(store: Store) -> None:
    """Asking for nothing needs no round trip."""
    assert await store.read([]) == []
    assert await store.watermarks([]) == []


async def test_calls_without_a_server() -> None:
    """A store that cannot be reached is a typed, quick error."""
    made = make(f"redis://127.0.0.1:{free_ports.free_port()}/0")

    for call in (made.read([ports.Lookup(VERSION, [b"a"])]), made.apply(VERSION, {}, 0, 1)):
        with pytest.raises(errors.UnavailableError) as caught:
            await call
        assert caught.value.reason is errors.Reason.ONLINE_STORE_UNAVAILABLE
    await made.close()


async def test_read_given_up_does_not_mix_up_answers(store: Store) -> None:
    """A read that is cancelled half way never leaves its answer to the next one."""
    values = {str(number).encode(): value(number) for number in range(50)}
    await store.apply(VERSION, values, 0, 50)
    seed = random.Random(4)

    async def read(number: int) -> None:
        key = str(number % 50).encode()
        try:
            async with asyncio.timeout(seed.choice([0.0003, 0.001, 5])):
                assert await stored(store, key) == [value(number % 50)]
        except TimeoutError:
            pass

    for start in range(0, 600, 20):
        await asyncio.gather(*(read(start + number) for number in range(20)))


async def test_read_that_is_cancelled_ends(store: Store) -> None:
    """A cancellation is never swallowed, at whatever point of a read it comes."""
    await store.watermarks([VERSION])
    for turns in list(range(12)) * 10:
        reading = asyncio.create_task(_read_for_ever(store))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        done, _ = await asyncio.wait([reading], timeout=5)
        assert done
        assert reading.cancelled()


async def _read_for_ever(store: Store) -> None:
    while True:
        await store.watermarks([VERSION])


async def test_call_to_a_frozen_server_ends(valkey: valkey_server.ValkeyServer) -> None:
    """A server that takes the command and never answers costs the time limit, not more."""
    made = Store(valkey_client.connect(valkey.url(), timeout_seconds=0.2), "test", 1)
    await made.watermarks([VERSION])
    os.kill(valkey.child.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await made.watermarks([VERSION])
        assert time.monotonic() - started < 5
    finally:
        os.kill(valkey.child.pid, signal.SIGCONT)
    assert await made.watermarks([VERSION]) == [None]
    await made.close()
