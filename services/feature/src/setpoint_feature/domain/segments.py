"""Segments of the history, and which of them to make, merge and thin out.

The rows of a view lie in two places, divided by a sequence: up to it in segments, whose sequences follow one
another without overlap, above it in the database. Compaction moves that border; merging and thinning
replace neighbours by one segment of the same sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_feature.domain import key_table, run, visibility

MERGED_AT_ONCE: Final = 4
"""Neighbours that are merged into one. Fewer would rewrite rows more often, more would leave more files."""
FULL_SHARE: Final = 0.7
"""Fewer neighbours are merged when they fill so much of a segment, which then is not touched again."""
THINNED_SHARE: Final = 0.1
"""A segment is rewritten when at least this share of its rows can go."""
THINNING_STEPS: Final = 8
"""How many times within one retention a segment is looked at again."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An immutable file with the rows of a range of sequences of one view."""

    segment_id: str
    view: int
    first: int
    """First sequence that lies here."""
    last: int
    """Last sequence that lies here; retention may have left gaps."""
    rows: int
    size: int
    """Bytes of the file."""
    digest: bytes
    path: str
    """Relative to the folder of segments."""
    event_times: tuple[int, int]
    """Least and greatest; both 0 where there are no rows."""
    created_times: tuple[int, int]
    thinned: int
    """Retention was applied as of this time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When rows move, and how large segments become."""

    recent_rows: int
    """Rows of each view that stay in the database."""
    move_rows: int
    """Rows above those that make moving worthwhile."""
    segment_rows: int
    segment_bytes: int


def move_upto(after: int, last: int, limits: Limits) -> int | None:
    """Returns up to which sequence rows shall move, None where it is not worthwhile.

    Args:
        after: Last sequence in segments.
        last: Last sequence of the view.
        limits: What is worthwhile.
    """
    upto = last - limits.recent_rows
    if upto - after < max(1, limits.move_rows):
        return None
    return min(upto, after + limits.segment_rows)


def to_merge(live: Sequence[Segment], limits: Limits) -> tuple[Segment, ...]:
    """Returns the neighbours to merge next, the smallest first; none where all is well.

    Args:
        live: The segments of a view, in the order of their sequences.
        limits: How large a segment may become.
    """
    groups = [
        tuple(live[start : start + count])
        for count in range(2, MERGED_AT_ONCE + 1)
        for start in range(len(live) - count + 1)
    ]
    fitting = [group for group in groups if _fits(group, limits)]
    return min(fitting, key=lambda group: sum(each.rows for each in group), default=())


def _fits(group: Sequence[Segment], limits: Limits) -> bool:
    """Tells whether a merged segment would be small enough, and full or of many."""
    share = max(
        sum(each.rows for each in group) / limits.segment_rows,
        sum(each.size for each in group) / limits.segment_bytes,
    )
    return share <= 1 and (len(group) == MERGED_AT_ONCE or share >= FULL_SHARE)


def to_thin(live: Sequence[Segment], retention: int, now: int) -> Segment | None:
    """Returns the next segment from which rows may have to go, or None.

    Args:
        live: The segments of a view.
        retention: How long its rows are kept, in microseconds; 0 is for ever.
        now: The service's time.
    """
    if not retention:
        return None
    horizon = now - retention
    step = max(1, retention // THINNING_STEPS)
    for each in live:
        if each.rows and each.event_times[0] < horizon and horizon - each.thinned >= step:
            return each
    return None


def needed(runs: Sequence[run.Run], index: int, rule: visibility.Rule, horizon: int) -> run.Rows:
    """Returns the rows of a run that some read at the horizon or later can see, ascending.

    Of what an entity knows at the horizon only the greatest row can ever win again; everything that becomes
    visible later may. So joins at the horizon or later, and online copies, lose nothing.

    Args:
        runs: All runs of the view, in the order of their sequences.
        index: Which of them is meant.
        rule: How the view is seen.
        horizon: Earliest time that is still asked for.
    """
    mine = runs[index]
    later = rule.visible_from(mine.event_times, mine.created_times) > horizon
    times = np.full(len(mine.keys), horizon, np.int64)
    hashes = mine.keys.hashes()
    winners = mine.search(rule, np.arange(len(mine.keys)), times)
    kept = later
    kept[winners[_undefeated(runs, index, rule, times, hashes, winners)]] = True
    return np.flatnonzero(kept)


def _undefeated(
    runs: Sequence[run.Run],
    index: int,
    rule: visibility.Rule,
    times: visibility.Times,
    hashes: key_table.Words,
    winners: run.Rows,
) -> run.Rows:
    """Returns the keys of a run whose greatest row is the greatest of all runs."""
    mine = runs[index]
    best = winners >= 0
    for place, other in enumerate(runs):
        if place == index:
            continue
        found = other.search(rule, other.find(mine.keys, hashes), times)
        rivals = np.flatnonzero((found >= 0) & best)
        events = other.event_times[found[rivals]], mine.event_times[winners[rivals]]
        created = other.created_times[found[rivals]], mine.created_times[winners[rivals]]
        # Sequences of a later run are greater, so it wins where both times are equal.
        later_wins = created[0] >= created[1] if place > index else created[0] > created[1]
        best[rivals[(events[0] > events[1]) | ((events[0] == events[1]) & later_wins)]] = False
    return np.flatnonzero(best)
