"""The point-in-time join over the runs of a view: the greatest of what each of them knows wins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from setpoint_feature.domain import assemble, key_table, plan, run, visibility


@dataclass(frozen=True, slots=True)
class SpineKeys:
    """The keys of a piece of a spine, each once, and which of them each row has."""

    distinct: key_table.KeyTable
    hashes: key_table.Words
    numbers: run.Numbers
    """By row; -1 where the key is null."""

    @classmethod
    def of(cls, keys: key_table.KeyTable, valid: key_table.Flags | None) -> "SpineKeys":
        """Finds out which keys are equal; rows that are not valid have none."""
        numbers, firsts = key_table.group(keys)
        distinct = keys.take(firsts)
        if valid is not None:
            numbers = np.where(valid, numbers, -1)
        return cls(distinct, distinct.hashes(), numbers)

    def used(self) -> run.Numbers:
        """Returns the keys that some row has."""
        return np.unique(self.numbers[self.numbers >= 0])


class _Best:
    """For each row of a piece the greatest row found so far."""

    def __init__(self, count: int) -> None:
        self.places = np.full(count, -1, np.int64)
        """In which run it lies, -1 where there is none."""
        self.rows = np.zeros(count, np.int64)
        self.event_times = np.zeros(count, np.int64)
        self.created_times = np.zeros(count, np.int64)

    def offer(self, place: int, source: run.Run, rows: run.Rows) -> None:
        """Takes what a run found where it is greater; its sequences follow those of earlier runs."""
        events, created = source.event_times[rows], source.created_times[rows]
        better = (self.places < 0) | (events > self.event_times)
        better |= (events == self.event_times) & (created >= self.created_times)
        better &= rows >= 0
        np.copyto(self.places, place, where=better)
        for mine, found in (
            (self.rows, rows),
            (self.event_times, events),
            (self.created_times, created),
        ):
            np.copyto(mine, found, where=better)


def join(
    view: plan.CompiledView,
    rule: visibility.Rule,
    runs: Sequence[run.Run],
    keys: SpineKeys,
    times: visibility.Times,
) -> assemble.Winners:
    """Returns what stored rows answer for each (key, T).

    Args:
        view: The view.
        rule: When its rows are seen, and when they are too old.
        runs: All of its rows, in the order of their sequences.
        keys: The keys asked for.
        times: The time of each row.
    """
    best = _Best(len(times))
    for place, source in enumerate(runs):
        positions = np.append(source.find(keys.distinct, keys.hashes), -1)[keys.numbers]
        if len(source) and (positions >= 0).any():
            best.offer(place, source, source.search(rule, positions, times))
    codes = rule.judge(best.places >= 0, best.event_times, best.created_times, times)
    # What is not fresh is answered with defaults, whatever was found.
    np.copyto(best.places, -1, where=codes != visibility.FRESH)
    if view.layout.row_bytes:
        data = _arrange(view, runs, best)
        starts = np.arange(0, len(data), view.layout.row_bytes, dtype=np.int64)
        return assemble.Winners(
            data, starts[:-1], int(starts[-1]), codes, best.event_times, is_arranged=True
        )
    data, starts, defaults = _gather(view, runs, best)
    return assemble.Winners(data, starts, defaults, codes, best.event_times)


def _arrange(view: plan.CompiledView, runs: Sequence[run.Run], best: _Best) -> key_table.Bytes:
    """Returns rows of equal width, each in its place, and the defaults where there is none and behind."""
    count = len(best.rows)
    found = np.empty((count + 1, view.layout.row_bytes), np.uint8)
    for place, source in enumerate(runs):
        rows = np.flatnonzero(best.places == place)
        if len(rows) == count:
            np.take(source.packed.matrix(), best.rows, 0, found[:count], "clip")
        elif len(rows):
            found[rows] = source.packed.matrix()[best.rows[rows]]
    defaults = np.frombuffer(view.layout.defaults, np.uint8)
    found[:count][best.places < 0] = defaults
    found[count] = defaults
    return found.reshape(-1)


def _gather(
    view: plan.CompiledView, runs: Sequence[run.Run], best: _Best
) -> tuple[key_table.Bytes, run.Rows, int]:
    """Returns rows of different lengths one after the other, where each begins, and the defaults."""
    parts = []
    starts = np.zeros(len(best.rows), np.int64)
    size = 0
    for place, source in enumerate(runs):
        rows = np.flatnonzero(best.places == place)
        packed = source.packed.take(best.rows[rows])
        starts[rows] = packed.starts() + size
        size += len(packed.data)
        parts.append(packed.data)
    parts.append(np.frombuffer(view.layout.defaults, np.uint8))
    return np.concatenate(parts), starts, size
