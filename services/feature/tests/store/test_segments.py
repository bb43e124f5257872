import asyncio
import itertools
import pathlib
import random
import signal
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from setpoint_columns import DataType
from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import batch, definitions, history, plan, run, segments
from setpoint_feature.service import compaction
from setpoint_feature.store import (
    history_store,
    segment_cache,
    segment_folder,
    segment_store,
    tables,
)
from setpoint_feature.testing import NOW
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

SPLIT, PLAIN = 1, 2
"""Views with the same rows: one is compacted, the other stays in the database."""
KEYS = [f"key {number}".encode() * (1 + number % 3) for number in range(7)]
EVERYTHING = 1 << 62
Listed = list[tuple[Any, ...]]


class Place:
    """A store over a folder, and a compactor that is run by hand."""

    def __init__(self, url: str, folder: pathlib.Path, dtype: DataType, retention: int = 0) -> None:
        self.engine = engines.create_engine(
            url, application_name="test", schema=tables.SCHEMA, statement_seconds=30
        )
        self.folder = segment_folder.SegmentFolder(str(folder), "store")
        self.files = folder / "store"
        self.dtype = dtype
        self.clock = clocks.ManualClock(NOW)
        self.retention = retention
        self.reopen()

    def reopen(self, **changes: Any) -> None:
        """Forgets what is ready for reading, as a new process does."""
        self.cache = segment_cache.SegmentCache(self.folder, 1 << 30)
        self.segments = segment_store.SegmentStore(self.engine, self.folder, self.cache)
        self.store = history_store.SQLHistoryStore(self.engine, self.engine, self.cache)
        for name, value in changes.items():
            setattr(self, name, value)

    async def write(self, rows: batch.Batch) -> None:
        for view in (SPLIT, PLAIN):
            await self.store.write(view, [ports.Entry(ids.uuid7(), b"", rows)])

    async def compactor(self, limits: segments.Limits) -> compaction.Compactor:
        fields = (definitions.Field("value", self.dtype),)
        view = definitions.FeatureView("v", "e", fields, retention=self.retention)
        catalog = types.SimpleNamespace(
            compiled_views=lambda: [plan.CompiledView(view, SPLIT)], revision=0
        )
        known: Any = types.SimpleNamespace(
            catalog=catalog, last_sequences=await self.store.last_sequences()
        )
        return compaction.Compactor(self.segments, known, self.clock, limits, (1.0, 0.0))

    async def compact(self, limits: segments.Limits) -> compaction.Counts:
        compactor = await self.compactor(limits)
        await compactor.tick()
        return compactor.counts


@pytest.fixture
async def place(feature_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Place]:
    """A history of texts, whose packed rows differ in length."""
    made = Place(feature_url, tmp_path / "segments", DataType.STRING)
    yield made
    await made.engine.dispose()


def rows_of(seed: random.Random, count: int, width: int = 0) -> batch.Batch:
    """Returns rows with ties, late arrivals and corrections; a width makes them equally long."""
    events = [NOW + seed.randrange(-9, 3) for _ in range(count)]
    return batch.Batch(
        [seed.choice(KEYS) for _ in range(count)],
        np.array(events, np.int64),
        np.array([event + seed.choice([0, 0, 1, 4, -2]) for event in events], np.int64),
        [
            seed.randbytes(width) if width else seed.randbytes(seed.randrange(1, 9))
            for _ in range(count)
        ],
    )


def listed(rows: history.StoredRows, keys: list[Any]) -> Listed:
    return [
        (
            keys[index],
            int(rows.event_times[index]),
            int(rows.created_times[index]),
            int(rows.sequences[index]),
            rows.row(index),
        )
        for index in range(len(rows))
    ]


def named(found: history.NamedRows) -> Listed:
    return listed(found.rows, found.keys)


def numbered(found: history.NumberedRows) -> Listed:
    return sorted(listed(found.rows, found.keys.tolist()))


async def everything(store: ports.HistoryStore, view: int, seed: random.Random) -> dict[str, Any]:
    """Returns what all kinds of reads answer."""
    last = (await store.last_sequences())[view]
    after, upto = sorted((seed.randrange(last + 1), seed.randrange(last + 1)))
    start, end = sorted((NOW + seed.randrange(-10, 4), NOW + seed.randrange(-10, 4)))
    limit = seed.randrange(1, 9)
    keys = seed.sample([*KEYS, b"unknown"], seed.randrange(1, 7))
    scan = ports.Scan(start, end + 1, NOW + seed.randrange(-5, 6), upto)
    flags = {"exclusive": seed.random() < 0.5, "arrival": seed.random() < 0.5}
    window = ports.Window(start, end, upto, after=seed.choice([0, after]), **flags)
    greatest = []
    key = b""
    pairs = {(seed.randrange(len(keys)), NOW + seed.randrange(-10, 4)) for _ in range(6)}
    wanted = np.array(sorted(pairs), np.int64).T
    versions = numbered(await store.read_versions(view, keys, (wanted[0], wanted[1]), upto))
    while page := named(await store.read_greatest(view, key, limit)):
        greatest += page
        key = page[-1][0]
    return {
        "sequences": named(await store.read_sequences(view, after, upto)),
        "all": named(await store.read_sequences(view, 0, last)),
        "greatest": greatest,
        "keys": numbered(await store.read_keys(view, keys, upto)),
        "versions": [row for row in versions if row[:2] in pairs],
        "scan": [row async for page in store.scan(view, scan, limit) for row in named(page)],
        "window": best(numbered(await store.read_window(view, keys, window)), window),
    }


