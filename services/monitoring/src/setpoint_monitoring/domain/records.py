"""Prediction records, outcomes, alerts and reports as monitoring thinks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from setpoint_columns import Columns
from setpoint_monitoring.domain.alerting import Progress, State
from setpoint_monitoring.domain.profile import Reference

HOUR = 3_600_000_000
"""Microseconds."""


ENSEMBLE = 0
"""Number of the version that the common answers of several versions count for."""


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """One version of a model, or its ensembles."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is looked up about one prediction; everything else stays in its record."""

    prediction_id: str
    event_time: int
    status: int
    score: float | None
    primary_id: str | None = None
    """The prediction that a shadow's one copies."""
    chosen_version: int | None = None
    """The version that was assigned, where another one stood in for it."""


@dataclass(frozen=True, slots=True)
class Record:
    """Predictions that one revision of a route gave with one version, as a router sent them."""

    payload: bytes
    route: str
    version: VersionKey
    entries: tuple[Entry, ...]
    inputs: Columns
    outputs: Columns
    is_shadow: bool = False
    """The version answered nobody; each entry copies another prediction."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What really happened. Times are microseconds UTC."""

    prediction_id: str
    label: float
    event_time: int
    arrival_time: int


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What the registry says about a version."""

    binary: bool
    """The score is a probability, the label 0 or 1."""
    threshold: float
    references: tuple[Reference, ...]
    metrics: Mapping[str, float]
    """Metrics at registration, over all rows of the hold-out."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions of one version, aligned arrays of shape [rows], by event time."""

    event_time: npt.NDArray[np.int64]
    failed: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float64]
    """NaN where the prediction failed."""
    label: npt.NDArray[np.float64]
    """NaN where no outcome is known."""


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open range of event time in microseconds."""

    start: int
    end: int


def aligned_windows(start: int, end: int, length: int) -> list[Window]:
    """Cuts a range into windows aligned to multiples of their length since 1970.

    Args:
        start: First microsecond.
        end: First microsecond after the range.
        length: Length of a window; 0 makes one window of the whole range.

    Returns:
        Windows that together cover the range; the outer ones are cut to it.
    """
    if end <= start:
        return []
    if length <= 0:
        return [Window(start, end)]
    first = start // length
    last = -(-end // length)
    return [
        Window(max(start, number * length), min(end, (number + 1) * length))
        for number in range(first, last)
    ]


@dataclass(frozen=True, slots=True)
class Performance:
    """How one version did in one window."""

    version: VersionKey
    window: Window
    predictions: int
    labelled: int
    failed: int
    label_mean: float | None
    score_mean: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AlertKey:
    """What an alert is about; at most one alert of a key is unresolved."""

    version: VersionKey
    cause: int
    subject: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong with one version, from when to when."""

    alert_id: str
    key: AlertKey
    progress: Progress
    start_time: int
    fire_time: int = 0
    resolve_time: int = 0
    value: float = 0.0
    threshold: float = 0.0
    summary: str = ""
    prediction_ids: tuple[str, ...] = field(default=())
    acknowledged_by: str = ""

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.progress.state
