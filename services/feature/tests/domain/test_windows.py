"""Events, windows over them by brute force, and a history and an online store in memory."""

import asyncio
import dataclasses
import math
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setpoint_columns import Columns, DataType
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregation,
    batch,
    blueprint,
    catalog,
    definitions,
    history,
    online,
    plan,
    registration,
    tile_reads,
    tiles,
)
from setpoint_feature.service import aggregates, event_reading, snapshot

Function = aggregation.Function
SECOND = 1_000_000

ENTITIES = (
    definitions.Entity("flight", (definitions.FieldSpec("flight", DataType.INT64),)),
    definitions.Entity("carrier", (definitions.FieldSpec("carrier", DataType.STRING),)),
)
SOURCE = definitions.FeatureView(
    "landings",
    "flight",
    (
        definitions.Field("line", DataType.STRING),
        definitions.Field("delay", DataType.FLOAT64),
        definitions.Field("seats", DataType.INT64),
        definitions.Field("late", DataType.BOOL),
        definitions.Field("origin", DataType.STRING),
    ),
)


def fields(window: int, hop: int) -> list[aggregation.AggregateField]:
    """Returns every function over one window, names numbered by it."""
    tag = f"{window}"
    late = aggregation.Condition("late", True)
    common: dict[str, Any] = {"window": window, "hop": hop}
    field = aggregation.AggregateField
    return [
        field(f"count{tag}", Function.COUNT, **common),
        field(f"count_delay{tag}", Function.COUNT, "delay", where=late, **common),
        field(f"sum{tag}", Function.SUM, "delay", **common),
        field(f"mean{tag}", Function.MEAN, "seats", where=late, default=-1.0, **common),
        field(f"min{tag}", Function.MIN, "delay", **common),
        field(f"max{tag}", Function.MAX, "seats", default=-5, **common),
        field(f"share{tag}", Function.SHARE, where=late, **common),
        field(f"last{tag}", Function.LAST, "delay", n=2, **common),
        field(f"first{tag}", Function.LAST, "late", where=late, **common),
        field(f"distinct{tag}", Function.DISTINCT, "origin", **common),
    ]


