"""Whatever retention removes: an answer is the one from before, or it is refused."""

import pathlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import pytest

from setpoint_columns import Columns, DataType
from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregation,
    assemble,
    batch,
    catalog,
    definitions,
    registration,
    retention,
    segments,
    skew,
)
from setpoint_feature.service import apart, compaction, joining, standby
from setpoint_feature.service import skew as replaying
from setpoint_feature.store import (
    history_store,
    segment_cache,
    segment_folder,
    segment_store,
    skew_store,
    tables,
)
from setpoint_feature.testing import NOW
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

_T = TypeVar("_T")
SECOND = 1_000_000
STEP = SECOND // 4
RETENTION = 8 * STEP
PLANES = 4
PLAIN, THIN = 1, 2
"""Views with the same rows: retention removes some of the second."""
WINDOWED = {PLAIN: 3, THIN: 4}
"""Aggregate views over them."""
NAMES = {PLAIN: "plain", THIN: "thin", 3: "windows_plain", 4: "windows_thin"}
LIMITS = segments.Limits(recent_rows=5, move_rows=1, segment_rows=60, segment_bytes=1 << 20)
Answer = tuple[Any, ...]
"""A row: values, statuses, event times."""


class Known:
    """Definitions that do not change."""

    def __init__(self, found: catalog.Catalog) -> None:
        self.catalog = found
        self.last_sequences: dict[int, int] = {}

    async def find(self, look_up: Callable[[catalog.Catalog], _T]) -> _T:
        """Looks up; there is nothing to refresh."""
        return look_up(self.catalog)


def base_catalog(boundary: definitions.Boundary, ttl: int) -> catalog.Catalog:
    """Returns two like views, of which one forgets, and a feature set of each."""
    keys = (definitions.FieldSpec("plane", DataType.INT64),)
    fields = (definitions.Field("count", DataType.INT64, 7),)
    found = catalog.Catalog()
    found.update([catalog.Stored(definitions.Entity("plane", keys), 0)])
    for number, kept in ((PLAIN, 0), (THIN, RETENTION)):
        view = definitions.FeatureView(NAMES[number], "plane", fields, ttl, boundary, kept)
        add(found, registration.view(found, view, NOW), number, ["count"])
    return found


def with_windows(found: catalog.Catalog) -> catalog.Catalog:
    """Returns the same definitions and windows over both views, as if they were registered later."""
    made = found.copy()
    for source, number in WINDOWED.items():
        fields = (
            aggregation.AggregateField("short", aggregation.Function.COUNT, "", 2 * SECOND, SECOND),
            aggregation.AggregateField("sum", aggregation.Function.SUM, "count", SECOND, SECOND),
        )
        wanted = aggregation.Aggregation(NAMES[source], fields)
        view = definitions.FeatureView(NAMES[number], "plane", (), aggregation=wanted)
        add(made, registration.view(made, view, NOW), number, ["short", "sum"])
    return made


def add(
    found: catalog.Catalog, view: definitions.FeatureView, number: int, fields: Iterable[str]
) -> None:
    """Adds a view and a feature set of the same name."""
    found.update([catalog.Stored(view, 0, number)])
    features = tuple(definitions.FeatureReference(view.name, field) for field in fields)
    made = registration.feature_set(found, definitions.FeatureSet(view.name, features), NOW)
    found.update([catalog.Stored(made, 0)])


class World:
    """A history of two like views, and a compactor that is run by hand."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.engine = engines.create_engine(
            url, application_name="test", schema=tables.SCHEMA, statement_seconds=30
        )
        place = segment_folder.SegmentFolder(str(folder), "store")
        cache = segment_cache.SegmentCache(place, 1 << 30)
        self.segments = segment_store.SegmentStore(self.engine, place, cache)
        self.store = history_store.SQLHistoryStore(self.engine, self.engine, cache)
        self.clock = clocks.ManualClock(NOW)
        self.define(definitions.Boundary.INCLUSIVE, 0)

    def define(self, boundary: definitions.Boundary, ttl: int) -> None:
        """Begins with other definitions."""
        self.base = base_catalog(boundary, ttl)
        known: Any = Known(with_windows(self.base))
        self.known = known
        self.reader = joining.HistoricalReader(self.store, known, 1000, apart.Threads())

    async def write(self, rows: Columns) -> None:
        """Writes rows to both views."""
        for number in (PLAIN, THIN):
            view = self.base.view(NAMES[number])
            packed, _ = batch.prepare(view, rows, NOW + SECOND * 100, 0)
            await self.store.write(number, [ports.Entry(ids.uuid7(), b"", packed)])

    async def compact(self, limits: segments.Limits = LIMITS) -> compaction.Counts:
        """Moves, merges and forgets, as of the clock; no view is an aggregate's source then."""
        known: Any = Known(self.base)
        known.last_sequences = await self.store.last_sequences()
        made = compaction.Compactor(self.segments, known, self.clock, limits, (1.0, 0.0))
        await made.tick()
        return made.counts

    async def begin(self, number: int, *, arrival: bool = True) -> joining.Join:
        """Begins a join with one of the feature sets."""
        return await self.reader.begin(joining.Ask(NAMES[number], "", "event_time", arrival))


