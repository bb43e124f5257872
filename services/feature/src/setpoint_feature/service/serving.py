"""Online reads: one round trip for all entities and views of a feature set.

Where the online store does not answer, or has only a part of a view's copies, the history stands in; the
answer says for which views.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import (
    assemble,
    definitions,
    online,
    plan,
    retention,
    tile_reads,
    tiles,
    visibility,
)
from setpoint_feature.service import apart, breaker, deriving, snapshot, standby
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

MAX_ROWS: Final = 10_000
ONLINE_SHARE: Final = 0.5
"""Of the time left the online store gets so much; the rest is for the history."""
TRUSTED_SECONDS: Final = 0.05
"""A store that does not answer within so long is taken to be in trouble, if it happens again."""
_FIELD: Final = "entities"

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read is answered with."""

    feature_set: definitions.FeatureSet
    served: assemble.Served
    history_views: tuple[str, ...]
    """Views whose values the history gave, for want of an online copy."""


@dataclass(slots=True)
class Counts:
    """Reads of this process so far, by what answered them."""

    online: int = 0
    history: int = 0
    """With at least one view from the history."""
    refused: int = 0
    """For want of both."""


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The keys of one group: each distinct one once, and for each row which."""

    keys: list[bytes]
    rows: npt.NDArray[np.intp]


class OnlineReader:
    """Answers from the online store, or else from the history."""

    def __init__(
        self,
        store: ports.OnlineStore,
        past: standby.Standby,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        max_bytes: int,
        threads: apart.Threads,
    ) -> None:
        """Prepares; no answer is larger than about `max_bytes`, transformations run on `threads`."""
        self._store = store
        self._past = past
        self._breaker = breaker.Breaker()
        self.counts = Counts()
        self._known = known
        self._clock = clock
        self._max_bytes = max_bytes
        self._deriver = deriving.Deriver(threads)

    async def read(
        self,
        name: str,
        version: str,
        entities: Columns,
        as_of_times: Sequence[int],
        seconds: float | None = None,
    ) -> Answer:
        """Returns the features of entities, row by row.

        Args:
            name: Name of the feature set.
            version: Its version, or empty for the latest.
            entities: The key columns; others are ignored.
            as_of_times: The time of each row, one for all, or none for now.
            seconds: Time left to answer, None where there is no deadline.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND.
            InvalidArgumentError: A key or request column is missing or of another type, or there are too many rows.
            FailedPreconditionError: TRANSFORMATION_NOT_FOUND or TRANSFORMATION_MISMATCH.
            InternalError: TRANSFORMATION_FAILED.
            UnavailableError: ONLINE_STORE_UNAVAILABLE: neither the online store nor the history answers.
            OutOfRangeError: HISTORY_REMOVED, when a window, or the history in the online store's place, lacks rows.
        """
        try:
            compiled = self._known.catalog.plan(name, version)
        except errors.NotFoundError:
            compiled = await self._known.find(lambda found: found.plan(name, version))
        self._check_size(compiled, entities.rows)
        times = self._times(as_of_times, entities.rows)
        self._check_windows(compiled, times)
        lookups = [_look_up(group, entities) for group in compiled.groups]
        recipe = compiled.recipe
        given = None if recipe is None else recipe.given(entities, _FIELD)
        started = time.monotonic()
        copies = await self._copies(compiled, lookups, started, seconds)
        judged = list(map(self._judge, compiled.groups, lookups, copies, itertools.repeat(times)))
        winners = [each for each in judged if each is not None]
        from_history: tuple[str, ...] = ()
        if len(winners) == len(judged):
            self.counts.online += 1
        else:
            left = None if seconds is None else started + seconds - time.monotonic()
            winners, from_history = await self._mixed(compiled, lookups, judged, times, left)
        served = assemble.serve(compiled, entities.rows, winners)
        if recipe is not None and given is not None:
            served = await self._deriver.derive(recipe, served, given)
        return Answer(compiled.feature_set, served, from_history)

    async def _copies(
        self,
        compiled: plan.Plan,
        lookups: Sequence[_Lookup],
        started: float,
        seconds: float | None,
    ) -> Sequence[ports.Copies | None]:
        """Returns what the online store holds for each group, None where it does not answer."""
        nothing = [None] * len(lookups)
        if not lookups or not self._breaker.may_try():
            return nothing
        asked = [
            ports.Lookup(group.view.view.version, lookup.keys)
            for group, lookup in zip(compiled.groups, lookups, strict=True)
        ]
        share = None if seconds is None else seconds * ONLINE_SHARE
        try:
            found = await self._store.read(asked, share)
        except errors.UnavailableError as error:
            # A caller in a hurry knows nothing about the store.
            has_waited = share is None or share >= TRUSTED_SECONDS
            is_refused = share is None or time.monotonic() - started < share
            if (has_waited or is_refused) and self._breaker.failed(started):
                _LOGGER.warning("online reads come from the history: %s", error)
            return nothing
        if self._breaker.succeeded():
            _LOGGER.info("online reads come from the online store again")
        return found

    def _is_whole(self, group: plan.Group, copies: ports.Copies | None) -> bool:
        """Tells whether copies may be taken for the whole.

        While they are being rebuilt, "not copied yet" would be served as "nothing is known".
        """
        if copies is None:
            return False
        return copies.mark is not None or not self._known.last_sequences.get(group.view.stream)

    def _judge(
        self,
        group: plan.Group,
        lookup: _Lookup,
        copies: ports.Copies | None,
        times: visibility.Times,
    ) -> assemble.Found | None:
        """Returns what copies answer, None where they cannot be taken for the whole."""
        if copies is None or not self._is_whole(group, copies):
            return None
        made = group.view.blueprint
        if made is None:
            return online.judge(group.view, copies.values, lookup.rows, times)
        parts = tiles.tables(made)
        return tile_reads.answer(made, parts, group.fields, copies.values, lookup.rows, times)

    async def _mixed(
        self,
        compiled: plan.Plan,
        lookups: Sequence[_Lookup],
        judged: Sequence[assemble.Found | None],
        times: visibility.Times,
        seconds: float | None,
    ) -> tuple[list[assemble.Found], tuple[str, ...]]:
        """Takes from the history what the online store does not have; says which views that is."""
        missing = [
            (group, lookup)
            for group, lookup, found in zip(compiled.groups, lookups, judged, strict=True)
            if found is None
        ]
        try:
            self._past.check(sum(len(lookup.keys) for _, lookup in missing))
            answers = iter(
                await asyncio.gather(
                    *(
                        self._past.winners(group, lookup.keys, lookup.rows, times, seconds)
                        for group, lookup in missing
                    )
                )
            )
        except errors.UnavailableError:
            self.counts.refused += 1
            raise
        self.counts.history += 1
        winners = [next(answers) if found is None else found for found in judged]
        views = dict.fromkeys(group.view.view.name for group, _ in missing)
        return winners, tuple(views)

    def _check_windows(self, compiled: plan.Plan, times: visibility.Times) -> None:
        """Refuses times at which a window lacks events: they went before its view was registered, if ever."""
        kept = self._known.catalog.retained
        for group in compiled.groups:
            if group.view.blueprint is not None:
                retention.check(group.view, group.fields, times, kept, "as_of_times")

    def _check_size(self, compiled: plan.Plan, rows: int) -> None:
        limit = min(MAX_ROWS, self._max_bytes // max(1, compiled.row_bytes))
        if rows > limit:
            raise errors.invalid(
                f"{_FIELD}.rows",
                rows,
                f"must be at most {limit} for this feature set",
                errors.Reason.TOO_LARGE,
            )

    def _times(self, given: Sequence[int], rows: int) -> visibility.Times:
        if len(given) == rows:
            return np.array(given, np.int64)
        if len(given) > 1:
            raise errors.invalid(
                "as_of_times",
                f"{len(given)} times",
                f"must be none, one, or one for each of {rows} rows",
            )
        return np.full(rows, given[0] if given else self._clock.now_us(), np.int64)


def _look_up(group: plan.Group, entities: Columns) -> _Lookup:
    keys = group.view.codec.encode(entities, group.key_columns, _FIELD)
    distinct = set(keys)
    if len(distinct) == len(keys) and None not in distinct:
        return _Lookup(cast(list[bytes], keys), np.arange(len(keys)))
    positions: dict[bytes, int] = {}
    # Rows that came together often share a key (a carrier, an airport); it travels once. A null
    # key is at position -1, where nothing is.
    rows = [-1 if key is None else positions.setdefault(key, len(positions)) for key in keys]
    return _Lookup(list(positions), np.array(rows, np.intp))