def view(
    wanted: Sequence[aggregation.AggregateField],
    boundary: definitions.Boundary = definitions.Boundary.INCLUSIVE,
) -> tuple[catalog.Catalog, plan.CompiledView]:
    """Registers the source and an aggregate view over it."""
    known = catalog.Catalog()
    known.update([catalog.Stored(each, number) for number, each in enumerate(ENTITIES, 1)])
    known.update([catalog.Stored(registration.view(known, SOURCE, 0), 3, 1)])
    aggregate = definitions.FeatureView(
        "lateness",
        "carrier",
        (),
        boundary=boundary,
        aggregation=aggregation.Aggregation("landings", tuple(wanted), {"carrier": "line"}),
    )
    known.update([catalog.Stored(registration.view(known, aggregate, 0), 4, 2)])
    return known, known.view("lateness")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the source."""

    flight: int
    event: int
    created: int
    line: str | None
    delay: float | None
    seats: int | None
    late: bool | None
    origin: str | None
    sequence: int = 0


def random_rows(seed: random.Random, count: int, span: int) -> list[Row]:
    """Returns rows of which many are late, corrections, or withdrawn."""
    rows = []
    for _ in range(count):
        event = seed.randrange(-span, span)
        created = event + seed.choice([0, 0, seed.randrange(-span, span)])
        rows.append(
            Row(
                seed.randrange(6),
                event - event % seed.choice([1, span // 8 + 1]),
                created,
                seed.choice(["UA", "UA", "DL", None]),
                seed.choice([None, math.nan, math.inf, 0.1, 1e17, -1e17, 3.0, -0.0, 5e-324]),
                seed.choice([None, 7, -(1 << 62), (1 << 63) - 1]),
                seed.choice([None, True, False]),
                seed.choice([None, "", "JFK", "EWR", "LGA", "é"]),
            )
        )
    return rows


def columns(rows: Sequence[Row]) -> Columns:
    """Returns rows as they are written."""
    return Columns.from_dict(
        {
            "flight": (DataType.INT64, [row.flight for row in rows]),
            "event_time": (DataType.TIMESTAMP, [row.event for row in rows]),
            "created_time": (DataType.TIMESTAMP, [row.created for row in rows]),
            "line": (DataType.STRING, [row.line for row in rows]),
            "delay": (DataType.FLOAT64, [row.delay for row in rows]),
            "seats": (DataType.INT64, [row.seats for row in rows]),
            "late": (DataType.BOOL, [row.late for row in rows]),
            "origin": (DataType.STRING, [row.origin for row in rows]),
        }
    )


def expected(
    rows: Sequence[Row],
    wanted: aggregation.AggregateField,
    line: str,
    time: int,
    *,
    exclusive: bool,
) -> list[Any]:
    """Returns the values of a field at a time: None where there is none."""
    winners: dict[tuple[int, int], Row] = {}
    for row in rows:
        known = row.created <= time and (row.event < time if exclusive else row.event <= time)
        best = winners.get((row.flight, row.event))
        if known and (best is None or (row.created, row.sequence) > (best.created, best.sequence)):
            winners[row.flight, row.event] = row
    since = (time - wanted.window) // wanted.hop * wanted.hop
    found = [row for row in winners.values() if row.line == line and row.event >= since]
    found.sort(key=lambda row: (row.event, row.created, row.sequence))
    return _value(found, wanted)


def _value(found: list[Row], wanted: aggregation.AggregateField) -> list[Any]:
    function = wanted.function
    if function is Function.SHARE:
        judged = [row.late for row in found if row.late is not None]
        return [sum(judged) / len(judged) if judged else wanted.default]
    if wanted.where is not None:
        found = [row for row in found if row.late is True]
    if function is Function.LAST:
        latest = [_usable(getattr(row, wanted.field)) for row in reversed(found)]
        return [*latest, *[wanted.default] * wanted.n][: wanted.n]
    if not wanted.field:
        return [len(found)]
    values = [_usable(getattr(row, wanted.field)) for row in found]
    values = [value for value in values if value is not None]
    if function is Function.COUNT:
        return [len(values)]
    if function is Function.DISTINCT:
        return [len(set(values))]
    if not values:
        return [wanted.default]
    if function in (Function.MIN, Function.MAX):
        return [min(values) if function is Function.MIN else max(values)]
    exact = float(sum(Fraction(float(value)) for value in values))
    return [exact if function is Function.SUM else exact / len(values)]


def _usable(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


class History:
    """The rows of one view, in memory."""

    def __init__(self, source: plan.CompiledView) -> None:
        """Starts empty."""
        self._source = source
        self.rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows."""
        first = len(self.rows) + 1
        self.rows += [
            dataclasses.replace(row, sequence=first + index) for index, row in enumerate(rows)
        ]

    async def last_sequences(self) -> dict[int, int]:
        """Returns the greatest sequence."""
        return {self._source.number: len(self.rows)}

    async def read_sequences(self, view: int, after: int, upto: int) -> history.NamedRows:
        """Returns some rows."""
        assert view == self._source.number
        return self._named(self.rows[after:upto])

    async def read_versions(
        self, view: int, keys: Sequence[bytes], pairs: Any, upto: int
    ) -> history.NumberedRows:
        """Returns all rows of some keys, which is more than enough."""
        assert view == self._source.number
        found = self._named(self.rows[:upto])
        some = np.array([index for index, key in enumerate(found.keys) if key in keys], np.int64)
        numbers = np.array([keys.index(found.keys[index]) for index in some.tolist()], np.int64)
        return history.NumberedRows(numbers, history.chosen(found.rows, some))

    async def scan(
        self, view: int, scan: ports.Scan, limit: int
    ) -> AsyncIterator[history.NamedRows]:
        """Yields the winners."""
        assert view == self._source.number
        winners: dict[tuple[int, int], Row] = {}
        for row in self.rows[: scan.upto]:
            if row.created <= scan.known_at and scan.start <= row.event < scan.end:
                best = winners.get((row.flight, row.event), row)
                order = (best.created, best.sequence) <= (row.created, row.sequence)
                winners[row.flight, row.event] = row if order else best
        found = sorted(winners.values(), key=lambda row: (row.event, row.created, row.sequence))
        for start in range(0, len(found), limit):
            yield self._named(found[start : start + limit])

    def _named(self, rows: Sequence[Row]) -> history.NamedRows:
        packed, _ = batch.prepare(self._source, columns(rows), 1 << 60, 0)
        lengths = np.array([len(row) for row in packed.rows], np.int64)
        sequences = np.array([row.sequence for row in rows], np.int64)
        stored = history.StoredRows(
            packed.event_times,
            packed.created_times,
            sequences,
            b"".join(packed.rows),
            np.cumsum(lengths) - lengths,
        )
        return history.NamedRows(packed.keys, stored)


