"""The point-in-time join: for each (key, T) the greatest value known at T.

"Known at T" has two bounds, on event time and on arrival, and an as-of search takes one. So each value
gets the moment from which it is visible, the values of a key are sorted by it, and each is replaced
by the greatest (event_time, created_time, sequence) so far. One binary search by (key, T) then
finds the winner. Age is judged on the winner afterwards (see `visibility`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import visibility

Codes = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]

NO_ROW: Final = -1


@dataclass(frozen=True, slots=True)
class Values:
    """Stored values of one view, in any order, as arrays of equal length."""

    keys: Codes
    """Small numbers that stand for entity keys, from 0."""
    event_times: Times
    created_times: Times
    sequences: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Returns the number of values."""
        return len(self.keys)


class Timeline:
    """Values prepared for any number of searches."""

    def __init__(self, values: Values, rule: visibility.Rule) -> None:
        """Sorts the values; the cost is that of two sorts."""
        self._moments, self._composite, self._winners = _prepare(values, rule)

    def search(self, keys: Codes, times: Times) -> Rows:
        """Returns for each (key, T) the position of the winning value, or NO_ROW.

        Args:
            keys: Numbers of the keys; a negative one matches nothing.
            times: The time of each row.
        """
        if not len(self._composite):
            return np.full(len(keys), NO_ROW, np.int64)
        step = len(self._moments) + 1
        ranks = np.searchsorted(self._moments, times, side="right")
        positions = np.searchsorted(self._composite, keys * step + ranks, side="right") - 1
        # The value found belongs to an earlier key when this key has none that early.
        found = (positions >= 0) & (keys >= 0)
        found &= self._composite[np.maximum(positions, 0)] // step == keys
        return np.where(found, self._winners[np.maximum(positions, 0)], NO_ROW)


def _prepare(values: Values, rule: visibility.Rule) -> tuple[Times, Codes, Rows]:
    """Returns the distinct moments, the sorted (key, moment) numbers, and the winner at each."""
    count = len(values)
    by_value = np.lexsort((values.sequences, values.created_times, values.event_times))
    ranks = np.empty(count, np.int64)
    ranks[by_value] = np.arange(count)
    visible = rule.visible_from(values.event_times, values.created_times)
    moments, moment_of = np.unique(visible, return_inverse=True)
    composite = values.keys * (len(moments) + 1) + moment_of + 1
    order = np.lexsort((ranks, composite))
    # The key is the high part, so one running maximum over everything starts anew with each key.
    running = np.maximum.accumulate(values.keys[order] * count + ranks[order])
    winners = by_value[running % count] if count else by_value
    return moments, composite[order], winners


def greatest(values: Values) -> Rows:
    """Returns the position of the greatest value of each key, in the order of the keys."""
    order = np.lexsort((values.sequences, values.created_times, values.event_times, values.keys))
    sorted_keys = values.keys[order]
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = sorted_keys[1:] != sorted_keys[:-1]
    return order[is_last]