@pytest.fixture
async def world(feature_url: str, tmp_path: pathlib.Path) -> AsyncIterator[World]:
    """An empty history."""
    made = World(feature_url, tmp_path / "segments")
    yield made
    await made.engine.dispose()


def rows_of(seed: random.Random, count: int, turn: int) -> Columns:
    """Returns rows with ties, corrections and late arrivals, around a turn's time."""
    events = [turn + seed.randrange(-12, 3) for _ in range(count)]
    created = [event + seed.choice([0, 0, 0, 2, 9, -2]) for event in events]
    return table(
        [seed.randrange(PLANES) for _ in events], events, created, [seed.randrange(9)] * count
    )


def table(planes: list[int], events: list[int], created: list[int], counts: list[int]) -> Columns:
    """Returns rows to be written, times in steps."""
    return Columns.from_dict(
        {
            "plane": (DataType.INT64, planes),
            "event_time": (DataType.TIMESTAMP, [NOW + STEP * each for each in events]),
            "created_time": (DataType.TIMESTAMP, [NOW + STEP * each for each in created]),
            "count": (DataType.INT64, counts),
        }
    )


def spine_at(times: Iterable[int]) -> Columns:
    """Returns a question about every plane, and one that is unknown, at each time."""
    asked = [(plane, time) for time in times for plane in range(PLANES + 1)]
    return Columns.from_dict(
        {
            "plane": (DataType.INT64, [plane for plane, _ in asked]),
            "event_time": (DataType.TIMESTAMP, [time for _, time in asked]),
        }
    )


def content(served: assemble.Served) -> list[Answer]:
    """Returns an answer row by row."""
    columns = [column.to_list() for column in served.features.columns]
    times = [memoryview(each).cast("q").tolist() for each in served.event_times]
    return list(zip(*columns, *served.statuses, *times, strict=True))


async def refusal(join: joining.Join, times: Iterable[int]) -> errors.SetpointError:
    """Returns the error that a join answers with."""
    with pytest.raises(errors.SetpointError) as caught:
        await join.piece(spine_at(times))
    assert caught.value.reason is errors.Reason.HISTORY_REMOVED
    return caught.value


async def unchecked(join: joining.Join, times: Iterable[int]) -> list[Answer]:
    """Returns what a join would answer that did not ask what is gone."""
    (group,) = join._compiled.groups
    spine = spine_at(times)
    column = np.asarray(spine["event_time"].values)
    found = await join._sources[group.view.number].join(group, spine, column)
    return content(assemble.serve(join._compiled, spine.rows, [found]))


@pytest.mark.parametrize("boundary", list(definitions.Boundary))
@pytest.mark.parametrize("ttl", [0, 6 * STEP])
async def test_answer_is_that_from_before_or_refused(
    world: World, boundary: definitions.Boundary, ttl: int
) -> None:
    """From a time on every answer is as before, by arrival and by event; any earlier time is refused, and has to be."""
    seed = random.Random(f"{boundary} {ttl}")
    world.define(boundary, ttl)
    lacking = {THIN: 0, WINDOWED[THIN]: 0}
    for turn in range(0, 20, 4):
        await world.write(rows_of(seed, 25, turn))
        world.clock.set(NOW + STEP * turn)
        await world.compact()
        kept = await world.store.retained()
        for plain, thin in ((PLAIN, THIN), (WINDOWED[PLAIN], WINDOWED[THIN])):
            view = world.known.catalog.view(NAMES[thin])
            since = retention.complete_from(view, range(len(view.view.fields)), kept)
            if since is None:
                continue
            after = range(since, NOW + STEP * (turn + 4), STEP)
            before = range(since - 20 * STEP, since, STEP)
            for arrival in (True, False):
                expected = await world.begin(plain, arrival=arrival)
                join = await world.begin(thin, arrival=arrival)
                wanted = content(await expected.piece(spine_at(after)))
                assert content(await join.piece(spine_at(after))) == wanted
                error = await refusal(join, [since, since - 1, since + 1])
                assert isinstance(error, errors.OutOfRangeError)
                assert retention.complete_from_of(error) == since
                wanted = content(await expected.piece(spine_at(before)))
                lacking[thin] += await unchecked(join, before) != wanted
    assert lacking[THIN] > 0
    assert lacking[WINDOWED[THIN]] > 0


async def test_stream_overtaken_by_retention_is_refused(world: World) -> None:
    """A join that does not see the rows which surpassed others must not miss those."""
    seed = random.Random(3)
    overtaken = 0
    for turn in range(0, 16, 4):
        await world.write(rows_of(seed, 25, turn))
        join = await world.begin(THIN)
        await join.piece(spine_at([NOW + STEP * turn]))
        await world.write(rows_of(seed, 25, turn))
        world.clock.set(NOW + STEP * turn)
        if not (await world.compact()).removed_rows:
            continue
        overtaken += 1
        times = range(NOW + STEP * (turn - 8), NOW + STEP * (turn + 4), STEP)
        error = await refusal(join, times)
        assert isinstance(error, errors.UnavailableError)
        assert error.retry_after_seconds
        again, expected = await world.begin(THIN), await world.begin(PLAIN)
        wanted = content(await expected.piece(spine_at(times)))
        assert content(await again.piece(spine_at(times))) == wanted
    assert overtaken > 1


