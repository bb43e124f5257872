"""The online state of one group of an aggregate view: tables of records that merge.

A record is a part of an answer: one event, visible at the times in [start, stop), or a tile, all events of
a hop merged. The latest events stay single, so that a time a little before the newest of them (another
machine's clock, a request that waited) is answered exactly too. The state says from which time on it
is exact; whoever asks for an earlier one must ask the history.

A state is a header as every online copy has it, with the last sequence of the source that is in it, then that
time, then for each table how many tiles and single events, then these. Whatever the order and the
grouping in which events were applied, states answer alike, because everything in them merges exactly.
"""

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import aggregation, blueprint, events, exact, sketch
from setpoint_feature.domain.blueprint import EARLIEST, LATEST

Integers = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

HEADER: Final = struct.Struct("<qqqq")
"""Last sequence, two zeros, and the first time that is answered exactly."""
_SIZES: Final = struct.Struct("<II")
SINGLE: Final = 32
"""How many of a group's latest events stay single."""

_LIFE: Final = [("start", "<i8"), ("stop", "<i8"), ("sequence", "<i8")]


class Table:
    """One table of an aggregate view's states."""

    def __init__(
        self, plan: blueprint.Blueprint, hop: int, content: blueprint.Content | None
    ) -> None:
        """Describes the numbers of a hop, or one content."""
        self.hop = hop
        self.content = content
        self.longest = plan.longest(hop, content)
        self.slots = plan.slots[hop] if content is None else ()
        self.most = 0
        payload: list[tuple[str, str]] = [("bucket", "<i8")]
        if content is None:
            payload += [("newest", "<i8")]
            payload += [
                (f"slot{number}", "<f8" if slot.is_float else "<i8")
                for number, slot in enumerate(self.slots)
            ]
        elif content.function is aggregation.Function.DISTINCT:
            payload += [("place", "<u2"), ("rank", "u1")]
        else:
            self.most = plan.most(hop, content)
            dtype = plan.source.view.fields[content.field].dtype
            value = "<f8" if dtype in blueprint.FLOATS else "<i8"
            payload += [
                ("event_time", "<i8"),
                ("created_time", "<i8"),
                ("number", "<i8"),
                ("value", value),
                ("present", "?"),
            ]
        self.payload = [name for name, _ in payload]
        self.tile = np.dtype(payload)
        self.single = np.dtype([*_LIFE, *payload])
        self.record = np.dtype([("group", "<i8"), *_LIFE, *payload])

    def records(self, found: events.Events) -> Records:
        """Returns the single records of events, without those that this table does not take in."""
        if self.content is not None:
            found = found.take(blueprint.takes(found.columns, self.content, len(found)))
        made = np.zeros(len(found), self.record)
        made["group"] = found.groups
        made["start"], made["stop"] = found.starts, found.stops
        made["sequence"] = found.sequences
        made["bucket"] = blueprint.buckets(found.event_times, self.hop)
        if self.content is None:
            made["newest"] = found.event_times
            for number, slot in enumerate(self.slots):
                made[f"slot{number}"] = blueprint.numbers(found.columns, slot, len(found))
        elif self.content.function is aggregation.Function.DISTINCT:
            places, ranks = sketch.places(found.columns[self.content.field])
            made["place"], made["rank"] = places, ranks
        else:
            made["event_time"] = found.event_times
            made["created_time"] = found.created_times
            made["number"] = found.sequences
            values, flags = blueprint.latest_values(found.columns[self.content.field])
            made["value"], made["present"] = values, flags
        return made[self.expiries(made) > made["start"]]

    def expiries(self, records: Records) -> Integers:
        """Returns the first time at which no window holds each record."""
        return blueprint.expiries(records["bucket"], self.hop, self.longest)

    def merge(self, records: Records) -> Records:
        """Returns the tiles of all records, whose lives no longer count."""
        if self.content is None:
            merged = _merge_numbers(self, records)
        elif self.content.function is aggregation.Function.DISTINCT:
            order = np.lexsort(
                (records["rank"], records["place"], records["bucket"], records["group"])
            )
            records = records[order]
            merged = records[_is_last(records, ("group", "bucket", "place"))]
        else:
            merged = self._merge_latest(records)
        merged["start"], merged["stop"], merged["sequence"] = EARLIEST, LATEST, 0
        return merged

    def _merge_latest(self, records: Records) -> Records:
        keys = ("number", "created_time", "event_time", "bucket", "group")
        records = records[np.lexsort([records[key] for key in keys])]
        ends = np.append(np.flatnonzero(_is_last(records, ("group", "bucket"))), len(records))
        behind = ends[np.searchsorted(ends, np.arange(len(records)))] - np.arange(len(records))
        return records[behind < self.most]


@functools.lru_cache(maxsize=1024)
def tables(plan: blueprint.Blueprint) -> tuple[Table, ...]:
    """Returns the tables of a view, in the order in which states hold them."""
    numbers = [Table(plan, hop, None) for hop in plan.hops]
    return (*numbers, *(Table(plan, hop, content) for hop, content in plan.contents))


