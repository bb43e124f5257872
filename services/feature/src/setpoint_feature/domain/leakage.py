"""Does a column of a training table hold values that nobody knew at the time of its rows?

A value leaks when it differs from the one known at its row's time and equals one that is stored for the
same entity and became known only later.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_feature.domain import history, visibility, wording

SHOWN_ROWS: Final = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one column."""

    values: int
    """Values that are not null."""
    leaked: int
    rows: tuple[int, ...]
    """The first few leaking rows."""
    message: str


def judge(
    past: history.Past,
    field: int,
    keys: npt.NDArray[np.int64],
    times: visibility.Times,
    column: Column,
) -> Finding:
    """Judges one column of a table against all stored rows of its entities.

    Args:
        past: The stored rows, those that became known after the table's times included.
        field: Position of the field that the column claims to hold.
        keys: Numbers of the entities of the table's rows.
        times: The times of the table's rows.
        column: The values, of the field's type.
    """
    present = np.ones(column.rows, np.bool_) if column.validity is None else column.validity
    # The last position, that of the row of defaults, stands for "nothing is known".
    starts = np.append(past.rows.starts, past.defaults)
    (stored,) = past.view.layout.unpack(past.rows.data, starts, (field,))
    stored_codes, codes = _codes(stored, column)
    known = stored_codes[past.search(keys, times)]
    later = _first_later(past, keys, codes, stored_codes[:-1], times)
    leaked = present & (later >= 0) & (codes != known)
    rows = np.flatnonzero(leaked)
    count = len(rows)
    values = int(np.count_nonzero(present))
    message = _message(past, field, values, count, (later - times)[leaked])
    return Finding(values, count, tuple(rows[:SHOWN_ROWS].tolist()), message)


def _first_later(
    past: history.Past,
    keys: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int64],
    stored_codes: npt.NDArray[np.int64],
    times: visibility.Times,
) -> visibility.Times:
    """Returns when an equal value of the same entity first becomes known after each row's time, or -1."""
    nothing = np.full(len(keys), -1, np.int64)
    if not len(stored_codes):
        return nothing
    kinds = 1 + max(int(stored_codes.max()), int(codes.max(initial=0)))
    pairs, stored_pairs = np.unique(past.keys * kinds + stored_codes, return_inverse=True)
    wanted = keys * kinds + codes
    pair = np.searchsorted(pairs, wanted)
    exists = (keys >= 0) & (codes > 0) & (pairs[np.minimum(pair, len(pairs) - 1)] == wanted)
    visible = past.rule.visible_from(past.rows.event_times, past.rows.created_times)
    moments, moment_of = np.unique(visible, return_inverse=True)
    step = len(moments) + 1
    timeline = np.sort(stored_pairs * step + moment_of)
    asked = pair * step + np.searchsorted(moments, times, side="right")
    position = np.minimum(np.searchsorted(timeline, asked), len(timeline) - 1)
    found = timeline[position]
    exists &= (found >= asked) & (found // step == pair)
    return np.where(exists, moments[np.minimum(found % step, len(moments) - 1)], nothing)


def _codes(stored: Column, column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns small numbers for the values of two columns, equal where they are equal, 0 for null."""
    arrays = [_comparable(stored), _comparable(column)]
    _, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    codes = codes + 1
    parts = codes[: stored.rows], codes[stored.rows :]
    for part, each in zip(parts, (stored, column), strict=True):
        if each.validity is not None:
            part[~each.validity] = 0
    return parts


def _comparable(column: Column) -> npt.NDArray[Any]:
    if column.dtype is DataType.STRING:
        texts = column.text()
        if column.validity is not None:
            texts[~column.validity] = ""
        return texts.astype(np.dtypes.StringDType())
    return column.values


def _message(
    past: history.Past, field: int, values: int, leaked: int, delays: visibility.Times
) -> str:
    name = f"{past.view.view.name}.{past.view.layout.slots[field].name}"
    if not leaked:
        return f"no value equals one of {name} that became known only after its row's time"
    return (
        f"{leaked} of {values} values equal one of {name} that became known only after their row's time, "
        f"by {wording.duration(int(delays.min()))} to {wording.duration(int(delays.max()))}"
    )
