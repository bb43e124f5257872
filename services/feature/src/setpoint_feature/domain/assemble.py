"""From the winning rows to what is answered: values or defaults, statuses and event times.

The online and the offline path end here, with the same packed bytes; that is what makes them equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns
from setpoint_columns import columns as parts
from setpoint_feature.domain import blueprint, definitions, history, packing, plan, visibility

_STATUS = definitions.Status
_WITHOUT_DEFAULT = bytes((_STATUS.FRESH, _STATUS.STALE, _STATUS.MISSING)).ljust(256, b"\0")
_WITH_DEFAULT = bytes((_STATUS.FRESH, _STATUS.STALE, _STATUS.DEFAULT)).ljust(256, b"\0")


@dataclass(frozen=True, slots=True)
class Winners:
    """For each row the best value that one group found, judged."""

    data: bytes | packing.Bytes
    """Packed rows, among them the view's row of defaults."""
    starts: packing.Positions
    """Where the row of each value lies in `data`; anything where there is none."""
    defaults: int
    """Where the row of defaults lies."""
    codes: visibility.Codes
    event_times: visibility.Times
    is_arranged: bool = False
    """Rows have no texts and lie one after the other, in the place of each that is not fresh the defaults."""


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, column by column in the order of the feature set."""

    features: Columns
    statuses: tuple[bytes, ...]
    event_times: tuple[bytes, ...]


Found = Winners | blueprint.Computed
"""What one group of a plan is answered with."""


def serve(compiled: plan.Plan, rows: int, winners: list[Found]) -> Served:
    """Returns the answer for a plan.

    Args:
        compiled: The plan.
        rows: Number of rows.
        winners: What each group of the plan found, in the plan's order.
    """
    count = len(compiled.columns)
    columns: list[Column | None] = [None] * count
    statuses = [b""] * count
    event_times = [b""] * count
    for group, found in zip(compiled.groups, winners, strict=True):
        if isinstance(found, blueprint.Computed):
            for number, place in enumerate(group.places):
                columns[place] = found.columns[number].rename(compiled.columns[place])
                statuses[place] = found.statuses[number]
                event_times[place] = found.event_times[number]
            continue
        values = _values(group, found, compiled.columns)
        codes = found.codes.tobytes()
        with_default = codes.translate(_WITH_DEFAULT)
        without = codes.translate(_WITHOUT_DEFAULT)
        times = np.where(found.codes == visibility.ABSENT, visibility.NO_TIME, found.event_times)
        time_bytes = times.astype("<i8", copy=False).tobytes()
        for field, place, column in zip(group.fields, group.places, values, strict=True):
            columns[place] = column
            statuses[place] = with_default if group.view.has_default[field] else without
            event_times[place] = time_bytes
    named = {column.name: column for column in columns if column is not None}
    return Served(parts.trusted(rows, named), tuple(statuses), tuple(event_times))


def _values(group: plan.Group, found: Winners, names: Sequence[str]) -> list[Column]:
    """Returns the fields of a group, the defaults standing in for what is not fresh."""
    columns = [names[place] for place in group.places]
    if found.is_arranged:
        rows = len(found.codes)
        return group.view.layout.unpack_first(found.data, rows, group.fields, columns)
    starts = np.where(found.codes == visibility.FRESH, found.starts, found.defaults)
    return group.view.layout.unpack(found.data, starts, group.fields, columns)


def join(past: history.Past, keys: npt.NDArray[np.int64], times: visibility.Times) -> Winners:
    """Returns what stored rows answer for each (key, T).

    Args:
        past: The rows.
        keys: Numbers of the keys; a negative one matches nothing.
        times: The time of each row.
    """
    found = past.search(keys, times)
    exists = found >= 0
    if len(past.rows):
        event_times = past.rows.event_times[found]
        created_times = past.rows.created_times[found]
        starts = past.rows.starts[found]
    else:
        event_times = created_times = starts = np.zeros(len(keys), np.int64)
    codes = past.rule.judge(exists, event_times, created_times, times)
    return Winners(past.rows.data, starts, past.defaults, codes, event_times)
