"""The continuous replay: what was served is computed again from the history, and compared to the bit.

The rows come from prediction records, the comparison from the join that makes training sets. So an
equal outcome proves that models were served what they are trained on, and each difference has a cause.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, DataType
from setpoint_feature import ports
from setpoint_feature.domain import (
    definitions,
    plan,
    retention,
    skew,
    skew_causes,
    visibility,
)
from setpoint_feature.service import joining, snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

REST: Final = 9.0
"""After a replay the task rests this many times as long: it takes a tenth of a core at most."""

_GONE = (
    errors.NotFoundError,
    errors.InvalidArgumentError,
    errors.FailedPreconditionError,
    errors.InternalError,
)
"""What a join says to a question that it cannot answer any more; a transformation may also fail."""

_BY_TRANSFORMATION = (
    errors.Reason.TRANSFORMATION_NOT_FOUND,
    errors.Reason.TRANSFORMATION_MISMATCH,
    errors.Reason.TRANSFORMATION_FAILED,
)
_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What this process has replayed so far."""

    values: int = 0
    differences: Counter[skew.Cause] = field(default_factory=Counter)
    removed_predictions: int = 0

    def add(self, tallies: Sequence[skew.Tally]) -> None:
        """Counts findings."""
        for tally in tallies:
            self.values += tally.values
            self.removed_predictions += tally.removed_predictions
            for (_, cause), count in tally.differences.items():
                self.differences[cause] += count


