"""Answers about the past: one prediction, quality, drift, two versions compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from setpoint_monitoring import ports
from setpoint_monitoring.domain import comparison, drift, pairs, quality
from setpoint_monitoring.domain.profile import Counts, Reference
from setpoint_monitoring.domain.records import (
    HOUR,
    Performance,
    Scored,
    VersionFacts,
    VersionKey,
    Window,
    aligned_windows,
)
from setpoint_monitoring.service.ingest import Ingest
from setpoint_runtime import errors

MAXIMUM_WINDOWS = 10_000
"""Of one answer; a year of hours is 8,766."""


class Reports:
    """Reads what was stored."""

    def __init__(
        self,
        store: ports.PredictionStore,
        registry: ports.Registry,
        ingest: Ingest,
    ) -> None:
        """Take what it works with."""
        self._store = store
        self._registry = registry
        self._ingest = ingest

    async def prediction(self, prediction_id: str) -> ports.StoredPrediction:
        """Return where one prediction's story is told. Raises NotFoundError."""
        return await self._store.prediction(prediction_id)

    async def list_predictions(
        self, which: ports.ListFilter, before: tuple[int, str] | None, limit: int
    ) -> list[ports.Listed]:
        """Return predictions, newest event time first, those before one."""
        return await self._store.list_predictions(which, before, limit)

    async def sample_records(
        self, after: int, basis_points: int, until: int | None
    ) -> ports.RecordSample:
        """Return a share of the records after one, before the first that was stored after a time."""
        return await self._store.sample_records(after, basis_points, until)

    async def count_predictions(self, which: ports.ListFilter) -> int:
        """Return how many predictions match."""
        return await self._store.count_predictions(which)

    async def performance(
        self,
        model: str,
        version: int | None,
        asked: Window,
        length: int,
        known_at: int | None,
    ) -> list[Performance]:
        """Measure quality per window and version. Raises NotFoundError for an unknown model."""
        versions = await self._store.versions(model)
        if not versions:
            raise errors.NotFoundError(
                errors.Reason.MODEL_NOT_FOUND, f"no predictions of model {model!r} are stored"
            )
        windows = _windows(asked, length)
        measured = []
        for key, first, last in versions:
            if version is not None and key.version != version:
                continue
            facts = await self._registry.facts(key)
            predicted = Window(max(asked.start, first), min(asked.end, last + 1))
            scored = await self._store.scored(key, predicted, known_at)
            measured += [_performance(key, window, scored, facts) for window in windows]
        shown = [each for each in measured if each.predictions]
        return sorted(shown, key=lambda each: (each.window.start, each.version))

    async def drift(
        self, version: VersionKey, asked: Window, length: int
    ) -> list[tuple[Window, drift.Finding]]:
        """Compare windows with the version's reference, every column of every window.

        Edges are taken to whole hours. Windows without predictions are left out.

        Raises:
            FailedPreconditionError: The version has no reference profile.
            NotFoundError: The version does not exist.
        """
        windows = _windows(asked, length)
        facts = await self._registry.facts(version)
        if not facts.references:
            raise errors.FailedPreconditionError(
                errors.Reason.REFERENCE_NOT_FOUND,
                f"{version.model} version {version.version} has no reference profile",
            )
        await self._ingest.count_pending()
        counted = await self._store.profiles(version, asked)
        findings = []
        for window in windows:
            pairs = _pairs(facts.references, counted, window)
            if any(counts.sum() for _, counts in pairs):
                findings += [(window, each) for each in drift.judge(pairs)]
        return findings

    async def compare(
        self,
        route: str,
        candidate: VersionKey,
        baseline: VersionKey,
        window: Window,
        share: float,
        minimum_predictions: int,
    ) -> tuple[comparison.Comparison, comparison.Arm, comparison.Arm]:
        """Judge a candidate against the version that serves, on one route."""
        arms = []
        for version in (candidate, baseline):
            # By assignment: whoever a version merely stood in for is no random part of its traffic.
            scored = await self._store.scored(version, window, None, route=route, as_assigned=True)
            facts = await self._registry.facts(version)
            arms.append(_arm(scored, facts))
        judged = comparison.compare(arms[0], arms[1], share, minimum_predictions)
        return judged, arms[0], arms[1]

    async def compare_shadow(
        self,
        route: str,
        shadow: VersionKey,
        primary: int | None,
        window: Window,
        known_at: int | None,
        tolerance: float,
    ) -> pairs.ShadowComparison:
        """Compare a shadow with what callers got. Raises NotFoundError for an unknown version."""
        facts = await self._registry.facts(shadow)
        copies = await self._store.pairs(route, shadow, primary, window, known_at)
        return pairs.compare(
            copies, binary=facts.binary, threshold=facts.threshold, tolerance=tolerance
        )


def _windows(asked: Window, length: int) -> list[Window]:
    """Cuts what is asked for into windows. Raises InvalidArgumentError if they are too many."""
    if length and (asked.end - asked.start) // length >= MAXIMUM_WINDOWS:
        raise errors.invalid(
            "window_microseconds", length, f"must cut the range into at most {MAXIMUM_WINDOWS}"
        )
    return aligned_windows(asked.start, asked.end, length)


def losses(scored: Scored, facts: VersionFacts) -> npt.NDArray[np.float64]:
    """Computes the loss of each labelled row: log loss of probabilities, else the squared error."""
    labelled = _labelled(scored)
    score, label = scored.score[labelled], scored.label[labelled]
    if facts.binary:
        return quality.log_losses(score, label)
    return quality.squared_errors(score, label)


def _labelled(scored: Scored) -> npt.NDArray[np.bool_]:
    return ~scored.failed & np.isfinite(scored.score) & np.isfinite(scored.label)


def _arm(scored: Scored, facts: VersionFacts) -> comparison.Arm:
    values = losses(scored, facts)
    return comparison.Arm(
        predictions=len(scored.event_time),
        failures=int(scored.failed.sum()),
        labelled=len(values),
        loss_sum=float(values.sum()),
        loss_square_sum=float((values**2).sum()),
    )


def cut(scored: Scored, window: Window) -> Scored:
    """Takes the rows of one window; rows are sorted by event time."""
    start, end = np.searchsorted(scored.event_time, [window.start, window.end])
    return Scored(
        scored.event_time[start:end],
        scored.failed[start:end],
        scored.score[start:end],
        scored.label[start:end],
    )


def _performance(
    version: VersionKey, window: Window, scored: Scored, facts: VersionFacts
) -> Performance:
    rows = cut(scored, window)
    labelled = _labelled(rows)
    score, label = rows.score[labelled], rows.label[labelled]
    if facts.binary:
        metrics = quality.binary_metrics(score, label, facts.threshold)
    else:
        metrics = quality.regression_metrics(score, label)
    return Performance(
        version=version,
        window=window,
        predictions=len(rows.event_time),
        labelled=len(score),
        failed=int(rows.failed.sum()),
        label_mean=float(label.mean()) if len(label) else None,
        score_mean=float(score.mean()) if len(score) else None,
        metrics=metrics,
    )


def _pairs(
    references: Sequence[Reference], counted: Sequence[tuple[str, int, Counts]], window: Window
) -> list[tuple[Reference, Counts]]:
    """Adds up the window's hours for each reference."""
    first, last = window.start // HOUR, -(-window.end // HOUR)
    sums = {each.column: np.zeros(each.size, dtype=np.int64) for each in references}
    for column, hour, counts in counted:
        if first <= hour < last and column in sums:
            sums[column] += counts
    return [(each, sums[each.column]) for each in references]
