"""What shadows predict is stored apart and counts nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from setpoint_monitoring import convert, ports, testing
from setpoint_monitoring.domain.records import HOUR, Outcome, Record, Window
from setpoint_monitoring.service import watch
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.service.reports import Reports
from setpoint_monitoring.store.alert_store import AlertStore
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import START, V1, V2, FakeRegistry
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import ManualClock

DAY = Window(START, START + 24 * HOUR)
SHADOWS = ports.ListFilter(are_shadows=True)


def copies(of: Record, rows: Sequence[int] | None = None, **given: object) -> Record:
    """Returns the record of a shadow, version 2, that copies a record's rows."""
    entries = [of.entries[row] for row in rows] if rows is not None else of.entries
    given.setdefault("version", V2)
    return testing.record(
        [each.event_time for each in entries],
        copies=[each.prediction_id for each in entries],
        **given,
    )


async def test_shadows_count_nowhere(store: PredictionStore, alerts: AlertStore) -> None:
    """Windows, drift, alerts, versions, models, samples and lists see what callers got alone."""
    primary = testing.record([START] * 60)
    shadow = copies(primary, failed=[True] * 60)
    only_shadow = copies(primary, route="other")
    await store.add_records([primary, shadow, only_shadow], 1)
    codec, registry, clock = convert.RecordCodec(), FakeRegistry(), ManualClock(START)
    ingest = Ingest(store, registry, codec, clock)
    reports = Reports(store, registry, ingest)
    assert await store.versions("late") == [(V1, START, START)]
    assert await store.models() == ["late"]
    assert await store.count_predictions(ports.ListFilter()) == 60
    assert len((await store.scored(V2, DAY, None)).event_time) == 0
    assert await store.sample(V2, DAY, 5) == []
    assert await ingest.count_pending() == 1
    assert await store.profiles(V2, DAY) == []
    assert await reports.drift(V2, DAY, 0) == []
    measured = await reports.performance("late", None, DAY, 0, None)
    assert [(each.version, each.failed) for each in measured] == [(V1, 0)]
    options = watch.WatchOptions(window=HOUR, label_delay=0, tolerance=0.05)
    watching = watch.Watch(store, alerts, registry, reports, options, clock)
    _, changed = await watching.evaluate("late", START + 3 * HOUR)
    assert not [each for each in changed if each.key.cause == watch.Cause.ERRORS]


async def test_shadows_are_listed_when_asked_for(store: PredictionStore) -> None:
    """A list of shadows has the same filters and pages."""
    primary = testing.record([START, START + 1, START + 2])
    shadow = copies(primary)
    await store.add_records([primary, shadow], 1)
    assert await store.count_predictions(SHADOWS) == 3
    page = await store.list_predictions(SHADOWS, None, 2)
    wanted = list(zip(shadow.entries, primary.entries, strict=True))[::-1]
    assert [(each.prediction_id, each.primary_id) for each in page] == [
        (mine.prediction_id, of.prediction_id) for mine, of in wanted[:2]
    ]
    rest = await store.list_predictions(SHADOWS, (page[-1].event_time, page[-1].prediction_id), 2)
    assert [each.prediction_id for each in rest] == [shadow.entries[0].prediction_id]
    of_one = ports.ListFilter("late", 1, are_shadows=True)
    assert await store.count_predictions(of_one) == 0


async def test_shadow_records_are_stored_once(store: PredictionStore) -> None:
    """A shadow's record that comes again, at once or later, leaves nothing behind."""
    primary = testing.record([START, START + 1])
    shadow = copies(primary)
    stored = await asyncio.gather(*(store.add_records([shadow], n) for n in range(3)))
    assert sorted(stored) == [0, 0, 2]
    assert await store.add_records([primary, shadow], 4) == 2
    found = await store.prediction(shadow.entries[0].prediction_id)
    assert found.record_time < 4
    assert len(await store.pending(10)) == 1