def best(rows: Listed, window: ports.Window) -> Listed:
    """Returns what a window answers at each of its times; which rows it holds beyond is its own matter."""
    found = []
    for time in range(window.first, window.last + 1):
        known = [
            row
            for row in rows
            if (row[1] < time if window.exclusive else row[1] <= time)
            and (row[2] <= time or not window.arrival)
        ]
        winners: dict[int, tuple[Any, ...]] = {}
        for row in known:
            winners[row[0]] = max(winners.get(row[0], row), row, key=lambda each: each[1:4])
        found += [(time, *winners[key]) for key in sorted(winners)]
    return found


@pytest.mark.parametrize("width", [0, 9])
async def test_reads_equal_those_of_the_database_alone(
    feature_url: str, tmp_path: pathlib.Path, width: int
) -> None:
    """However rows are cut into segments and merged, every read answers what one table answers."""
    dtype = DataType.FLOAT64 if width else DataType.STRING
    place = Place(feature_url, tmp_path / "segments", dtype)
    seed = random.Random(width)
    for turn in range(14):
        await place.write(rows_of(seed, seed.randrange(1, 40), width))
        limits = segments.Limits(seed.randrange(9), seed.randrange(1, 30), 60, 1 << 20)
        counts = await place.compact(limits)
        assert counts.failures == 0
        if turn % 4 == 0:
            place.reopen()
        questions = seed.random()
        split = await everything(place.store, SPLIT, random.Random(questions))
        plain = await everything(place.store, PLAIN, random.Random(questions))
        assert split == plain
    counts = await place.compact(segments.Limits(0, 1, 60, 1 << 20))
    placed = counts.places.popitem()[1]
    assert placed.recent_rows == 0
    assert placed.segments > 1
    assert len(list(place.files.rglob("*.parquet"))) == placed.segments
    await place.engine.dispose()


async def test_opened_runs_and_the_rest_are_the_whole(place: Place) -> None:
    """What a join opens, and what it reads beside it, together hold each row once."""
    seed = random.Random(5)
    for _ in range(6):
        await place.write(rows_of(seed, 20))
        await place.compact(segments.Limits(3, 10, 40, 1 << 20))
    settled = []
    for upto in (0, 15, 77, 120):
        opened = await place.store.open(SPLIT, upto)
        rest = await place.store.read_sequences(SPLIT, opened.upto, upto)
        found = sorted(itertools.chain(*(each.sequences.tolist() for each in opened.runs)))
        found += rest.rows.sequences.tolist()
        assert found == list(range(1, upto + 1))
        settled.append(opened.upto)
    assert settled[0] == 0 < settled[-1]


async def test_one_compacts_at_a_time(place: Place) -> None:
    """While one replica has the turn another does nothing, and goes on afterwards."""
    await place.write(rows_of(random.Random(1), 30))
    limits = segments.Limits(0, 1, 100, 1 << 20)
    async with place.segments.turn() as mine:
        assert mine is not None
        idle = await place.compact(limits)
    busy = await place.compact(limits)

    assert (idle.moves, busy.moves) == (0, 1)


async def test_reader_goes_on_with_a_replaced_segment(place: Place) -> None:
    """Files of replaced segments stay for their time of grace, then they go, and reads find the others."""
    seed = random.Random(2)
    single = segments.Limits(0, 1, 25, 1 << 20)
    for _ in range(4):
        await place.write(rows_of(seed, 20))
        await place.compact(single)
    before = named(await place.store.read_sequences(SPLIT, 0, 80))
    listed_before = set(place.files.rglob("*.parquet"))
    compactor = await place.compactor(segments.Limits(0, 1, 200, 1 << 20))
    compactor._grace = 1_000
    place.clock.set(2**60)  # Files are dated by the system's own clock.
    await compactor.tick()
    kept = set(place.files.rglob("*.parquet"))
    place.clock.advance(1_001)
    place.reopen()
    await place.compact(segments.Limits(0, 1, 200, 1 << 20))

    assert len(listed_before) == 4
    assert listed_before < kept
    assert len(set(place.files.rglob("*.parquet"))) == 1
    assert named(await place.store.read_sequences(SPLIT, 0, 80)) == before


