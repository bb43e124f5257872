"""Online reads from the history, while there is no online copy to read.

The history answers what the online store would, and more slowly. So that an outage of the one does not
become an outage of the other, only so many reads go there at once, each of so many entities.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_feature import ports
from setpoint_feature.domain import assemble, history, plan, retention, visibility
from setpoint_feature.service import event_reading
from setpoint_runtime import errors

SECONDS: Final = 2.0
"""Longest time of a read whose caller set no deadline."""
_EVERYTHING: Final = (1 << 63) - 1


class Standby:
    """Stands in for the online store."""

    def __init__(self, store: ports.HistoryStore, *, max_keys: int, at_once: int) -> None:
        """Prepares.

        Args:
            store: The history.
            max_keys: Most keys of one read; more are refused.
            at_once: Most reads at the same time; others wait for their turn.
        """
        self._store = store
        self._events = event_reading.EventReader(store)
        self._max_keys = max_keys
        self._turns = asyncio.Semaphore(at_once)

    def check(self, keys: int) -> None:
        """Refuses a read that is too large for the history.

        Raises:
            UnavailableError: ONLINE_STORE_UNAVAILABLE.
        """
        if keys > self._max_keys:
            raise _unavailable(f"the history answers at most {self._max_keys} keys, not {keys}")

    async def winners(
        self,
        group: plan.Group,
        keys: Sequence[bytes],
        rows: npt.NDArray[np.intp],
        times: visibility.Times,
        seconds: float | None,
    ) -> assemble.Found:
        """Returns what the history answers for one group.

        Args:
            group: The group.
            keys: Its distinct keys.
            rows: For each answered row the position of its key, or -1 where it is null.
            times: The time asked for, for each row.
            seconds: Time left to answer.

        Raises:
            UnavailableError: ONLINE_STORE_UNAVAILABLE: neither does the history answer in time.
            OutOfRangeError: HISTORY_REMOVED: it lacks rows that were known at a time asked for.
        """
        try:
            async with asyncio.timeout(SECONDS if seconds is None else min(seconds, SECONDS)):
                async with self._turns:
                    found = await self._find(group, keys, rows, times)
                    kept = await self._store.retained()
        except TimeoutError:
            raise _unavailable("the history did not answer in time") from None
        except errors.UnavailableError as error:
            raise _unavailable(f"the history does not answer: {error.message}") from error
        retention.check(group.view, group.fields, times, kept, "as_of_times")
        return found

    async def _find(
        self,
        group: plan.Group,
        keys: Sequence[bytes],
        rows: npt.NDArray[np.intp],
        times: visibility.Times,
    ) -> assemble.Found:
        view = group.view
        if view.blueprint is not None:
            return await self._events.answer(group, keys, rows, times)
        found = await self._read(view, keys, times)
        past = history.Past(view, view.rule, found.keys, [found.rows])
        return assemble.join(past, rows, times)

    async def _read(
        self, view: plan.CompiledView, keys: Sequence[bytes], times: visibility.Times
    ) -> history.NumberedRows:
        if not keys or not len(times):
            return history.NumberedRows(np.zeros(0, np.int64), history.EMPTY)
        window = ports.Window(
            first=int(times.min()),
            last=int(times.max()),
            upto=_EVERYTHING,
            exclusive=view.rule.exclusive,
            arrival=view.rule.arrival,
        )
        return await self._store.read_window(view.number, keys, window)


def _unavailable(why: str) -> errors.UnavailableError:
    return errors.UnavailableError(
        errors.Reason.ONLINE_STORE_UNAVAILABLE,
        f"there is no online copy to read, and {why}",
        retry_after_seconds=1.0,
    )
