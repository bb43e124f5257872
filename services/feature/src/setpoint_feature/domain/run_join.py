"""The point-in-time join over the runs of a view: the greatest of what each of them knows wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_feature.domain import assemble, key_table, plan, run, visibility

_EARLIEST: Final = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class SpineKeys:
    """The keys of a piece of a spine, row by row."""

    table: key_table.KeyTable
    hashes: key_table.Words
    valid: key_table.Flags | None
    """False where the key is null; None where none is."""


class _Best:
    """For each row of a piece the greatest row found so far."""

    def __init__(self, keys: SpineKeys, times: visibility.Times) -> None:
        self._keys = keys
        self._times = times
        self.places = np.full(len(times), -1, np.int64)
        """In which run it lies, -1 where there is none."""
        self.rows = np.zeros(len(times), np.int64)
        self.event_times = np.full(len(times), _EARLIEST)
        self.created_times = np.full(len(times), _EARLIEST)

    def look(self, rule: visibility.Rule, place: int, source: run.Run) -> None:
        """Takes what a run knows where it is greater than what was found before."""
        first, last = source.event_span
        # A row cannot be seen before it became true, and an earlier one does not win.
        asks = (self._times >= first) & (self.event_times <= last)
        if self._keys.valid is not None:
            asks &= self._keys.valid
        asked = np.flatnonzero(asks)
        if not len(asked):
            return
        positions = source.find(self._keys.table, self._keys.hashes, asked)
        known = positions >= 0
        asked, positions = asked[known], positions[known]
        rows = source.search(rule, positions, self._times[asked])
        seen = rows >= 0
        self._offer(place, source, asked[seen], rows[seen])

    def _offer(self, place: int, source: run.Run, asked: run.Rows, rows: run.Rows) -> None:
        events, created = source.event_times[rows], source.created_times[rows]
        better = events > self.event_times[asked]
        ties = np.flatnonzero(events == self.event_times[asked])
        rivals = self.created_times[asked[ties]]
        # Of two that are equal the one with the greater sequence wins, and those follow the runs.
        wins = (created[ties] == rivals) & (place > self.places[asked[ties]])
        better[ties] = wins | (created[ties] > rivals)
        asked = asked[better]
        self.places[asked] = place
        self.rows[asked] = rows[better]
        self.event_times[asked] = events[better]
        self.created_times[asked] = created[better]


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
    best = _Best(keys, times)
    places = [place for place, source in enumerate(runs) if len(source)]
    # The latest first: who has found a row there need not look where all are earlier.
    for place in sorted(places, key=lambda place: runs[place].event_span[1], reverse=True):
        best.look(rule, place, runs[place])
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
    order = np.empty(count + 1, np.int64)
    filled = 0
    # Run by run first, and put in order then: both copy whole rows, which storing them one by one does not.
    for place, source in enumerate(runs):
        rows = np.flatnonzero(best.places == place)
        if len(rows):
            stop = filled + len(rows)
            np.take(source.packed.matrix(), best.rows[rows], 0, found[filled:stop], "clip")
            order[rows] = np.arange(filled, stop)
            filled = stop
    found[filled] = np.frombuffer(view.layout.defaults, np.uint8)
    order[:count][best.places < 0] = filled
    order[count] = filled
    return found.take(order, 0).reshape(-1)


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
