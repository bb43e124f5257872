import dataclasses

import numpy as np
import pytest

from setpoint_monitoring import convert, testing
from setpoint_monitoring.domain import comparison, drift
from setpoint_monitoring.domain.records import HOUR, Record, Window
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.service.reports import Reports
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import FACTS, START, V1, V2, FakeRegistry
from setpoint_runtime import errors
from setpoint_runtime.clock import ManualClock

DAY = 24 * HOUR
WINDOW = Window(START, START + DAY)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def reports(store: PredictionStore, registry: FakeRegistry) -> Reports:
    codec = convert.RecordCodec()
    return Reports(store, registry, Ingest(store, registry, codec, ManualClock(START)))


async def add(store: PredictionStore, record: Record, labels: list[float] | None = None) -> None:
    await store.add_records([record], 1)
    if labels:
        await store.add_outcomes(testing.labels(record, labels))


async def test_performance_by_window_and_version(reports: Reports, store: PredictionStore) -> None:
    """Each version is measured in each window in which it predicted."""
    await add(
        store, testing.record([START, START + 1, START + DAY], scores=[0.9, 0.2, 0.6]), [1.0, 0.0]
    )
    await add(store, testing.record([START + 2], version=V2, failed=[True]))
    found = await reports.performance("late", None, Window(START, START + 2 * DAY), DAY, None)
    assert [(each.version, each.predictions, each.labelled, each.failed) for each in found] == [
        (V1, 2, 2, 0),
        (V2, 1, 0, 1),
        (V1, 1, 0, 0),
    ]
    assert found[0].metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.8]).mean(), rel=1e-6)
    assert found[0].label_mean == 0.5
    assert (found[2].metrics, found[2].label_mean) == ({}, None)
    only = await reports.performance("late", 2, Window(START, START + 2 * DAY), 0, None)
    assert [each.version for each in only] == [V2]


async def test_performance_as_known_at(reports: Reports, store: PredictionStore) -> None:
    """The past is measured by what was known then."""
    await add(store, testing.record([START]), [1.0])
    for known_at, labelled in ((START + HOUR - 1, 0), (START + HOUR, 1)):
        (found,) = await reports.performance("late", None, WINDOW, 0, known_at)
        assert found.labelled == labelled


async def test_performance_of_regression(
    reports: Reports, store: PredictionStore, registry: FakeRegistry
) -> None:
    """A version that predicts values is measured by distances."""
    registry.known = {V1: dataclasses.replace(FACTS, binary=False)}
    await add(store, testing.record([START, START], scores=[1.0, 5.0]), [2.0, 2.0])
    (found,) = await reports.performance("late", None, WINDOW, 0, None)
    assert found.metrics["mean_absolute_error"] == 2.0
    assert found.metrics["bias"] == 1.0


async def test_performance_unknown_model(reports: Reports) -> None:
    """A model without predictions is not found."""
    with pytest.raises(errors.NotFoundError) as caught:
        await reports.performance("none", None, WINDOW, 0, None)
    assert caught.value.reason is errors.Reason.MODEL_NOT_FOUND


async def test_too_many_windows(reports: Reports, store: PredictionStore) -> None:
    """A range that would be cut into millions of windows is refused by the length of a window."""
    await add(store, testing.record([START]))
    for call in (
        reports.performance("late", None, WINDOW, 1, None),
        reports.drift(V1, Window(0, 2**62), HOUR),
    ):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            await call
        assert caught.value.violations[0].field == "window_microseconds"


async def test_drift_counts_first(reports: Reports, store: PredictionStore) -> None:
    """What just arrived is counted before windows are judged; empty windows are left out."""
    random = np.random.default_rng(0)
    even = random.choice([-2.0, -0.5, 0.5, 2.0], 400).tolist()
    await add(store, testing.record([START] * 400, x=even))
    await add(store, testing.record([START + 2 * DAY] * 400, x=[2.0] * 400))
    found = await reports.drift(V1, Window(START, START + 3 * DAY), DAY)
    assert [(window.start, each.level) for window, each in found] == [
        (START, drift.Level.OK),
        (START + 2 * DAY, drift.Level.ALARM),
    ]
    assert found[1][1].rows == 400


async def test_drift_few_rows(reports: Reports, store: PredictionStore) -> None:
    """Few rows say nothing, however odd they are."""
    await add(store, testing.record([START] * 50, x=[2.0] * 50))
    ((_, found),) = await reports.drift(V1, WINDOW, 0)
    assert found.level is drift.Level.NO_DATA


async def test_drift_without_reference(reports: Reports, registry: FakeRegistry) -> None:
    """A version without a reference profile cannot be compared with one; an unknown one is not found."""
    registry.known = {V1: dataclasses.replace(FACTS, references=())}
    with pytest.raises(errors.FailedPreconditionError) as caught:
        await reports.drift(V1, WINDOW, 0)
    assert caught.value.reason is errors.Reason.REFERENCE_NOT_FOUND
    with pytest.raises(errors.NotFoundError):
        await reports.drift(V2, WINDOW, 0)


async def test_compare_versions(reports: Reports, store: PredictionStore) -> None:
    """Both arms are of the route and range alone; a candidate that fails is told from one that does not."""
    times = [START] * 400
    await add(store, testing.record(times))
    await add(store, testing.record([START] * 9, route="other"))
    await add(store, testing.record(times, version=V2))
    judged, candidate, baseline = await reports.compare("late", V2, V1, WINDOW, 0.5, 100)
    assert (candidate.predictions, baseline.predictions) == (400, 400)
    assert judged.verdict is comparison.Verdict.PASS
    later = [START + DAY] * 400
    await add(store, testing.record(later))
    await add(store, testing.record(later, version=V2, failed=[True] * 40 + [False] * 360))
    next_day = Window(START + DAY, START + 2 * DAY)
    judged, candidate, _ = await reports.compare("late", V2, V1, next_day, 0.5, 100)
    assert candidate.failures == 40
    assert judged.verdict is comparison.Verdict.FAIL


async def test_compare_with_fallback(reports: Reports, store: PredictionStore) -> None:
    """A candidate that never answers fails its gate, though the baseline stands in for it."""
    await add(store, testing.record([START] * 900))
    await add(store, testing.record([START] * 100, chosen=[2] * 100), [1.0] * 100)
    judged, candidate, baseline = await reports.compare("late", V2, V1, WINDOW, 0.1, 10)
    assert (candidate.predictions, candidate.failures, candidate.labelled) == (100, 100, 0)
    assert (baseline.predictions, baseline.failures, baseline.labelled) == (900, 0, 0)
    assert judged.verdict is comparison.Verdict.FAIL
    shown = await reports.performance("late", None, WINDOW, 0, None)
    assert [(each.version, each.predictions, each.failed, each.labelled) for each in shown] == [
        (V1, 1_000, 0, 100),
        (V2, 100, 100, 0),
    ]


async def test_prediction_with_story(reports: Reports, store: PredictionStore) -> None:
    """A prediction is found with the record that it came in."""
    record = testing.record([START, START + 1])
    await add(store, record, [1.0, 0.0])
    stored = await reports.prediction(record.entries[1].prediction_id)
    assert (stored.payload, stored.position) == (record.payload, 1)
    assert [each.label for each in stored.outcomes] == [0.0]
