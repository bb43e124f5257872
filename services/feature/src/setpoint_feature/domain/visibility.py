"""When a value is seen and when it is too old: the one rule of the online and the offline path.

A value is known at T when its event time is not after T (before T where the view's boundary is
exclusive) and it had arrived by T. It is stale at T when its event time is before T - ttl. Of the known
values the greatest by (event_time, created_time, sequence) wins; age is judged afterwards, on the
winner, which is safe because no known value is younger.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import definitions

Times = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

FRESH: Final = 0
STALE: Final = 1
ABSENT: Final = 2

NO_TIME: Final = -1
"""Event time in answers where there is no value."""

EARLIEST: Final = int(np.iinfo(np.int64).min)
_LATEST: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one view is seen in time."""

    ttl: int
    exclusive: bool
    arrival: bool = True
    """False joins as of event time alone and ignores when values arrived."""

    @classmethod
    def of(cls, view: definitions.FeatureView, *, arrival: bool = True) -> "Rule":
        """Returns the rule that a view declares."""
        return cls(view.ttl, view.boundary is definitions.Boundary.EXCLUSIVE, arrival)

    def known(self, event_times: Times, created_times: Times, times: Times) -> Flags:
        """Tells for each row whether a value is known at its time."""
        known: Flags = event_times < times if self.exclusive else event_times <= times
        return known & (created_times <= times) if self.arrival else known

    def stale(self, event_times: Times, times: Times) -> Flags:
        """Tells for each row whether a known value is too old at its time."""
        if not self.ttl:
            return np.zeros(len(event_times), np.bool_)
        # T - ttl would wrap around for the earliest times, at which nothing is too old.
        reaches: Flags = times >= EARLIEST + self.ttl
        limits = np.where(reaches, times, 0) - self.ttl
        return reaches & (event_times < limits)

    def visible_from(self, event_times: Times, created_times: Times) -> Times:
        """Returns the first time at which each value is known."""
        events = event_times + (event_times != _LATEST) if self.exclusive else event_times
        return np.maximum(events, created_times) if self.arrival else events

    def last_event(self, time: int) -> int:
        """Returns the latest event time that can be known at a time."""
        return time - 1 if self.exclusive else time

    def judge(self, exists: Flags, event_times: Times, created_times: Times, times: Times) -> Codes:
        """Returns FRESH, STALE or ABSENT for the best value of each row."""
        known = exists & self.known(event_times, created_times, times)
        codes = np.full(len(times), ABSENT, np.uint8)
        codes[known] = FRESH
        if self.ttl:
            codes[known & self.stale(event_times, times)] = STALE
        return codes
