"""Taking in what happened, and counting it into profiles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from setpoint_columns import Column, DataType
from setpoint_monitoring import ports
from setpoint_monitoring.domain import profile
from setpoint_monitoring.domain.records import HOUR, Outcome, Record, VersionFacts, VersionKey
from setpoint_runtime import errors
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)

PROFILE_BATCH = 500
"""Records counted in one transaction."""


class Ingest:
    """Stores predictions and outcomes; counts predictions into their version's profiles."""

    def __init__(
        self,
        store: ports.PredictionStore,
        registry: ports.Registry,
        codec: ports.Codec,
        clock: Clock,
    ) -> None:
        """Take what it works with."""
        self._store = store
        self._registry = registry
        self._codec = codec
        self._clock = clock
        self._counting = asyncio.Lock()
        self.arrived = asyncio.Event()
        """Set when there is something to count."""

    async def predictions(self, records: Sequence[Record]) -> tuple[int, int]:
        """Store records; return how many predictions are new and how many came before."""
        # A record of nothing would wait for ever to be counted.
        records = [record for record in records if record.entries]
        if not records:
            return 0, 0
        stored = await self._store.add_records(records, self._clock.now_us())
        self.arrived.set()
        return stored, sum(len(record.entries) for record in records) - stored

    async def outcomes(self, outcomes: Sequence[Outcome]) -> tuple[int, int]:
        """Store outcomes; return how many are new and how many came before."""
        if not outcomes:
            return 0, 0
        stored = await self._store.add_outcomes(outcomes)
        return stored, len(outcomes) - stored

    async def count_pending(self) -> int:
        """Count all stored records that are not yet in profiles; return how many were counted.

        Raises:
            UnavailableError: The database or the registry does not answer.
        """
        counted = 0
        async with self._counting:
            while pending := await self._store.pending(PROFILE_BATCH):
                counts = await self._count(pending)
                if await self._store.add_profiles([each.record_id for each in pending], counts):
                    counted += len(pending)
        return counted

    async def run(self, wait_seconds: float) -> None:
        """Count whatever arrives, forever; a registry or database that is away is waited for."""
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            try:
                await self.count_pending()
            except errors.SetpointError as error:
                _LOGGER.warning("profiles wait: %s", error)
                self.arrived.set()
            await asyncio.sleep(wait_seconds)

    async def _count(
        self, pending: Sequence[ports.Pending]
    ) -> dict[ports.ProfileKey, profile.Counts]:
        counts: dict[ports.ProfileKey, profile.Counts] = {}
        for each in pending:
            record = self._codec.decode(each.payload)
            facts = await self._facts(record.version)
            if facts is not None:
                _count_record(record, each.positions, facts, counts)
        return counts

    async def _facts(self, version: VersionKey) -> VersionFacts | None:
        if version.version <= 0:
            return None
        try:
            return await self._registry.facts(version)
        except errors.NotFoundError:
            _LOGGER.warning("%s version %d is not registered", version.model, version.version)
            return None


def _count_record(
    record: Record,
    positions: Sequence[int],
    facts: VersionFacts,
    counts: dict[ports.ProfileKey, profile.Counts],
) -> None:
    """Adds one record's answered predictions to the counts, by hour of event time."""
    hours: dict[int, list[int]] = {}
    for position in positions:
        entry = record.entries[position]
        if entry.status == 0:
            hours.setdefault(entry.event_time // HOUR, []).append(position)
    for reference in facts.references:
        batch = record.inputs if reference.column in record.inputs else record.outputs
        if reference.column not in batch:
            continue
        column = batch[reference.column]
        for hour, rows in hours.items():
            vector = count_column(reference, column.take(np.array(rows, dtype=np.int64)))
            key = (record.version, reference.column, hour)
            known = counts.get(key)
            counts[key] = vector if known is None else known + vector


def count_column(reference: profile.Reference, column: Column) -> profile.Counts:
    """Counts a column into a reference's bins.

    A column of another kind than the reference (text where numbers were trained on) is counted as
    invalid, which is what it is for the model.
    """
    is_text = column.dtype is DataType.STRING
    if reference.categorical:
        values = column.to_list()
        return profile.count_levels(
            reference, [None if value is None else str(value) for value in values]
        )
    if is_text:
        counts = np.zeros(reference.size, dtype=np.int64)
        counts[-2] = column.null_count
        counts[-1] = len(column) - column.null_count
        return counts
    missing = column.null_mask()
    if missing is None:
        missing = np.zeros(len(column), dtype=np.bool_)
    return profile.count_numbers(reference, column.floats(), missing)
