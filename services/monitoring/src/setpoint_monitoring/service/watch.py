"""Watching: windows that have ended are judged, alerts fire and resolve."""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from setpoint_monitoring import ports
from setpoint_monitoring.domain import alerting, comparison, drift
from setpoint_monitoring.domain.alerting import Progress, Reading, State
from setpoint_monitoring.domain.records import (
    Alert,
    AlertKey,
    Scored,
    VersionFacts,
    VersionKey,
    Window,
)
from setpoint_monitoring.service import reports
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)

SAMPLE = 5
"""Predictions named in an alert."""

FAILURE_SHARE = 0.05
"""Share of failed predictions that is a breach; a fifth of it is calm."""

MAXIMUM_WINDOWS_BACK = 400
"""Windows that one evaluation judges, the newest ones: almost eight years of weeks. Without a limit
one prediction with an absurd event time would have all windows since then judged."""

MINIMUM_PREDICTIONS = 50
MINIMUM_LABELLED = 200
"""Fewer rows say nothing about a window."""


class Cause(enum.IntEnum):
    """What an alert is about; the numbers are those of the contract."""

    DRIFT = 1
    PERFORMANCE = 2
    ERRORS = 3


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How windows are judged. Times in microseconds."""

    window: int
    label_delay: int
    """A window's quality is judged this long after its end."""
    tolerance: float
    """Loss may exceed that at registration by this share of it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one window says about one subject."""

    subject: str
    reading: Reading
    value: float
    threshold: float
    summary: str