class Online:
    """Online copies of one view, in memory."""

    def __init__(self) -> None:
        """Starts empty."""
        self.values: dict[bytes, bytes] = {}
        self.mark: int | None = None

    async def read(
        self, lookups: Sequence[ports.Lookup], seconds: float | None = None
    ) -> list[ports.Copies]:
        """Returns copies."""
        return [
            ports.Copies(self.mark, [self.values.get(key) for key in lookup.keys])
            for lookup in lookups
        ]

    async def apply(
        self, version: str, values: Mapping[bytes, bytes], after: int, upto: int
    ) -> int:
        """Keeps the greater values."""
        header = online.HEADER
        for key, value in values.items():
            stored = self.values.get(key)
            if stored is None or header.unpack_from(stored) < header.unpack_from(value):
                self.values[key] = value
        if after <= (self.mark or 0) < upto:
            self.mark = upto
        return len(values)

    async def begin(self, version: str) -> tuple[ports.Begun, ...]:
        """Nothing is lost here meanwhile."""
        return (ports.Begun(version, ""),)

    async def finish(self, version: str, begun: Sequence[ports.Begun], upto: int) -> None:
        """Moves the watermark."""
        assert begun == (ports.Begun(version, ""),)
        self.mark = max(self.mark or 0, upto)

    async def watermarks(self, versions: Sequence[str]) -> list[int | None]:
        """Returns the watermark."""
        return [self.mark for _ in versions]


def questions(rows: Sequence[Row], seed: random.Random, count: int) -> tuple[list[str], list[int]]:
    """Returns groups and times, many of them at the very edges of what is known."""
    edges = [
        time + step for row in rows for time in (row.event, row.created) for step in (-1, 0, 1)
    ]
    times = [seed.choice(edges) + seed.choice([0, 0, 7, 30]) for _ in range(count)]
    return [seed.choice(["UA", "DL", "AA"]) for _ in range(count)], times


def compiled_source(compiled: plan.CompiledView) -> plan.CompiledView:
    """Returns the source of a view."""
    assert compiled.blueprint is not None
    return plan.CompiledView(compiled.blueprint.source.view, compiled.stream)


def encoded(compiled: plan.CompiledView, lines: Sequence[str]) -> list[bytes]:
    """Returns the keys of groups."""
    table = Columns.from_dict({"carrier": (DataType.STRING, list(lines))})
    return [key for key in compiled.codec.encode(table, {}, "") if key is not None]


def group_of(compiled: plan.CompiledView) -> plan.Group:
    """Returns all fields of a view as a group."""
    everything = tuple(range(len(compiled.view.fields)))
    return plan.Group(compiled, {}, everything, everything)


def check(
    found: blueprint.Computed,
    compiled: plan.CompiledView,
    rows: Sequence[Row],
    lines: Sequence[str],
    times: Sequence[int],
) -> None:
    """Compares an answer with what brute force says, to the bit."""
    exclusive = compiled.view.boundary is definitions.Boundary.EXCLUSIVE
    assert compiled.view.aggregation is not None
    columns_of = iter(found.columns)
    for wanted in compiled.view.aggregation.fields:
        several = [next(columns_of).to_list() for _ in wanted.columns]
        for index, (line, time) in enumerate(zip(lines, times, strict=True)):
            values = expected(rows, wanted, line, time, exclusive=exclusive)
            if wanted.function is not Function.LAST:
                # A zero has one sign in what is computed.
                values = [each + 0.0 if isinstance(each, float) else each for each in values]
            served = [each[index] for each in several]
            assert list(map(repr, served)) == list(map(repr, values)), (wanted.name, line, time)


WINDOWS = [(20, 10), (60, 5), (40, 40)]


def compiled_for(seed: random.Random) -> plan.CompiledView:
    """Returns a view over several windows; hops below a second keep the numbers small."""
    boundary = seed.choice(list(definitions.Boundary))
    wanted = [each for window, hop in WINDOWS for each in fields(window * SECOND, hop * SECOND)]
    _, compiled = view(wanted, boundary)
    return compiled


def in_seconds(rows: Sequence[Row]) -> list[Row]:
    """Returns rows with times in microseconds instead of seconds."""
    return [
        dataclasses.replace(row, event=row.event * SECOND, created=row.created * SECOND)
        for row in rows
    ]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1 << 32), st.integers(1, 60))
