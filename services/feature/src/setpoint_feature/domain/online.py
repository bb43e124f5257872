"""The online copy of an entity's greatest row: its bytes, and what they answer at a time.

A value is event time, created time and sequence as little-endian int64, then the packed row.
"""

import itertools
import struct
from collections.abc import Sequence
from typing import Final, cast

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
    exists = np.ones(len(values) + 1, np.bool_)
    exists[-1] = False
    if None in values:
        exists[:-1] = [value is not None for value in values]
        values = [absent if value is None else value for value in values]
    parts = [*cast(Sequence[bytes], values), absent]
    data = b"".join(parts)
    if view.layout.row_bytes:
        return _judge_equal(view, data, exists[rows], rows, times)
    starts = _starts(parts)
    row_starts = starts[rows]
    headers = packing.windows(data, HEADER_BYTES)[row_starts].view(_HEADER_TYPE)
    event_times = headers[:, 0]
    codes = view.rule.judge(exists[rows], event_times, headers[:, 1], times)
    return assemble.Winners(
        data, row_starts + HEADER_BYTES, int(starts[-1]) + HEADER_BYTES, codes, event_times
    )


def _judge_equal(
    view: plan.CompiledView,
    data: bytes,
    exists: visibility.Flags,
    rows: npt.NDArray[np.intp],
    times: visibility.Times,
) -> assemble.Winners:
    """Returns what values of equal width answer, each row in its place."""
    count, width = len(rows), view.layout.row_bytes
    values = np.frombuffer(data, np.uint8).reshape(-1, HEADER_BYTES + width).take(rows, 0)
    headers = values[:, :HEADER_BYTES].view(_HEADER_TYPE)
    event_times = headers[:, 0]
    codes = view.rule.judge(exists, event_times, headers[:, 1], times)
    found = np.empty((count + 1, width), np.uint8)
    found[:count] = values[:, HEADER_BYTES:]
    defaults = np.frombuffer(view.layout.defaults, np.uint8)
    found[:count][codes != visibility.FRESH] = defaults
    found[count] = defaults
    starts = np.arange(count) * width
    return assemble.Winners(
        found.reshape(-1), starts, count * width, codes, event_times, is_arranged=True
    )


def _starts(parts: list[bytes]) -> packing.Positions:
    lengths = itertools.accumulate(map(len, parts), initial=0)
    return np.fromiter(lengths, np.int64, len(parts) + 1)[:-1]