class Watch:
    """Judges each version's windows once, in order, and moves its alerts."""

    def __init__(
        self,
        store: ports.PredictionStore,
        alerts: ports.AlertStore,
        registry: ports.Registry,
        report: reports.Reports,
        options: WatchOptions,
        clock: Clock,
    ) -> None:
        """Take what it works with."""
        self._store = store
        self._alerts = alerts
        self._registry = registry
        self._report = report
        self._options = options
        self._clock = clock
        self._evaluating = asyncio.Lock()

    async def evaluate(self, model: str, as_of: int) -> tuple[int, list[Alert]]:
        """Judge a model's windows that have ended by a time and are not yet judged.

        Returns:
            How many windows were judged, and the alerts whose state changed, as they are now.
        """
        judged, changed = 0, []
        async with self._evaluating:
            for version, first, last in await self._store.versions(model):
                for cause in Cause:
                    windows, alerts = await self._evaluate(version, cause, first, last, as_of)
                    judged += windows
                    changed += alerts
        return judged, changed

    async def run(
        self, models: Callable[[], Awaitable[Sequence[str]]], every_seconds: float
    ) -> None:
        """Judge the named models by the service's clock, forever."""
        while True:
            await asyncio.sleep(every_seconds)
            for model in await self._known(models):
                try:
                    await self.evaluate(model, self._clock.now_us())
                except errors.SetpointError as error:
                    _LOGGER.warning("evaluation of %s waits: %s", model, error)

    async def _known(self, models: Callable[[], Awaitable[Sequence[str]]]) -> Sequence[str]:
        try:
            return await models()
        except errors.SetpointError as error:
            _LOGGER.warning("evaluation waits: %s", error)
            return ()

    async def _evaluate(
        self, version: VersionKey, cause: Cause, first: int, last: int, as_of: int
    ) -> tuple[int, list[Alert]]:
        length = self._options.window
        previous = await self._alerts.evaluated_until(version, cause)
        start = previous if previous is not None else first // length * length
        delay = self._options.label_delay if cause is Cause.PERFORMANCE else 0
        # Windows after the version's last prediction say nothing yet: they may still fill.
        end = min((as_of - delay) // length * length, (last // length + 1) * length)
        if end <= start:
            return 0, []
        start = _within_limit(version, start, end, length)
        facts = await self._facts(version)
        known = {each.key.subject: each for each in await self._alerts.unresolved(version, cause)}
        before = {alert.alert_id: alert.state for alert in known.values()}
        touched: dict[str, Alert] = {}
        windows = [Window(at, at + length) for at in range(start, end, length)]
        for window in windows:
            for each in await self._judge(version, cause, window, facts, as_of):
                if each.reading is Reading.NO_DATA:
                    continue
                await self._move(version, cause, window, each, known, touched)
        ended = [each.alert_id for each in touched.values() if each.state is State.OK]
        kept = [each for each in touched.values() if each.state is not State.OK]
        if not await self._alerts.save(version, cause, previous, end, kept, ended):
            return 0, []
        changed = [each for each in kept if before.get(each.alert_id) != each.state]
        return len(windows), changed

    async def _move(
        self,
        version: VersionKey,
        cause: Cause,
        window: Window,
        judged: Judged,
        known: dict[str, Alert],
        touched: dict[str, Alert],
    ) -> None:
        alert = known.get(judged.subject)
        progress = alerting.step(alert.progress if alert else Progress(), judged.reading)
        if alert is None:
            if progress.state is State.OK:
                return
            key = AlertKey(version, cause, judged.subject)
            alert = Alert(ids.uuid7(), key, progress, start_time=window.end)
        alert = replace(alert, progress=progress, value=judged.value, threshold=judged.threshold)
        if judged.reading is Reading.BREACH:
            sample = await self._store.sample(version, window, SAMPLE)
            alert = replace(alert, summary=judged.summary, prediction_ids=tuple(sample))
        if progress.state is State.FIRING and not alert.fire_time:
            alert = replace(alert, fire_time=window.end)
        if progress.state is State.RESOLVED:
            alert = replace(alert, resolve_time=window.end)
        touched[alert.alert_id] = alert
        if progress.state in (State.OK, State.RESOLVED):
            known.pop(judged.subject, None)
        else:
            known[judged.subject] = alert

    async def _facts(self, version: VersionKey) -> VersionFacts | None:
        try:
            return await self._registry.facts(version)
        except errors.NotFoundError:
            return None

    async def _judge(
        self,
        version: VersionKey,
        cause: Cause,
        window: Window,
        facts: VersionFacts | None,
        as_of: int,
    ) -> list[Judged]:
        if cause is Cause.DRIFT:
            if facts is None or not facts.references:
                return []
            found = await self._report.drift(version, window, 0)
            return [judge_drift(version, each) for _, each in found]
        scored = await self._store.scored(version, window, as_of)
        if cause is Cause.ERRORS:
            return [judge_failures(version, len(scored.event_time), int(scored.failed.sum()))]
        return [] if facts is None else self._judge_quality(version, scored, facts)

    def _judge_quality(
        self, version: VersionKey, scored: Scored, facts: VersionFacts
    ) -> list[Judged]:
        name = "log_loss" if facts.binary else "mean_squared_error"
        registered = facts.metrics.get(name)
        if registered is None and "root_mean_squared_error" in facts.metrics:
            registered = facts.metrics["root_mean_squared_error"] ** 2
        if registered is None:
            return []
        losses = reports.losses(scored, facts).tolist()
        return [judge_losses(version, name, losses, registered, self._options.tolerance)]


def _within_limit(version: VersionKey, start: int, end: int, length: int) -> int:
    """Returns where judging begins."""
    oldest = end - MAXIMUM_WINDOWS_BACK * length
    if start < oldest:
        _LOGGER.warning(
            "%s version %d: %d windows are too old to be judged",
            version.model,
            version.version,
            (oldest - start) // length,
        )
    return max(start, oldest)


def judge_drift(version: VersionKey, finding: drift.Finding) -> Judged:
    """Reads a drift finding: ALARM breaches, OK is calm."""
    reading = {
        drift.Level.NO_DATA: Reading.NO_DATA,
        drift.Level.OK: Reading.CALM,
        drift.Level.WARNING: Reading.WARNING,
        drift.Level.ALARM: Reading.BREACH,
    }[finding.level]
    index = finding.population_stability_index
    moved = "; ".join(finding.moved_bins)
    return Judged(
        finding.column,
        reading,
        index,
        drift.ALARM_FLOOR,
        f"{version.model} v{version.version}: {finding.column} drifts, "
        f"population stability index {index:.2f} (alarm from {drift.ALARM_FLOOR}): {moved}",
    )


def judge_failures(version: VersionKey, predictions: int, failed: int) -> Judged:
    """Reads a window's failed predictions."""
    share = failed / predictions if predictions else 0.0
    if predictions < MINIMUM_PREDICTIONS:
        reading = Reading.NO_DATA
    elif share >= FAILURE_SHARE:
        reading = Reading.BREACH
    else:
        reading = Reading.CALM if share < FAILURE_SHARE / 5 else Reading.WARNING
    return Judged(
        "failed",
        reading,
        share,
        FAILURE_SHARE,
        f"{version.model} v{version.version}: {share:.1%} of {predictions} predictions failed",
    )


def judge_losses(
    version: VersionKey, name: str, values: Sequence[float], registered: float, tolerance: float
) -> Judged:
    """Reads a window's losses: a breach is harm that no further look can take back.

    The lower bound of a confidence sequence of the mean loss must exceed the loss at registration by
    the tolerance; the window is calm when the mean itself does not exceed it.
    """
    bound = registered * (1 + tolerance)
    rows = len(values)
    if rows < MINIMUM_LABELLED:
        return Judged(
            name, Reading.NO_DATA, math.nan if not rows else sum(values) / rows, bound, ""
        )
    mean = sum(values) / rows
    variance = sum((value - mean) ** 2 for value in values) / (rows - 1)
    lower = mean - comparison.radius(rows, math.sqrt(variance), horizon=rows)
    if lower > bound:
        reading = Reading.BREACH
    else:
        reading = Reading.CALM if mean <= bound else Reading.WARNING
    return Judged(
        name,
        reading,
        mean,
        bound,
        f"{version.model} v{version.version}: {name} {mean:.4f} on {rows} labelled predictions, "
        f"{registered:.4f} at registration",
    )
