import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from setpoint.feature.v1 import snapshot_pb2
from setpoint.feature.v1 import snapshot_service_pb2 as pb
from setpoint_columns import Columns, DataType, proto
from setpoint_db import engine as engines
from setpoint_feature import ports, testing
from setpoint_feature.service import training_sets
from setpoint_feature.store import (
    definition_store,
    tables,
    training_set_files,
    training_set_store,
)
from setpoint_feature.testing import NOW, Running, Start
from setpoint_rpc import channel as channels
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

ROWS = 30
MINUTE = 60_000_000
UNKNOWN = str(uuid.uuid4())


async def prepare(running: Running) -> None:
    """Registers planes with a count, writes some, and makes a feature set of them."""
    await running.client.entity("plane", plane=DataType.INT64)
    await running.client.view("planes", "plane", [("count", DataType.INT64, 7)])
    await running.client.feature_set("all", [testing.reference("planes", "count")])
    await write(running, -5 * MINUTE, -5 * MINUTE, 1)


async def write(running: Running, event: int, created: int, count: int, planes: int = 5) -> None:
    """Writes the count of some planes."""
    table: testing.Table = {
        "plane": (DataType.INT64, list(range(planes))),
        "event_time": (DataType.TIMESTAMP, [NOW + event] * planes),
        "created_time": (DataType.TIMESTAMP, [NOW + created] * planes),
        "count": (DataType.INT64, [count] * planes),
    }
    await running.client.write("planes", Columns.from_dict(table))


def spine(rows: int = ROWS) -> Columns:
    """Returns questions about planes, every other time before anything was known, with a label."""
    table: testing.Table = {
        "plane": (DataType.INT64, [row % 6 for row in range(rows)]),
        "at": (DataType.TIMESTAMP, [NOW - (row % 2) * 9 * MINUTE for row in range(rows)]),
        "label": (DataType.STRING, [None if row % 3 else f"é{row}" for row in range(rows)]),
    }
    return Columns.from_dict(table)


