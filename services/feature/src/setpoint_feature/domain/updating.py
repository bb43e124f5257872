"""New rows of a source put into the online states of the groups that they concern.

Events that were not there before are merged in. An event that was corrected ends where its correction is
known; where it is in a tile already, that tile is made anew from the history, since what was merged
cannot be taken out. Older tiles go when no window reaches back to them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import events, tiles
from setpoint_feature.domain.blueprint import LATEST

Integers = npt.NDArray[np.int64]
Records = npt.NDArray[Any]


class Update:
    """One change of the states of some groups."""

    def __init__(
        self,
        parts: Sequence[tiles.Table],
        states: tiles.States,
        added: events.Events,
        ended: events.Events,
    ) -> None:
        """Puts events in.

        Args:
            parts: The tables of the view.
            states: The states; events name their groups by position in them.
            added: Versions of events that are not in the states.
            ended: Versions that are, with the new ends of their lives.
        """
        self._parts = parts
        self._states = states
        self._lost: list[npt.NDArray[np.int64]] = []
        for number, table in enumerate(parts):
            records = states.records[number]
            lost = self._end(table, records, ended)
            self._lost.append(lost)
            made = table.records(added)
            states.records[number] = np.concatenate([records, made[made["stop"] > made["start"]]])

    def _end(self, table: tiles.Table, records: Records, ended: events.Events) -> Integers:
        """Ends single records; returns the (group, bucket) pairs of tiles that hold the others."""
        gone = table.records(ended)
        single = np.flatnonzero(records["sequence"])
        order = single[np.argsort(records["sequence"][single])]
        sequences = records["sequence"][order]
        at = np.searchsorted(sequences, gone["sequence"])
        found = at < len(order)
        found[found] = sequences[at[found]] == gone["sequence"][found]
        records["stop"][order[at[found]]] = gone["stop"][found]
        rest = gone[~found]
        # What no window holds any more at times that are answered here is in no tile.
        rest = rest[table.expiries(rest) > self._states.floors[rest["group"]]]
        np.maximum.at(self._states.floors, rest["group"], rest["stop"])
        pairs = np.stack([rest["group"], rest["bucket"]], axis=1)
        return np.unique(pairs, axis=0)

    @property
    def wanted(self) -> list[tuple[int, int]]:
        """Stretches of event time whose events are needed to make tiles anew."""
        found = {
            (int(bucket), int(bucket) + table.hop)
            for table, lost in zip(self._parts, self._lost, strict=True)
            for bucket in lost[:, 1]
        }
        return sorted(found)

    def refill(self, parts: Sequence[events.Events]) -> None:
        """Makes tiles anew from all events of the wanted stretches, as known in the end."""
        # Stretches of different hops overlap; an event counts once.
        joined = events.concat(parts)
        _, first = np.unique(joined.sequences, return_index=True)
        found = joined.take(first)
        for number, (table, lost) in enumerate(zip(self._parts, self._lost, strict=True)):
            if not len(lost):
                continue
            records = self._states.records[number]
            in_tile = (records["sequence"] == 0) & _are_among(records, lost)
            kept = records[~in_tile]
            made = table.records(found)
            made = made[_are_among(made, lost) & ~np.isin(made["sequence"], kept["sequence"])]
            made = table.merge(made)
            self._states.records[number] = np.concatenate([kept, made])

    def finish(self, upto: int) -> list[bytes]:
        """Returns the new states, with everything up to a sequence in them."""
        states = self._states
        for number, table in enumerate(self._parts):
            states.records[number] = self._seal(table, states.records[number])
        for number, table in enumerate(self._parts):
            records = states.records[number]
            alive = table.expiries(records) > states.floors[records["group"]]
            states.records[number] = records[alive]
        return tiles.pack(self._parts, states, upto)

    def _seal(self, table: tiles.Table, records: Records) -> Records:
        """Merges all but the latest single events into tiles."""
        is_single = records["sequence"] != 0
        single = records[is_single]
        # The moment from which on its life is over or has only its age to end it.
        moments = np.where(single["stop"] < LATEST, single["stop"], single["start"])
        order = np.lexsort((moments, single["group"]))
        single, moments = single[order], moments[order]
        ends = np.searchsorted(single["group"], single["group"], side="right")
        old = ends - np.arange(len(single)) > tiles.SINGLE
        if not old.any():
            return records
        np.maximum.at(self._states.floors, single["group"][old], moments[old])
        merged = single[old & (single["stop"] == LATEST)]
        tiles_now = table.merge(np.concatenate([records[~is_single], merged]))
        return np.concatenate([tiles_now, single[~old]])


def _are_among(records: Records, pairs: Integers) -> npt.NDArray[np.bool_]:
    """Tells which records belong to one of some (group, bucket) pairs."""
    buckets = np.unique(pairs[:, 1])
    at = np.minimum(np.searchsorted(buckets, records["bucket"]), len(buckets) - 1)
    step = len(buckets)
    wanted = pairs[:, 0] * step + np.searchsorted(buckets, pairs[:, 1])
    among: npt.NDArray[np.bool_] = np.isin(records["group"] * step + at, wanted)
    at_bucket: npt.NDArray[np.bool_] = buckets[at] == records["bucket"]
    return among & at_bucket
