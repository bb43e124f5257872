"""Segments of the history, and which of them to make, merge and thin out.

The rows of a view lie in two places, divided by a sequence: up to it in segments, whose sequences follow one
another without overlap, above it in the database. Compaction moves that border; merging and thinning
replace neighbours by one segment of the same sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


def to_thin(live: Sequence[Segment], retention: int, now: int) -> list[Segment]:
    """Returns the segments from which rows may have to go.

    Args:
        live: The segments of a view.
        retention: How long its rows are kept, in microseconds; 0 is for ever.
        now: The service's time.
    """
    if not retention:
        return []
    horizon = now - retention
    step = max(1, retention // THINNING_STEPS)
    return [
        each
        for each in live
        if each.rows and each.event_times[0] < horizon and horizon - each.thinned >= step
    ]