async def create(
    running: Running, table: Columns, pieces: int = 1, **options: Any
) -> pb.CreateSnapshotResponse:
    """Keeps a spine, given in pieces."""
    header = pb.CreateSnapshotRequest(
        **{"request_id": testing.request_id(), "time_column": "at", **options}
    )
    header.feature_set.name = "all"
    step = max(1, -(-table.rows // pieces))

    async def requests() -> AsyncIterator[pb.CreateSnapshotRequest]:
        for start in range(0, max(1, table.rows), step):
            request = header if start == 0 else pb.CreateSnapshotRequest()
            request.spine.CopyFrom(proto.to_proto(table.slice(start, start + step)))
            yield request

    return await running.snapshots.CreateSnapshot(requests())


async def read(running: Running, snapshot: snapshot_pb2.Snapshot) -> list[bytes]:
    """Returns the messages of a snapshot, as bytes."""
    request = pb.ReadSnapshotRequest(snapshot_id=snapshot.snapshot_id)
    return [
        each.SerializeToString(deterministic=True)
        async for each in running.snapshots.ReadSnapshot(request)
    ]


def content(messages: list[bytes]) -> Columns:
    """Returns the table that messages hold."""
    parts = [pb.ReadSnapshotResponse.FromString(each) for each in messages]
    return Columns.concat([proto.from_proto(each.table) for each in parts])


def segments(folder: Path) -> list[Path]:
    """Returns the files into which rows of the history have moved."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if "snapshots" not in path.parts and path.suffix != ".part"]


async def test_snapshot_gives_the_same_bytes_whatever_happens_later(
    start: Start, tmp_path: Path
) -> None:
    """Later writes, backfills, compaction, another version of the view and a restart change no byte of it."""
    folder = str(tmp_path / "segments")
    compacting = {"recent_rows": 0, "move_rows": 1, "compact_seconds": 0.05}
    async with start(segment_url=folder, answer_bytes=240, **compacting) as running:
        await prepare(running)
        made = (await create(running, spine(), pieces=4, description="first")).snapshot
        before = await read(running, made)
        joined = await running.client.historical("all", spine(), time_column="at")
        table = content(before)
        assert table.names == ("plane", "at", "label", "count")
        assert table.select(spine().names) == spine()
        kept = [value for answer in joined for value in answer.values["count"]]
        assert table["count"].to_list() == kept
        assert len(before) > 4
        await write(running, -6 * MINUTE, -6 * MINUTE, 2, planes=9)
        await write(running, -4 * MINUTE, -4 * MINUTE, 3)
        async with asyncio.timeout(20):
            while not segments(tmp_path):
                await asyncio.sleep(0.02)
        await running.client.view("planes", "plane", [("count", DataType.INT64, 8)])
        assert await read(running, made) == before
        again = (await create(running, spine(), pieces=1)).snapshot
        assert again.digest != made.digest
    async with start(segment_url=folder, answer_bytes=400) as running:
        assert await read(running, made) == before
        found = await running.snapshots.GetSnapshot(
            pb.GetSnapshotRequest(snapshot_id=made.snapshot_id.upper())
        )
        assert found.snapshot == made
        assert (made.rows, made.spine_columns, made.description) == (ROWS, 3, "first")
        assert (made.range.start_time, made.range.end_time) == (NOW - 9 * MINUTE, NOW + 1)
        (view,) = made.views
        assert (view.view, view.sequence) == ("planes", 5)


async def test_digest_is_that_of_the_content(start: Start, tmp_path: Path) -> None:
    """The same spine at the same history has the same digest, however it came; another one has another."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        digests = [
            (await create(running, table, pieces)).snapshot.digest
            for table, pieces in ((spine(), 1), (spine(), 7), (spine(ROWS - 1), 1))
        ]
        assert digests[0] == digests[1] != digests[2]


async def test_compare_tells_what_would_come_out_otherwise(start: Start, tmp_path: Path) -> None:
    """What claims to be old changes the question; what arrives late changes what is known now of it."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        made = (await create(running, spine())).snapshot

        async def compared() -> tuple[float, float]:
            answer = await running.snapshots.CompareSnapshot(
                pb.CompareSnapshotRequest(snapshot_id=made.snapshot_id)
            )
            for each in (answer.asked_again, answer.known_now):
                assert each.share == each.rows / ROWS
                assert dict(each.rows_by_feature) == ({"count": each.rows} if each.rows else {})
            return answer.asked_again.rows, answer.known_now.rows

        assert await compared() == (0, 0)
        # Arrived after all questions: known only now, of the rows before which it became true.
        await write(running, -10 * MINUTE, 1, 2, planes=2)
        assert await compared() == (0, 5)
        # A backfill that claims to have arrived long ago.
        await write(running, -3 * MINUTE, -3 * MINUTE, 4, planes=2)
        asked_again, known_now = await compared()
        assert (asked_again, known_now) == (5, 10)


async def test_damaged_snapshot_is_an_error(start: Start, tmp_path: Path) -> None:
    """Of a file that is not what was stored nothing is sent, be it changed or gone."""
    async with start(segment_url=str(tmp_path), answer_bytes=240) as running:
        await prepare(running)
        made = (await create(running, spine())).snapshot
        files = sorted(tmp_path.rglob("*.parquet"))
        assert len(files) > 2
        data = bytearray(files[1].read_bytes())
        data[len(data) // 2] ^= 1
        files[1].write_bytes(data)

        async def is_refused() -> None:
            sent = 0
            request = pb.ReadSnapshotRequest(snapshot_id=made.snapshot_id)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in running.snapshots.ReadSnapshot(request):
                    sent += 1
            error = channels.from_rpc_error(refused.value)
            assert (type(error), error.reason) == (
                errors.DataLossError,
                errors.Reason.SNAPSHOT_DAMAGED,
            )
            assert sent == 1

        await is_refused()
        files[1].unlink()
        await is_refused()


async def test_replay_answers_the_first_snapshot(start: Start, tmp_path: Path) -> None:
    """The same wish makes one snapshot, another one under its id none; neither leaves files behind."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        request_id = testing.request_id()
        first = await create(running, spine(), request_id=request_id)
        files = sorted(tmp_path.rglob("*.*"))
        second = await create(running, spine(), pieces=3, request_id=request_id)
        assert (first.replayed, second.replayed) == (False, True)
        assert second.snapshot == first.snapshot
        error = await testing.error_of(create(running, spine(5), request_id=request_id))
        assert error.reason is errors.Reason.REQUEST_ID_REUSED
        assert sorted(tmp_path.rglob("*.*")) == files
        both = await asyncio.gather(*(create(running, spine(), request_id=UNKNOWN) for _ in "ab"))
        assert both[0].snapshot == both[1].snapshot
        assert {each.replayed for each in both} == {False, True}


@pytest.mark.parametrize("late", [True, False])
async def test_snapshot_without_an_answer_is_whole(
    start: Start, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """When it is stored and nobody is told, for want of a connection or of time, its files stay."""
    request_id = testing.request_id()
    stored = asyncio.Event()
    add = training_set_store.SQLTrainingSetStore.add

    async def add_and_lose(*arguments: Any) -> None:
        await add(*arguments)
        stored.set()
        if late:
            await asyncio.Event().wait()
        raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "the commit is lost")

    async with start() as running:
        await prepare(running)
        with monkeypatch.context() as patch:
            patch.setattr(training_set_store.SQLTrainingSetStore, "add", add_and_lose)
            call = asyncio.create_task(create(running, spine(), request_id=request_id))
            await stored.wait()
            if late:
                call.cancel()
            await asyncio.wait([call])
        again = await create(running, spine(), request_id=request_id)
        assert again.replayed
        assert content(await read(running, again.snapshot)).rows == ROWS


async def test_deleted_snapshot_is_gone(start: Start, tmp_path: Path) -> None:
    """Neither the snapshot nor its files are there any more; the wish may come again."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        made = (await create(running, spine())).snapshot
        request = pb.DeleteSnapshotRequest(
            request_id=testing.request_id(), snapshot_id=made.snapshot_id
        )
        replayed = [(await running.snapshots.DeleteSnapshot(request)).replayed for _ in range(2)]
        assert replayed == [False, True]
        assert list(tmp_path.rglob("*.parquet")) == []
        request.request_id = testing.request_id()
        for call in (read(running, made), running.snapshots.DeleteSnapshot(request)):
            error = await testing.error_of(call)
            assert error.reason is errors.Reason.SNAPSHOT_NOT_FOUND


async def test_list_pages_newest_first(start: Start, tmp_path: Path) -> None:
    """Pages go back in time, of one feature set or of all."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        made = [(await create(running, spine(2))).snapshot for _ in range(3)]
        first = await running.snapshots.ListSnapshots(pb.ListSnapshotsRequest(page_size=2))
        second = await running.snapshots.ListSnapshots(
            pb.ListSnapshotsRequest(page_size=2, page_token=first.next_page_token)
        )
        assert [*first.snapshots, *second.snapshots] == made[::-1]
        assert second.next_page_token == ""
        other = await running.snapshots.ListSnapshots(pb.ListSnapshotsRequest(feature_set="x"))
        assert list(other.snapshots) == []


def renamed(to: str) -> Columns:
    """Returns a spine whose label has another name."""
    table = spine(3)
    return table.without("label").with_column(table["label"].rename(to))


BAD: list[tuple[Columns, dict[str, Any], str]] = [
    (spine(0), {}, "spine"),
    (renamed("count"), {}, "spine.count"),
    (renamed("status of count"), {}, "spine.status of count"),
    (spine(3).without("plane"), {}, "spine.plane"),
    (spine(3), {"time_column": "x"}, "spine.x"),
    (spine(3), {"description": "x" * 5000}, "description"),
    (spine(3), {"request_id": ""}, "request_id"),
]


async def test_bad_wish_is_named_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    """A wish that makes no sense is refused with its path, and no file stays."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        for table, options, field in BAD:
            error = await testing.error_of(create(running, table, **options))
            assert error.violations[0].field == field
            assert list(tmp_path.rglob("*.parquet")) == []


async def test_pieces_of_other_columns_are_refused(start: Start, tmp_path: Path) -> None:
    """A spine has one shape; what was stored of it before is removed."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)

        async def requests() -> AsyncIterator[pb.CreateSnapshotRequest]:
            for table in (spine(3), spine(3).without("label")):
                request = pb.CreateSnapshotRequest(
                    request_id=testing.request_id(), time_column="at", spine=proto.to_proto(table)
                )
                request.feature_set.name = "all"
                yield request

        error = await testing.error_of(running.snapshots.CreateSnapshot(requests()))
        assert error.violations[0].field == "spine"
        assert list(tmp_path.rglob("*.parquet")) == []


async def test_start_cleans_what_dead_processes_left(start: Start, tmp_path: Path) -> None:
    """Files without a snapshot go when they are a day old, all others stay."""
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        made = (await create(running, spine(3))).snapshot
    [kept] = tmp_path.rglob("*.parquet")
    old, new = (kept.parent.parent / ids.uuid7() / kept.name for _ in range(2))
    two_days_ago = NOW / 1e6 - 2 * 86_400
    for path in (old, new):
        path.parent.mkdir()
        path.write_bytes(b"")
    for path in (old, kept):
        os.utime(path, (two_days_ago, two_days_ago))
    async with start(segment_url=str(tmp_path)) as running:
        async with asyncio.timeout(20):
            while old.exists():
                await asyncio.sleep(0.02)
        assert len(await read(running, made)) == 1
    assert new.exists()


async def test_snapshot_lives_as_long_as_it_says(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a stated life goes with its files once that is over; one without stays."""
    monkeypatch.setattr(training_sets, "_CLEAN_SECONDS", 0.02)
    async with start(segment_url=str(tmp_path)) as running:
        await prepare(running)
        for life in (-1, training_sets.MAX_LIFE + 1):
            error = await testing.error_of(create(running, spine(3), life_microseconds=life))
            assert error.violations[0].field == "life_microseconds"
        kept = (await create(running, spine(3))).snapshot
        made = [
            (await create(running, spine(3), life_microseconds=life)).snapshot
            for life in (MINUTE, 2 * MINUTE)
        ]
        expire_times = [each.expire_time for each in (kept, *made)]
        assert expire_times == [0, NOW + MINUTE, NOW + 2 * MINUTE]

        running.clock.set(NOW + MINUTE)
        async with asyncio.timeout(20):
            while len(list(tmp_path.rglob("*.parquet"))) == 3:
                await asyncio.sleep(0.02)
        left = await running.snapshots.ListSnapshots(pb.ListSnapshotsRequest())
        assert [each.snapshot_id for each in left.snapshots] == [
            made[1].snapshot_id,
            kept.snapshot_id,
        ]
        for each in left.snapshots:
            assert content(await read(running, each)).rows == 3


async def test_snapshot_that_goes_while_it_is_read_is_not_damaged(
    start: Start, feature_url: str, tmp_path: Path
) -> None:
    """The reader is told that it is gone, which is something else than a lost file."""
    async with start(segment_url=str(tmp_path), answer_bytes=200) as running:
        await prepare(running)
        made = (await create(running, spine())).snapshot
    engine = engines.create_engine(feature_url, application_name="test", schema=tables.SCHEMA)
    store_id = await definition_store.SQLDefinitionStore(engine).store_id()
    sets = training_sets.TrainingSets(
        training_set_files.TrainingSetFiles(str(tmp_path), store_id),
        training_set_store.SQLTrainingSetStore(engine),
        None,  # type: ignore[arg-type]  # nothing is joined.
        clocks.ManualClock(NOW),
        100,
    )
    async with contextlib.aclosing(sets.read(made.snapshot_id)) as parts:
        await anext(parts)
        await sets.delete(ports.Wish(ids.uuid7(), "DeleteSnapshot", b""), made.snapshot_id)
        with pytest.raises(errors.NotFoundError):
            await anext(parts)
    await engine.dispose()


async def test_snapshots_without_a_folder_are_refused(start: Start) -> None:
    """Where nothing can be kept that is said, with the setting's name."""
    async with start(segment_url="") as running:
        error = await testing.error_of(running.snapshots.ListSnapshots(pb.ListSnapshotsRequest()))
        assert error.reason is errors.Reason.UNIMPLEMENTED
        assert "SETPOINT_FEATURE_SEGMENT_URL" in error.message