async def test_damaged_segment_is_named(place: Place) -> None:
    """A file that lost or changed bytes is an error with its name, never fewer rows."""
    await place.write(rows_of(random.Random(3), 30))
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    (path,) = place.files.rglob("*.parquet")
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:40] + b"\0" + content[41:], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        place.reopen()
        with pytest.raises(errors.DataLossError) as raised:
            await place.store.read_sequences(SPLIT, 0, 30)
        assert raised.value.reason is errors.Reason.SEGMENT_DAMAGED
        assert raised.value.metadata["segment"] == str(path.relative_to(place.files))
    path.write_bytes(content)
    assert len((await place.store.read_sequences(SPLIT, 0, 30)).keys) == 30


async def test_folder_out_of_reach_is_unavailable(place: Place) -> None:
    """Without the folder reads say so, and rows that were to move stay in the database."""
    await place.write(rows_of(random.Random(4), 30))
    limits = segments.Limits(0, 1, 100, 1 << 20)
    await place.compact(limits)
    place.files.rename(place.files.with_name("elsewhere"))
    place.reopen()
    with pytest.raises(errors.UnavailableError) as raised:
        await place.store.read_sequences(SPLIT, 0, 30)
    assert raised.value.reason is errors.Reason.SEGMENT_FOLDER_UNAVAILABLE
    place.files.write_bytes(b"no folder")
    await place.write(rows_of(random.Random(5), 30))
    failed = await place.compact(limits)
    place.files.unlink()
    place.files.with_name("elsewhere").rename(place.files)

    assert (failed.failures, failed.moves) == (1, 0)
    assert len((await place.store.read_sequences(SPLIT, 0, 60)).keys) == 60
    assert (await place.compact(limits)).moves == 1


async def test_full_folder_leaves_rows_and_says_so_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk without room is told once, counted each time, and leaves neither rows behind nor pieces."""
    await place.write(rows_of(random.Random(6), 30))
    limits = segments.Limits(0, 1, 100, 1 << 20)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place.folder, "rename", full)
        compactor = await place.compactor(limits)
        await compactor.tick()
        await compactor.tick()
    assert compactor.counts.failures == 2
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]
    assert not list(place.files.rglob("*.p*"))
    await compactor.tick()
    assert compactor.counts.moved_rows == 30


async def test_object_store_holds_segments(feature_url: str, tmp_path: pathlib.Path) -> None:
    """A folder that is no local disk is written, read, listed and cleaned in the same way."""
    place = Place(feature_url, tmp_path, DataType.STRING)
    place.folder = segment_folder.SegmentFolder(f"memory://{tmp_path.name}", "store")
    place.reopen()
    seed = random.Random(7)
    for _ in range(4):
        await place.write(rows_of(seed, 10))
        await place.compact(segments.Limits(0, 1, 15, 1 << 20))
    assert len(await place.segments.files()) == 4
    place.clock.set(2**60)
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    place.reopen()

    assert len(await place.segments.files()) == 1
    split = await everything(place.store, SPLIT, random.Random(1))
    assert split == await everything(place.store, PLAIN, random.Random(1))
    await place.engine.dispose()


async def test_many_open_one_segment_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that want the same segment at the same time make it ready once."""
    await place.write(rows_of(random.Random(8), 30))
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    place.reopen()
    loads: list[segments.Segment] = []
    load = place.cache._load

    def counted(segment: segments.Segment) -> run.Run:
        loads.append(segment)
        return load(segment)

    monkeypatch.setattr(place.cache, "_load", counted)

    await asyncio.gather(*(place.store.open(SPLIT, 30) for _ in range(5)))

    assert len(loads) == 1


async def test_replaced_segments_take_no_room(place: Place) -> None:
    """What merging made ready for reading is let go of, however long the process lives."""
    for number in range(4):
        await place.write(rows_of(random.Random(number), 10))
        await place.compact(segments.Limits(0, 1, 10, 1 << 20))
    counts = await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    assert counts.merges
    assert place.cache.bytes == 0

    live = (await place.store.open(SPLIT, 40)).runs

    assert sum(map(len, live)) == 40
    assert place.cache.bytes == sum(len(each.mapping) for each in place.cache._opened.values()) > 0


async def test_segment_loaded_twice_is_counted_once(place: Place) -> None:
    """Somebody who gives up while a segment is being made ready does not shrink the room for others."""
    await place.write(rows_of(random.Random(8), 30))
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    async with place.segments.turn() as turn:
        assert turn is not None
        (segment,) = (await turn.live())[SPLIT]

    # What a thread does goes on when the one that waited for it is cancelled.
    place.cache._load(segment)
    place.cache._load(segment)

    (opened,) = place.cache._opened.values()
    assert place.cache.bytes == len(opened.mapping)


