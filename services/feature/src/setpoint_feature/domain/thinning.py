"""Which rows retention keeps.

Of what an entity knows at the horizon only the greatest row can ever win again; everything that becomes
visible later may. So joins at the horizon or later, and online copies, lose nothing.

Runs keep their keys in one order, so the same stretch of keys is taken from all of them at once, and all rows of a
view are looked at once, however many runs there are.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from setpoint_feature.domain import key_table, point_in_time, run, visibility

KEYS_AT_ONCE: Final = 500_000
"""Keys of all runs that are compared with each other at once, or up to twice as many."""


def holders(
    runs: Sequence[run.Run], rule: visibility.Rule, horizon: int, keys_at_once: int = KEYS_AT_ONCE
) -> list[run.Numbers]:
    """Returns for each run the positions of the keys whose greatest row known at the horizon it holds, ascending.

    Args:
        runs: All runs of a view, in the order of their sequences.
        rule: How the view is seen.
        horizon: The time.
        keys_at_once: About how many keys are in memory.
    """
    found: list[list[run.Numbers]] = [[] for _ in runs]
    starts = [0] * len(runs)
    for last in [*_borders(runs, keys_at_once), None]:
        stops = [len(each.keys) if last is None else each.position_after(last) for each in runs]
        stretches = [np.arange(*bounds) for bounds in zip(starts, stops, strict=True)]
        for mine, held in zip(found, _held(runs, stretches, rule, horizon), strict=True):
            mine.append(held)
        starts = stops
    return [np.concatenate(each) for each in found]


def needed(content: run.Run, held: run.Numbers, rule: visibility.Rule, horizon: int) -> run.Rows:
    """Returns the rows of a run that some read at the horizon or later can see, ascending.

    Args:
        content: The run.
        held: What `holders` found for it.
        rule: How the view is seen.
        horizon: Earliest time that is still asked for.
    """
    kept = rule.visible_from(content.event_times, content.created_times) > horizon
    kept[content.search(rule, held, np.full(len(held), horizon))] = True
    return np.flatnonzero(kept)


def _borders(runs: Sequence[run.Run], keys_at_once: int) -> list[bytes]:
    """Returns keys that divide all keys into stretches of `keys_at_once` and up to twice as many."""
    step = max(1, keys_at_once // max(1, len(runs)))
    sampled = [
        key for each in runs for key in each.keys.to_list(np.arange(step - 1, len(each.keys), step))
    ]
    # Each of them stands for a step of keys.
    return sorted(sampled)[len(runs) - 1 :: max(1, len(runs))]


def _held(
    runs: Sequence[run.Run],
    stretches: Sequence[run.Numbers],
    rule: visibility.Rule,
    horizon: int,
) -> list[run.Numbers]:
    """Returns which keys of a stretch of each run have their greatest row there."""
    tables, events, created, owners, positions = [], [], [], [], []
    for place, (each, stretch) in enumerate(zip(runs, stretches, strict=True)):
        rows = each.search(rule, stretch, np.full(len(stretch), horizon))
        seen = np.flatnonzero(rows >= 0)
        tables.append(each.keys.take(stretch[seen]))
        events.append(each.event_times[rows[seen]])
        created.append(each.created_times[rows[seen]])
        owners.append(np.full(len(seen), place))
        positions.append(stretch[seen])
    numbers, _ = key_table.group(key_table.KeyTable.concat(tables))
    owner = np.concatenate(owners)
    # Sequences of a later run are greater, so runs decide where both times are equal.
    values = point_in_time.Values(numbers, np.concatenate(events), np.concatenate(created), owner)
    greatest = np.sort(point_in_time.greatest(values))
    owner, position = owner[greatest], np.concatenate(positions)[greatest]
    return [position[owner == place] for place in range(len(runs))]