class SkewReplay:
    """Compares what was served with what was known, record after record."""

    def __init__(
        self,
        records: ports.Records,
        store: ports.SkewStore,
        history: ports.HistoryStore,
        historical: joining.HistoricalReader,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
    ) -> None:
        """Prepares; `run` does the work."""
        self._records = records
        self._store = store
        self._history = history
        self._historical = historical
        self._known = known
        self._clock = clock
        self._is_failing = False
        self.counts = Counts()

    async def run(self, share: int, poll_seconds: float, settle_seconds: float) -> None:
        """Replays a share of what arrives, for as long as the process lives.

        Args:
            share: Basis points of the records.
            poll_seconds: How often new records are looked for.
            settle_seconds: How old records are before they are replayed.
        """
        while True:
            started = self._clock.monotonic()
            until = self._clock.now_us() - int(settle_seconds * 1_000_000)
            has_more = False
            try:
                has_more = await self.step(share, until)
                self._recovered()
            except errors.SetpointError as error:
                self._failed(error)
            spent = self._clock.monotonic() - started
            await asyncio.sleep(spent * REST if has_more else max(poll_seconds, spent * REST))

    async def step(self, share: int, until: int) -> bool:
        """Replays the next records and keeps what is found; tells whether there are more.

        Raises:
            UnavailableError: Monitoring or the database cannot be reached.
        """
        progress = await self._store.progress()
        page, tallies = await self.replay(progress.through, share, until)
        if page.through > page.after or page.newest != progress.newest:
            # Of replicas that replay the same records only one adds them.
            if await self._store.add(page, self._clock.now_us(), tallies):
                self.counts.add(tallies)
        return page.through < page.newest and page.through > page.after

    async def replay(
        self, after: int, share: int, until: int = 0
    ) -> tuple[ports.RecordPage, list[skew.Tally]]:
        """Replays a share of the records after one, and keeps nothing.

        Args:
            after: Number of the record to begin after.
            share: Basis points.
            until: Only records that were stored by then; 0 means all.

        Raises:
            UnavailableError: Monitoring or the database cannot be reached.
        """
        page = await self._records.next(after, share, until)
        by_kind: dict[tuple[object, ...], list[skew.ServedRows]] = {}
        for rows in page.rows:
            by_kind.setdefault(rows.kind, []).append(rows)
        return page, [await self._check(skew.merged(parts)) for parts in by_kind.values()]

    async def report(
        self, feature_set: str, version: str, since_day: int, examples: int
    ) -> tuple[ports.Progress, list[skew.Totals]]:
        """Returns how far records have been replayed, and what was found."""
        progress = await self._store.progress()
        return progress, await self._store.totals(feature_set, version, since_day, examples)

    async def _check(self, rows: skew.ServedRows) -> skew.Tally:
        """Replays rows of one feature set."""
        tally = skew.Tally(rows.feature_set, rows.version, rows.day, predictions=len(rows))
        times = Column(definitions.EVENT_TIME, DataType.TIMESTAMP, rows.times)
        ask = joining.Ask(rows.feature_set, rows.version, definitions.EVENT_TIME, arrival=True)
        try:
            join = await self._historical.begin(ask)
            known = await join.piece(rows.spine.without(times.name).with_column(times))
            compiled = self._known.catalog.plan(rows.feature_set, rows.version)
        except _GONE as error:
            is_computed = error.reason in _BY_TRANSFORMATION
            cause = skew.Cause.TRANSFORMATION if is_computed else skew.Cause.DEFINITION
            skew_causes.incomparable(rows, tally, cause, error.message)
            return tally
        except errors.OutOfRangeError as error:
            since = retention.complete_from_of(error)
            if since is None:
                raise
            return await self._check_kept(rows, since)
        sensitive = self._known.catalog.sensitive_columns(compiled.feature_set)
        comparison = skew_causes.Comparison(rows, known, tally, sensitive)
        differing = await asyncio.to_thread(comparison.differing)
        for group in compiled.groups:
            await self._explain(rows, group, compiled, differing, comparison)
        steps = () if compiled.recipe is None else compiled.recipe.steps
        for step in steps:
            if step.name in differing:
                comparison.derived(step.name, differing.pop(step.name), step.inputs)
        for name, flags in differing.items():
            comparison.derived(name, flags, ())
        return tally

    async def _check_kept(self, rows: skew.ServedRows, since: int) -> skew.Tally:
        """Replays the predictions of whose times the history still tells; counts the others."""
        left = np.flatnonzero(rows.times >= since)
        tally = await self._check(rows.take(left))
        tally.removed_predictions += len(rows) - len(left)
        return tally

    async def _explain(
        self,
        rows: skew.ServedRows,
        group: plan.Group,
        compiled: plan.Plan,
        differing: dict[str, visibility.Flags],
        comparison: skew_causes.Comparison,
    ) -> None:
        """Finds the causes of a group's differences, and takes them out of the others."""
        fields = {
            compiled.columns[place]: field
            for field, place in zip(group.fields, group.places, strict=True)
            if compiled.columns[place] in differing
        }
        if not fields:
            return
        flags = {name: differing.pop(name) for name in fields}
        places = np.flatnonzero(np.logical_or.reduce(list(flags.values())))
        entities = await self._entities(group, rows, places)
        await asyncio.to_thread(comparison.explain, group.view, fields, flags, entities)

    async def _entities(
        self, group: plan.Group, rows: skew.ServedRows, places: npt.NDArray[np.intp]
    ) -> skew_causes.Entities:
        """Reads all rows of the entities of some predictions."""
        keys = group.view.codec.encode(rows.spine.take(places), group.key_columns, "entities")
        wanted = list(dict.fromkeys(key for key in keys if key is not None))
        # An aggregate is made of the rows of another view, which are found where they have its own keys.
        number = group.view.stream
        upto = (await self._history.last_sequences()).get(number, 0)
        found = await self._history.read_keys(number, wanted, upto)
        written = await self._store.written_times(number, found.rows.sequences)
        numbers: dict[bytes | None, int] = {key: place for place, key in enumerate(wanted)}
        numbers[None] = -1
        of_place = dict(zip(places.tolist(), map(numbers.__getitem__, keys), strict=True))
        return skew_causes.Entities(found.keys, found.rows, written, of_place)

    def _failed(self, error: errors.SetpointError) -> None:
        if not self._is_failing:
            _LOGGER.info("served features cannot be replayed: %s", error)
        self._is_failing = True

    def _recovered(self) -> None:
        if self._is_failing:
            _LOGGER.info("served features are replayed again")
        self._is_failing = False
