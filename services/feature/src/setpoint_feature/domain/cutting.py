"""Rows cut into stretches that fit a message each."""

import numpy as np

from setpoint_columns import Columns

_OFFSET_BYTES = 4


def cuts(columns: Columns, extra: int, max_bytes: int) -> list[tuple[int, int]]:
    """Returns where stretches of at most `max_bytes` begin and end; a row that is larger is one of its own.

    Args:
        columns: The rows.
        extra: What comes with each of them, in bytes.
        max_bytes: Of one stretch.
    """
    texts = [column.offsets for column in columns.columns if column.offsets is not None]
    fixed = [column.values.itemsize for column in columns.columns if column.offsets is None]
    size = extra + sum(fixed) + len(texts) * _OFFSET_BYTES
    ends = np.arange(1, columns.rows + 1) * size
    for offsets in texts:
        ends += offsets[1:] - offsets[0]
    found = []
    start, sent = 0, 0
    while start < columns.rows:
        stop = max(start + 1, int(np.searchsorted(ends, sent + max_bytes, side="right")))
        found.append((start, stop))
        start, sent = stop, int(ends[stop - 1])
    return found