async def test_turn_ends_with_its_connection(place: Place) -> None:
    """Whoever lost the lock changes nothing more; a new connection is not taken for the old one."""
    await place.write(rows_of(random.Random(8), 30))
    await place.compact(segments.Limits(0, 1, 100, 1 << 20))
    with pytest.raises(errors.UnavailableError):
        async with place.segments.turn() as turn:
            assert turn is not None
            # As after the server, or the network, ended it.
            await turn._connection.invalidate()
            async with place.segments.turn() as theirs:
                assert theirs is not None
                with pytest.raises(errors.UnavailableError):
                    await turn.live()


async def test_retention_changes_no_answer_within_it(place: Place) -> None:
    """Rows go, and yet every time within the retention, and every online copy, is answered as before."""
    seed = random.Random(10)
    place.retention = 4
    limits = segments.Limits(0, 1, 60, 1 << 20)
    removed, horizon, last = 0, 0, 0
    for turn in range(8):
        await place.write(rows_of(seed, 30))
        place.clock.set(NOW + turn)
        removed += (await place.compact(limits)).removed_rows
        horizon = NOW + turn - place.retention
        last = (await place.store.last_sequences())[SPLIT]
        for exclusive, arrival in ((False, True), (False, False)):
            window = ports.Window(horizon, NOW + 9, last, exclusive, arrival)
            split = numbered(await place.store.read_window(SPLIT, KEYS, window))
            plain = numbered(await place.store.read_window(PLAIN, KEYS, window))
            assert best(split, window) == best(plain, window)
        split_greatest = named(await place.store.read_greatest(SPLIT, b"", 99))
        assert split_greatest == named(await place.store.read_greatest(PLAIN, b"", 99))

    left = await place.store.retained()
    retained = left[SPLIT]
    assert (retained.rows, retained.time) == (removed, horizon)
    assert retained.sequence == last == 240
    kept = named(await place.store.read_sequences(SPLIT, 0, last))
    assert len(kept) == last - removed < last
    assert PLAIN not in left


async def test_retention_may_empty_a_segment(place: Place) -> None:
    """A segment of which every row was surpassed goes on as an empty one, and is merged away."""
    for event in (-9, -5):
        times = np.full(len(KEYS), NOW + event, np.int64)
        await place.write(batch.Batch(list(KEYS), times, times, [b"\5"] * len(KEYS)))
        await place.compact(segments.Limits(0, 1, 10, 1 << 20))
    place.retention = 2

    counts = await place.compact(segments.Limits(0, 1, 10, 1 << 20))

    assert counts.removed_rows == len(KEYS)
    found = named(await place.store.read_sequences(SPLIT, 0, 99))
    assert [row[3] for row in found] == list(range(len(KEYS) + 1, 2 * len(KEYS) + 1))
    assert named(await place.store.read_greatest(SPLIT, b"", 99)) == sorted(found)


STEPS = (
    "before-rename",
    "after-rename",
    "before-commit",
    "after-commit",
    "after-merge",
    "after-removal",
)


@pytest.fixture
async def dying(
    feature_url: str, tmp_path: pathlib.Path
) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """Compacts in a process that is killed at a step, and returns how it ended."""
    script = pathlib.Path(__file__).with_name("dying_compactor.py")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        feature_url,
        str(tmp_path / "segments"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def ask(step: str) -> int:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{step}\n".encode())
        return int(await child.stdout.readline())

    yield ask
    assert child.stdin is not None
    child.stdin.close()
    await child.wait()


@pytest.mark.timeout(300)  # The start of a process takes long on a busy machine.
async def test_kill_at_each_step_loses_and_doubles_nothing(
    place: Place, dying: Callable[[str], Awaitable[int]]
) -> None:
    """Whenever the compactor is killed, reads answer as before, and its leftovers are removed later."""
    seed = random.Random(9)
    leftovers = []
    for step in STEPS:
        await place.write(rows_of(seed, 25))
        assert await dying(step) == -signal.SIGKILL, step
        place.reopen()
        questions = seed.random()
        split = await everything(place.store, SPLIT, random.Random(questions))
        assert split == await everything(place.store, PLAIN, random.Random(questions)), step
        leftovers.append(len(list(place.files.rglob("*.*"))))
    assert await dying("nowhere") == 0
    assert await dying("nowhere") == 0

    assert leftovers[0] == 1  # The part of a file that never got its name.
    async with place.segments.turn() as turn:
        assert turn is not None
        live = (await turn.live())[SPLIT]
    assert {str(each.relative_to(place.files)) for each in place.files.rglob("*.*")} == {
        each.path for each in live
    }
    assert sum(each.rows for each in live) == 25 * len(STEPS)