async def test_scan_is_whole_or_refused(world: World) -> None:
    """Rows of event times from which none is gone are all there; an earlier start is refused, unless all is asked for."""
    seed = random.Random(4)
    for turn in range(0, 16, 4):
        await world.write(rows_of(seed, 25, turn))
        world.clock.set(NOW + STEP * turn)
        await world.compact()
    last = (await world.store.retained())[THIN].time

    async def scanned(number: int, start: int | None) -> list[list[int]]:
        pages = world.reader.scan(NAMES[number], start, 1 << 62, 1 << 62)
        found = [page.rows async for _, page in pages]
        return [[*each.event_times.tolist(), *each.created_times.tolist()] for each in found]

    assert await scanned(THIN, last + 1) == await scanned(PLAIN, last + 1)
    assert await scanned(THIN, None) != await scanned(PLAIN, None)
    with pytest.raises(errors.OutOfRangeError, match=r"range\.start_time is 2023-") as caught:
        await scanned(THIN, last)
    assert retention.complete_from_of(caught.value) == last + 1


async def test_history_in_the_place_of_copies_refuses_as_joins_do(world: World) -> None:
    """An online read that the history answers is no less careful."""
    for event in (-40, -20, 0):
        await world.write(table([0], [event], [event], [event]))
    await world.compact(segments.Limits(0, 1, 60, 1 << 20))
    since = (await world.store.retained())[THIN].time
    stand_in = standby.Standby(world.store, max_keys=9, at_once=1)
    for number in (THIN, WINDOWED[THIN]):
        (group,) = world.known.catalog.plan(NAMES[number]).groups
        keys = [group.view.codec.encode(spine_at([0]), {}, "entities")[0]]
        at = np.zeros(1, np.intp)
        since = retention.complete_from(group.view, group.fields, await world.store.retained()) or 0
        await stand_in.winners(group, keys, at, np.array([since]), None)
        with pytest.raises(errors.OutOfRangeError) as caught:
            await stand_in.winners(group, keys, at, np.array([since - 1]), None)
        assert caught.value.violations[0].field == "as_of_times[0]"


class Records:
    """Predictions that were served a count of 5 at some times."""

    def __init__(self, times: list[int]) -> None:
        self.times = np.array(times, np.int64)

    async def next(self, after: int, share: int, until: int) -> ports.RecordPage:
        """Returns all of them."""
        count = len(self.times)
        spine = table([0] * count, [0] * count, [0] * count, [0] * count).select(["plane"])
        inputs = Columns.from_dict({"count": (DataType.INT64, [5] * count)})
        rows = skew.ServedRows(
            NAMES[THIN],
            "",
            0,
            tuple(map(str, self.times)),
            self.times,
            self.times,
            np.zeros(count, np.bool_),
            spine,
            inputs,
            {"count": np.full(count, definitions.Status.FRESH)},
            {"count": np.full(count, NOW)},
        )
        return ports.RecordPage([rows], 0, 1, 1)


async def test_replay_counts_apart_what_is_no_longer_kept(world: World) -> None:
    """Served features of a time that is gone are neither equal nor different; the others are compared."""
    for event in (-40, -20, 0):
        await world.write(table([0], [event], [event], [5]))
    await world.compact(segments.Limits(0, 1, 60, 1 << 20))
    since = (await world.store.retained())[THIN].time
    records: Any = Records([since - 1, NOW, NOW + 1, since - STEP, NOW - 1])
    kept = skew_store.SQLSkewStore(world.engine)
    replay = replaying.SkewReplay(
        records, kept, world.store, world.reader, world.known, world.clock
    )
    for _ in range(2):
        await replay.step(10_000, 0)
    _, (found,) = await replay.report("", "", 0, 9)
    assert (found.removed_predictions, found.predictions, found.values) == (2, 3, 3)
    # At NOW - 1 another row was known.
    assert found.differing_predictions == 1
    assert replay.counts.removed_predictions == 2


async def test_rows_stay_while_definitions_are_newer_than_known(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A definition that came since may need the rows: they go only by the newest ones."""
    for event in (-40, -20, 0):
        await world.write(table([0], [event], [event], [1]))
    async with world.engine.begin() as connection:
        stored = {"kind": "entity", "name": "e", "version": "", "revision": 1, "content": {}}
        await connection.execute(tables.definitions.insert(), stored)
    limits = segments.Limits(0, 1, 60, 1 << 20)

    assert (await world.compact(limits)).removed_rows == 0
    assert "newest definitions" in caplog.text
    assert await world.store.retained() == {}

    world.base.revision = 1
    assert (await world.compact(limits)).removed_rows == 1
