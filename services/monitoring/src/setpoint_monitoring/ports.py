"""What monitoring needs from outside: a store of what happened, and the registry's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from setpoint_monitoring.domain.pairs import Pairs
from setpoint_monitoring.domain.profile import Counts
from setpoint_monitoring.domain.records import (
    Alert,
    Outcome,
    Record,
    Scored,
    VersionFacts,
    VersionKey,
    Window,
)

ProfileKey = tuple[VersionKey, str, int]
"""Version, column, hour of event time since 1970."""


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """Where one prediction's story is told."""

    payload: bytes
    position: int
    record_time: int
    outcomes: tuple[Outcome, ...]
    """Newest first; a shadow's are those of the prediction that it copies."""
    shadows: tuple[StoredPrediction, ...] = ()
    """Its copies, by version."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that is not yet counted into profiles."""

    record_id: int
    payload: bytes
    positions: tuple[int, ...]
    """The rows that are this record's to count; others came with an earlier copy."""


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A record as it was stored."""

    record_id: int
    record_time: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class RecordSample:
    """A share of the records of a stretch."""

    records: tuple[KeptRecord, ...]
    through: int
    """Every record up to this one has been considered."""
    newest: int
    """The newest record that there is, 0 without any."""


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which predictions are listed; None means all."""

    model: str | None = None
    version: int | None = None
    window: Window | None = None
    are_shadows: bool = False
    """Those that answered nobody, instead of those that callers got."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A prediction in a list."""

    prediction_id: str
    version: VersionKey
    route: str
    event_time: int
    status: int
    primary_id: str | None = None


class Registry(Protocol):
    """Facts about model versions."""

    async def facts(self, version: VersionKey) -> VersionFacts:
        """Return what is known of a version. Raises NotFoundError, UnavailableError."""


class Codec(Protocol):
    """The form in which records are kept."""

    def decode(self, payload: bytes) -> Record:
        """Return the record that a payload holds. Raises InvalidArgumentError."""


class PredictionStore(Protocol):
    """What was predicted and what happened; each call is one transaction."""

    async def add_records(self, records: Sequence[Record], now: int) -> int:
        """Store records; return how many of their predictions are new."""

    async def add_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """Store outcomes that say something else than was known; return how many did."""

    async def prediction(self, prediction_id: str) -> StoredPrediction:
        """Return one prediction. Raises NotFoundError."""

    async def list_predictions(
        self, which: ListFilter, before: tuple[int, str] | None, limit: int
    ) -> list[Listed]:
        """Return predictions, newest event time first, those before one."""

    async def count_predictions(self, which: ListFilter) -> int:
        """Return how many predictions match."""

    async def models(self) -> list[str]:
        """Return the models that predicted."""

    async def versions(self, model: str) -> list[tuple[VersionKey, int, int]]:
        """Return a model's versions that were asked, with first and last event time."""

    async def scored(
        self,
        version: VersionKey,
        window: Window,
        known_at: int | None,
        *,
        route: str | None = None,
        as_assigned: bool = False,
    ) -> Scored:
        """Return a version's predictions in a window with the newest outcome known at a time.

        Where another version stood in, the one that had been chosen has failed. For whom the
        version itself stood in is left out with `as_assigned`.
        """

    async def pairs(
        self,
        route: str,
        shadow: VersionKey,
        primary: int | None,
        window: Window,
        known_at: int | None,
    ) -> Pairs:
        """Return a shadow's copies on a route with what they copy, by a version if one is given."""

    async def sample(self, version: VersionKey, window: Window, limit: int) -> list[str]:
        """Return some prediction ids of a window, first those that failed over."""

    async def sample_records(
        self, after: int, basis_points: int, until: int | None
    ) -> RecordSample:
        """Return a share of the records after one, before the first that was stored after a time."""

    async def pending(self, limit: int) -> list[Pending]:
        """Return records that are not yet counted, oldest first."""

    async def add_profiles(
        self, record_ids: Sequence[int], counts: Mapping[ProfileKey, Counts]
    ) -> bool:
        """Add counts and mark the records; False, and nothing done, if another did it first."""

    async def profiles(self, version: VersionKey, window: Window) -> list[tuple[str, int, Counts]]:
        """Return column, hour and counts of a window's hours."""


class AlertStore(Protocol):
    """Alerts and how far windows are judged."""

    async def evaluated_until(self, version: VersionKey, cause: int) -> int | None:
        """Return the end of the last judged window."""

    async def unresolved(self, version: VersionKey, cause: int) -> list[Alert]:
        """Return alerts that are not over."""

    async def save(
        self,
        version: VersionKey,
        cause: int,
        previous: int | None,
        until: int,
        alerts: Sequence[Alert],
        ended: Sequence[str],
    ) -> bool:
        """Store alerts, delete those that came to nothing, and note how far windows are judged.

        Return False, and do nothing, if another evaluation has moved on from `previous`.
        """

    async def get(self, alert_id: str) -> Alert:
        """Return an alert. Raises NotFoundError."""

    async def list(
        self, model: str | None, states: Sequence[int], before: tuple[int, str] | None, limit: int
    ) -> list[Alert]:
        """Return alerts by start, newest first, those before one."""

    async def acknowledge(self, alert_id: str, actor: str) -> Alert:
        """Move a firing alert to acknowledged; an acknowledged one stays as it is."""
