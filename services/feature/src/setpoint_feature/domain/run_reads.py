"""What the queries of the history ask, asked of a run."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import history, key_table, point_in_time, visibility
from setpoint_feature.domain.run import Numbers, Packed, Rows, Run

Flags = npt.NDArray[np.bool_]


def by_sequence(run: Run, after: int, upto: int) -> Rows:
    """Returns the rows with sequences after one and up to another, in their order."""
    rows = np.flatnonzero(_between(run.sequences, after, upto))
    return rows[np.argsort(run.sequences[rows])]


def of_keys(run: Run, keys: Sequence[bytes], upto: int) -> history.NumberedRows:
    """Returns the rows of some keys."""
    numbers, rows = _of_keys(run, keys, (0, upto))
    return history.NumberedRows(numbers, run.stored(rows))


def versions(
    run: Run, keys: Sequence[bytes], pairs: tuple[Numbers, Numbers], upto: int
) -> history.NumberedRows:
    """Returns the rows of pairs of a key's position and an event time."""
    wanted = key_table.KeyTable.of(keys)
    positions = run.find(wanted, wanted.hashes())[pairs[0]]
    places, rows = run.rows_at(positions, pairs[1])
    inside = _between(run.sequences[rows], 0, upto)
    return history.NumberedRows(pairs[0][places[inside]], run.stored(rows[inside]))


def in_window(
    run: Run,
    keys: Sequence[bytes],
    sequences: tuple[int, int],
    rule: visibility.Rule,
    window: tuple[int, int],
) -> history.NumberedRows:
    """Returns, for some keys, rows that suffice to answer any time in a window.

    Of the rows known at its first time only the greatest of each key can win; the others become known
    later.

    Args:
        run: The run.
        keys: The keys.
        sequences: Sequence after which and up to which rows count.
        rule: When rows are seen.
        window: First and last time.
    """
    numbers, rows = _of_keys(run, keys, sequences)
    visible = rule.visible_from(run.event_times[rows], run.created_times[rows])
    at_first = np.flatnonzero(visible <= window[0])
    is_greatest = np.ones(len(at_first), np.bool_)
    is_greatest[:-1] = numbers[at_first[1:]] != numbers[at_first[:-1]]
    kept = (visible > window[0]) & (visible <= window[1])
    kept[at_first[is_greatest]] = True
    return history.NumberedRows(numbers[kept], run.stored(rows[kept]))


def _of_keys(run: Run, keys: Sequence[bytes], sequences: tuple[int, int]) -> tuple[Numbers, Rows]:
    wanted = key_table.KeyTable.of(keys)
    numbers, rows = run.rows_of(run.find(wanted, wanted.hashes()))
    inside = _between(run.sequences[rows], *sequences)
    return numbers[inside], rows[inside]


def greatest(run: Run, after: bytes, limit: int) -> Rows:
    """Returns the greatest row of each of the next keys, in the order of the keys."""
    start = run.position_after(after)
    return run.bounds[start + 1 : start + 1 + limit] - 1


def next_greatest(found: history.NamedRows, limit: int) -> history.NamedRows:
    """Returns the greatest row of each of the first keys, in the order of the keys."""
    keys = sorted(set(found.keys))[:limit]
    numbers = {key: number for number, key in enumerate(keys)}
    owners = np.array([numbers.get(key, len(keys)) for key in found.keys], np.int64)
    rows = found.rows
    values = point_in_time.Values(owners, rows.event_times, rows.created_times, rows.sequences)
    return _take(found, point_in_time.greatest(values)[: len(keys)])


def by_event_time(
    run: Run, span: tuple[int, int], known_at: int, sequences: tuple[int, int]
) -> Rows:
    """Returns of each key and event time the greatest row, in no useful order.

    Args:
        run: The run.
        span: First event time, and the first one that is not wanted.
        known_at: Rows that arrived later do not count.
        sequences: Sequence after which and up to which rows count.
    """
    inside = (run.event_times >= span[0]) & (run.event_times < span[1])
    inside &= run.created_times <= known_at
    inside &= _between(run.sequences, *sequences)
    rows = np.flatnonzero(inside)
    owners = np.searchsorted(run.bounds, rows, side="right") - 1
    events = run.event_times[rows]
    is_greatest = np.ones(len(rows), np.bool_)
    is_greatest[:-1] = (owners[1:] != owners[:-1]) | (events[1:] != events[:-1])
    return rows[is_greatest]


class Timed:
    """Rows of a run in the order of their times, taken from the front."""

    def __init__(self, run: Run, span: tuple[int, int], known_at: int) -> None:
        """Sorts the rows of a span of event times that were known at a time."""
        self._run = run
        rows = by_event_time(run, span, known_at, (0, int(run.sequences.max(initial=0))))
        order = np.lexsort((run.sequences[rows], run.created_times[rows], run.event_times[rows]))
        self._rows = rows[order]
        self._events = run.event_times[self._rows]
        self._position = 0

    def stop(self, limit: int, end: int) -> int:
        """Returns an event time before which about `limit` rows lie, `end` where there are fewer."""
        place = self._position + limit
        return int(self._events[place]) + 1 if place < len(self._events) else end

    def take(self, stop: int) -> history.NamedRows:
        """Returns the next rows whose event times lie before one."""
        first = self._position
        self._position = int(np.searchsorted(self._events, stop))
        return self._run.named(self._rows[first : self._position])


def next_page(sources: Sequence[Timed], stop: int, rest: history.NamedRows) -> history.NamedRows:
    """Returns the next winners whose event times lie before one, in the order of their times.

    Args:
        sources: Runs, of which the rows are taken.
        stop: First event time that is not wanted yet.
        rest: Rows that lie elsewhere.
    """
    return _winners(history.concat_named([*(each.take(stop) for each in sources), rest]))


def _winners(found: history.NamedRows) -> history.NamedRows:
    """Returns of each key and event time the greatest row, in the order of their times."""
    rows = found.rows
    numbers, _ = key_table.group(key_table.KeyTable.of(found.keys))
    order = np.lexsort((rows.sequences, rows.created_times, numbers, rows.event_times))
    events, owners = rows.event_times[order], numbers[order]
    is_greatest = np.ones(len(order), np.bool_)
    is_greatest[:-1] = (events[1:] != events[:-1]) | (owners[1:] != owners[:-1])
    kept = order[is_greatest]
    times = rows.sequences[kept], rows.created_times[kept], rows.event_times[kept]
    return _take(found, kept[np.lexsort(times)])


def part(found: history.NamedRows, first: int, last: int) -> history.NamedRows:
    """Returns neighbouring rows."""
    return _take(found, np.arange(first, min(last, len(found.keys))))


def _take(found: history.NamedRows, order: Rows) -> history.NamedRows:
    rows = found.rows
    offsets = np.append(rows.starts, len(rows.data))
    packed = Packed(np.frombuffer(rows.data, np.uint8), 0, offsets).take(order)
    taken = dataclasses.replace(
        rows,
        event_times=rows.event_times[order],
        created_times=rows.created_times[order],
        sequences=rows.sequences[order],
        data=packed.data.tobytes(),
        starts=packed.starts(),
    )
    return history.NamedRows([found.keys[row] for row in order.tolist()], taken)


def _between(sequences: Numbers, after: int, upto: int) -> Flags:
    return (sequences > after) & (sequences <= upto)
