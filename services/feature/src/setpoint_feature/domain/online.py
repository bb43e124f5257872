"""The online copy of an entity's greatest row: its bytes, and what they answer at a time.

A value is event time, created time and sequence as little-endian int64, then the packed row.
"""

import itertools
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import assemble, packing, plan, visibility

HEADER = struct.Struct("<qqq")
HEADER_BYTES: Final = HEADER.size
_HEADER_TYPE: Final = np.dtype("<i8")


def pack_value(event_time: int, created_time: int, sequence: int, row: bytes) -> bytes:
    """Returns the online value of one row."""
    return HEADER.pack(event_time, created_time, sequence) + row


def judge(
    view: plan.CompiledView,
    values: Sequence[bytes | None],
    rows: npt.NDArray[np.intp],
    times: visibility.Times,
) -> assemble.Winners:
    """Returns what the online copies of one view answer.

    Args:
        view: The view.
        values: The stored values of the keys asked for, None where there is none.
        rows: For each answered row the position of its value, or -1 where its key is null.
        times: The time asked for, for each row.
    """
    # One value of defaults at the end stands for every one that is absent, also for position -1.
    absent = bytes(HEADER_BYTES) + view.layout.defaults
    parts = [absent if value is None else value for value in values]
    parts.append(absent)
    data = b"".join(parts)
    starts = _starts(parts, view.layout)
    exists = np.array([value is not None for value in values] + [False], np.bool_)
    row_starts = starts[rows]
    headers = packing.windows(data, HEADER_BYTES)[row_starts].view(_HEADER_TYPE)
    event_times = headers[:, 0]
    created_times = headers[:, 1]
    codes = view.rule.judge(exists[rows], event_times, created_times, times)
    return assemble.Winners(
        data, row_starts + HEADER_BYTES, int(starts[-1]) + HEADER_BYTES, codes, event_times
    )


def _starts(parts: list[bytes], layout: packing.Layout) -> packing.Positions:
    if not layout.texts:
        width = HEADER_BYTES + layout.fixed_bytes
        return np.arange(0, len(parts) * width, width, dtype=np.int64)
    lengths = itertools.accumulate(map(len, parts), initial=0)
    return np.fromiter(lengths, np.int64, len(parts) + 1)[:-1]