def _is_last(records: Records, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tells which of sorted records is the last with its keys."""
    last = np.ones(len(records), np.bool_)
    last[:-1] = False
    for key in keys:
        last[:-1] |= records[key][1:] != records[key][:-1]
    return last


def _merge_numbers(table: Table, records: Records) -> Records:
    records = records[np.lexsort((records["bucket"], records["group"]))]
    if not len(records):
        return records
    ends = np.flatnonzero(_is_last(records, ("group", "bucket"))) + 1
    bounds = np.concatenate([np.zeros(1, np.int64), ends])
    merged = records[bounds[:-1]]
    merged["newest"] = np.maximum.reduceat(records["newest"], bounds[:-1])
    rest: dict[int, dict[str, float]] = {}
    for number, slot in enumerate(table.slots):
        name = f"slot{number}"
        values = np.ascontiguousarray(records[name])
        if slot.kind is not blueprint.Kind.SUM:
            merged[name] = slot.merge.reduceat(values, bounds[:-1])
            continue
        parts = exact.segment_partials(values, bounds)
        merged[name] = [part[-1] for part in parts]
        for tile, part in enumerate(parts):
            for depth, value in enumerate(part[:-1]):
                rest.setdefault(tile + depth * len(parts), {})[name] = value
    return np.concatenate([merged, _remainders(table, merged, rest)])


def _remainders(table: Table, merged: Records, rest: dict[int, dict[str, float]]) -> Records:
    """Returns further records for tiles whose exact sums do not fit one double."""
    made = np.zeros(len(rest), table.record)
    for number, slot in enumerate(table.slots):
        made[f"slot{number}"] = slot.neutral
    for row, (tile, values) in enumerate(rest.items()):
        owner = merged[tile % len(merged)]
        for name in ("group", "bucket", "newest"):
            made[row][name] = owner[name]
        for name, value in values.items():
            made[row][name] = value
    return made


@dataclass(slots=True)
class States:
    """The states of some groups, table by table; records are in the order of their groups."""

    applied: Integers
    """The last sequence in each, 0 where there is no state."""
    floors: Integers
    """The first time that each answers exactly."""
    records: list[Records]


def unpack(parts: Sequence[Table], values: Sequence[bytes | None]) -> States:
    """Returns the content of states, empty ones where there is none."""
    applied = np.zeros(len(values), np.int64)
    floors = np.full(len(values), EARLIEST, np.int64)
    tiles: list[list[bytes]] = [[] for _ in parts]
    singles: list[list[bytes]] = [[] for _ in parts]
    sizes = np.zeros((len(parts), len(values), 2), np.int64)
    for group, value in enumerate(values):
        if value is None:
            continue
        applied[group], _, _, floors[group] = HEADER.unpack_from(value)
        position = HEADER.size + _SIZES.size * len(parts)
        for number, table in enumerate(parts):
            some = _SIZES.unpack_from(value, HEADER.size + _SIZES.size * number)
            sizes[number, group] = some
            for width, count, pieces in (
                (table.tile.itemsize, some[0], tiles[number]),
                (table.single.itemsize, some[1], singles[number]),
            ):
                pieces.append(value[position : position + width * count])
                position += width * count
    records = [
        _joined(table, sizes[number], b"".join(tiles[number]), b"".join(singles[number]))
        for number, table in enumerate(parts)
    ]
    return States(applied, floors, records)


def _joined(table: Table, sizes: Integers, tiles: bytes, singles: bytes) -> Records:
    groups = np.arange(len(sizes))
    old = np.frombuffer(tiles, table.tile)
    made = np.zeros(len(old), table.record)
    made["group"] = np.repeat(groups, sizes[:, 0])
    made["start"], made["stop"] = EARLIEST, LATEST
    for name in table.payload:
        made[name] = old[name]
    new = np.frombuffer(singles, table.single)
    more = np.zeros(len(new), table.record)
    more["group"] = np.repeat(groups, sizes[:, 1])
    for name in new.dtype.names or ():
        more[name] = new[name]
    joined = np.concatenate([made, more])
    return joined[np.argsort(joined["group"], kind="stable")]


def pack(parts: Sequence[Table], states: States, upto: int) -> list[bytes]:
    """Returns states as bytes, with everything up to a sequence in them."""
    count = len(states.floors)
    pieces: list[tuple[Integers, Integers, bytes, bytes]] = []
    for table, found in zip(parts, states.records, strict=True):
        records = found[np.argsort(found["group"], kind="stable")]
        is_tile = records["sequence"] == 0
        old, new = records[is_tile], records[~is_tile]
        bounds = np.arange(count + 1)
        pieces.append(
            (
                np.searchsorted(old["group"], bounds),
                np.searchsorted(new["group"], bounds),
                _bytes(old, table.tile),
                _bytes(new, table.single),
            )
        )
    values = []
    for group, floor in enumerate(states.floors.tolist()):
        sizes, contents = [], []
        for table, (tiles, singles, old_bytes, new_bytes) in zip(parts, pieces, strict=True):
            sizes.append(
                _SIZES.pack(tiles[group + 1] - tiles[group], singles[group + 1] - singles[group])
            )
            width = table.tile.itemsize
            contents.append(old_bytes[tiles[group] * width : tiles[group + 1] * width])
            width = table.single.itemsize
            contents.append(new_bytes[singles[group] * width : singles[group + 1] * width])
        values.append(b"".join((HEADER.pack(upto, 0, 0, floor), *sizes, *contents)))
    return values


def _bytes(records: Records, dtype: np.dtype[Any]) -> bytes:
    made = np.zeros(len(records), dtype)
    for name in dtype.names or ():
        made[name] = records[name]
    return made.tobytes()