async def test_primary_tells_its_shadows(store: PredictionStore) -> None:
    """Copies come with the prediction that they copy, by version; outcomes hold for both."""
    primary = testing.record([START, START + 1])
    shadow, other = copies(primary), copies(primary, [1], version=V1)
    await store.add_records([shadow, primary, other], 7)
    first, second = primary.entries
    await store.add_outcomes([Outcome(second.prediction_id, 1.0, 5, 6)])
    found = await store.prediction(second.prediction_id)
    assert [(each.payload, each.position) for each in found.shadows] == [
        (other.payload, 0),
        (shadow.payload, 1),
    ]
    assert [each.label for each in found.outcomes] == [1.0]
    mine = await store.prediction(shadow.entries[1].prediction_id)
    assert (mine.outcomes, mine.shadows) == (found.outcomes, ())
    assert len((await store.prediction(first.prediction_id)).shadows) == 1


async def test_pairs_join_what_was_answered(store: PredictionStore) -> None:
    """Each copy is met with its primary's score and the newest outcome known at a time."""
    primary = testing.record([START + at for at in range(4)], scores=[0.1, 0.2, 0.3, 0.4])
    absent = testing.record([START])
    shadow = copies(primary, scores=[0.5, 0.6, 0.7, 0.8], failed=[False, False, False, True])
    await store.add_records([primary, shadow, copies(absent), copies(primary, route="other")], 1)
    first = primary.entries[0].prediction_id
    await store.add_outcomes([Outcome(first, 1.0, 10, 20), Outcome(first, 0.0, 10, 30)])
    found = await store.pairs("late", V2, None, DAY, 25)
    order = np.lexsort((found.shadow, found.is_paired))
    assert found.is_paired[order].tolist() == [False, True, True, True, True]
    assert found.is_answered[order].tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(found.primary[order][1:], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found.shadow[order][1:4], [0.5, 0.6, 0.7], rtol=1e-6)
    assert found.label[order][1] == 1.0
    assert np.isnan(found.label[order][2:]).all()
    assert int(found.has_failed.sum()) == 1


async def test_pairs_of_one_primary_version_and_window(store: PredictionStore) -> None:
    """Copies of what another version answered, and of other times, are left out when asked."""
    first = testing.record([START, START + HOUR])
    second = testing.record([START], version=V2)
    await store.add_records(
        [first, second, copies(first, version=V1), copies(second, version=V1)], 1
    )

    async def count(primary: int | None, end: int) -> int:
        found = await store.pairs("late", V1, primary, Window(START, end), None)
        return len(found.is_paired)

    assert await count(None, DAY.end) == 3
    assert await count(1, DAY.end) == 2
    assert await count(2, DAY.end) == 1
    assert await count(None, START + HOUR) == 2


async def test_compare_shadow_of_unknown_version(store: PredictionStore) -> None:
    """A version that the registry does not know has no threshold to compare by."""
    registry = FakeRegistry(known={})
    ingest = Ingest(store, registry, convert.RecordCodec(), ManualClock(START))
    with pytest.raises(errors.NotFoundError):
        await Reports(store, registry, ingest).compare_shadow("late", V2, None, DAY, None, 0.0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"copies": ["x"]}, "record.predictions.primary_prediction_id[0]"),
        ({"copies": [None]}, "record.predictions.primary_prediction_id"),
    ],
)
def test_record_refuses_bad_copies(change: dict[str, Sequence[str]], field: str) -> None:
    """A shadow's record must name what it copies."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        testing.record([START], **change)
    assert caught.value.violations[0].field == field


def test_record_refuses_unknown_kind() -> None:
    """A kind that this version does not know is refused rather than counted as served."""
    message = testing.message([START], copies=[ids.uuid7()])
    message.kind = 9  # type: ignore[assignment]  # on purpose
    with pytest.raises(errors.InvalidArgumentError, match=r"record\.kind"):
        convert.record_from_proto(message, "record")