def test_offline_equals_brute_force(number: int, count: int) -> None:
    """Every function over every window at every edge of what is known, to the bit."""
    seed = random.Random(number)
    compiled = compiled_for(seed)
    past = History(compiled_source(compiled))
    past.write(in_seconds(random_rows(seed, count, 100)))
    lines, times = questions(past.rows, seed, 30)

    async def answer() -> blueprint.Computed:
        reader = event_reading.EventReader(cast(ports.HistoryStore, past))
        everything = await reader.read_all(compiled, count, compiled.rule)
        numbers = everything.groups_of(encoded(compiled, lines))
        fields_of = range(len(compiled.view.fields))
        return everything.answer(fields_of, numbers, np.array(times, np.int64))

    check(asyncio.run(answer()), compiled, past.rows, lines, times)


def read_online(
    compiled: plan.CompiledView, copies: Online, line: str, time: int
) -> blueprint.Computed | None:
    """Returns what the state of a group answers."""
    assert compiled.blueprint is not None
    return tile_reads.answer(
        compiled.blueprint,
        tiles.tables(compiled.blueprint),
        range(len(compiled.view.fields)),
        [copies.values.get(key) for key in encoded(compiled, [line])],
        np.zeros(1, np.intp),
        np.array([time], np.int64),
    )


async def test_states_know_from_when_on_they_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was merged, and what was taken out of a tile, keeps earlier times from being answered."""
    monkeypatch.setattr(tiles, "SINGLE", 1)
    wanted = aggregation.AggregateField("n", Function.COUNT, window=60 * SECOND, hop=60 * SECOND)
    _, compiled = view([wanted])
    past, copies = History(compiled_source(compiled)), Online()
    updater = aggregates.Aggregates(
        cast(ports.HistoryStore, past), copies, cast(snapshot.Snapshot, None)
    )
    first, second = (Row(flight, flight, flight, "UA", None, None, None, None) for flight in (1, 2))

    async def counts() -> list[Any]:
        await updater.follow(compiled, copies.mark or 0, len(past.rows))
        found = [read_online(compiled, copies, "UA", time) for time in (0, 1, 2, 5, 10)]
        return [None if each is None else each.columns[0].item(0) for each in found]

    past.write([first, second])
    assert await counts() == [None, 1, 2, 2, 2]
    past.write([dataclasses.replace(first, created=10, line="DL")])
    assert await counts() == [None, None, None, None, 1]


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1 << 32), st.integers(1, 70), st.sampled_from([1, 3, 8, 32]))
def test_online_equals_brute_force_after_anything(
    monkeypatch: pytest.MonkeyPatch, number: int, count: int, single: int
) -> None:
    """After late rows, corrections, replays and wipes the states answer exactly or not at all."""
    monkeypatch.setattr(tiles, "SINGLE", single)
    seed = random.Random(number)
    monkeypatch.setattr(aggregates, "PAGE_ROWS", seed.choice([2, 7, 1000]))
    compiled = compiled_for(seed)
    past, copies = History(compiled_source(compiled)), Online()
    updater = aggregates.Aggregates(
        cast(ports.HistoryStore, past), copies, cast(snapshot.Snapshot, None)
    )
    rows = in_seconds(random_rows(seed, count, 100))

    async def write() -> None:
        for start in range(0, count, 10):
            past.write(rows[start : start + 10])
            before = copies.mark, dict(copies.values)
            if seed.random() < 0.2:
                copies.mark, copies.values = None, {}
                await updater.rebuild(compiled, len(past.rows))
            else:
                await updater.follow(compiled, copies.mark or 0, len(past.rows))
            if seed.random() < 0.3:
                # Some states and the watermark are back where they were; the rest is ahead.
                copies.mark = before[0]
                copies.values |= {
                    key: each for key, each in before[1].items() if seed.random() < 0.5
                }
                await updater.follow(compiled, copies.mark or 0, len(past.rows))

    asyncio.run(write())
    lines, times = questions(past.rows, seed, 15)
    lines, times = [*lines, "UA", "DL"], [*times, 300 * SECOND, max(times) + 1]
    exact = 0
    for line, time in zip(lines, times, strict=True):
        found = read_online(compiled, copies, line, time)
        if found is not None:
            exact += 1
            check(found, compiled, past.rows, [line], [time])
    assert exact, "the latest times are always answered"
