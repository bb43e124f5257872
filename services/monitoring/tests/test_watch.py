import asyncio
from dataclasses import replace

import pytest

from setpoint_monitoring import convert, ports, testing
from setpoint_monitoring.domain.alerting import State
from setpoint_monitoring.domain.records import HOUR, Alert
from setpoint_monitoring.service import watch as watches
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.service.reports import Reports
from setpoint_monitoring.service.watch import Cause, Watch, WatchOptions
from setpoint_monitoring.store.alert_store import AlertStore
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import FACTS, START, V1, V2, FakeRegistry
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import ManualClock

OPTIONS = WatchOptions(window=HOUR, label_delay=2 * HOUR, tolerance=0.05)


def new_watch(store: PredictionStore, alerts: AlertStore, registry: FakeRegistry) -> Watch:
    codec, clock = convert.RecordCodec(), ManualClock(START)
    report = Reports(store, registry, Ingest(store, registry, codec, clock))
    return Watch(store, alerts, registry, report, OPTIONS, clock)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry(known={V1: replace(FACTS, references=())})


@pytest.fixture
def watch(store: PredictionStore, alerts: AlertStore, registry: FakeRegistry) -> Watch:
    return new_watch(store, alerts, registry)


async def traffic(store: PredictionStore, failing: list[bool | None], first: int = 0) -> None:
    """Store an hour of traffic for each flag: with failures, without, or None for no traffic."""
    for number, fails in enumerate(failing, first):
        if fails is not None:
            times = [START + number * HOUR] * 60
            await store.add_records([testing.record(times, failed=[fails] * 6 + [False] * 54)], 1)


async def states(alerts: AlertStore) -> list[State]:
    return [each.state for each in await alerts.list(None, [], None, 10)]


async def evaluate(watch: Watch, hours: int) -> list[Alert]:
    _, changed = await watch.evaluate("late", START + hours * HOUR)
    return changed


async def test_fires_after_two_of_three(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """One bad window is noted, a second one within three fires, with the window and its predictions."""
    await traffic(store, [True, False, True])
    (pending,) = await evaluate(watch, 1)
    assert (pending.state, pending.key.cause) == (State.PENDING, Cause.ERRORS)
    assert await evaluate(watch, 2) == []
    (firing,) = await evaluate(watch, 3)
    assert (firing.alert_id, firing.state) == (pending.alert_id, State.FIRING)
    assert (firing.start_time, firing.fire_time) == (START + HOUR, START + 3 * HOUR)
    assert firing.value == pytest.approx(0.1)
    assert len(firing.prediction_ids) == watches.SAMPLE
    assert "10.0% of 60" in firing.summary
    assert await alerts.get(firing.alert_id) == firing


async def test_fires_for_a_version_that_another_stands_in_for(
    watch: Watch, store: PredictionStore, registry: FakeRegistry
) -> None:
    """A version that never answers raises an alert, and the fallback that answers does not."""
    registry.known = {each: replace(FACTS, references=()) for each in (V1, V2)}
    for hour in range(2):
        times = [START + hour * HOUR] * 60
        await store.add_records([testing.record(times, chosen=[2] * 60)], 1)
    (firing,) = await evaluate(watch, 2)
    assert (firing.key.version, firing.key.cause) == (V2, Cause.ERRORS)
    assert (firing.state, firing.value) == (State.FIRING, 1.0)
    assert len(firing.prediction_ids) == watches.SAMPLE


@pytest.mark.parametrize("strange", [1, -(2**62)])
async def test_evaluate_bounds_old_windows(
    watch: Watch, store: PredictionStore, monkeypatch: pytest.MonkeyPatch, strange: int
) -> None:
    """A prediction with an absurd time is kept, but the windows since then are not all judged."""
    monkeypatch.setattr(watches, "MAXIMUM_WINDOWS_BACK", 10)
    await store.add_records([testing.record([strange])], 1)
    await traffic(store, [True, True])
    windows, changed = await watch.evaluate("late", START + 2 * HOUR)
    assert windows == len(Cause) * 10
    assert [alert.state for alert in changed] == [State.FIRING]
    listed = await store.list_predictions(ports.ListFilter("late"), None, 1_000)
    assert listed[-1].event_time == strange
    assert await watch.evaluate("late", START + 2 * HOUR) == (0, [])


async def test_comes_to_nothing(watch: Watch, store: PredictionStore, alerts: AlertStore) -> None:
    """A single bad window is forgotten when two good ones follow."""
    await traffic(store, [True, False, False])
    await evaluate(watch, 3)
    assert await states(alerts) == []


async def test_evaluate_in_one_go_or_in_steps(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """Windows that are judged late, all at once, end where judging them one by one ends."""
    await traffic(store, [True, True, False, False, False, True, True])
    changed = await evaluate(watch, 7)
    assert sorted(alert.state for alert in changed) == [State.FIRING, State.RESOLVED]
    assert await states(alerts) == [State.FIRING, State.RESOLVED]


async def test_evaluate_same_time_again(watch: Watch, store: PredictionStore) -> None:
    """The same time again judges nothing; an earlier one neither."""
    await traffic(store, [True, True])
    windows, changed = await watch.evaluate("late", START + 2 * HOUR)
    assert windows >= 2
    assert len(changed) == 1
    for hours in (2, 1, 0):
        assert await watch.evaluate("late", START + hours * HOUR) == (0, [])


async def test_evaluate_at_once(
    watch: Watch, store: PredictionStore, alerts: AlertStore, registry: FakeRegistry
) -> None:
    """Two evaluations at once, in one process and in two, raise one alert."""
    await traffic(store, [True, True])
    other = new_watch(store, alerts, registry)
    results = await asyncio.gather(*(evaluate(each, 2) for each in (watch, watch, other, other)))
    assert sum(len(changed) for changed in results) == 1
    assert await states(alerts) == [State.FIRING]


async def test_resolves_after_three_calm(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """An alert is over after three calm windows in a row; windows without data do not count."""
    await traffic(store, [True, True, False, None, False, False, True, True])
    await evaluate(watch, 5)
    assert await states(alerts) == [State.FIRING]
    (resolved,) = await evaluate(watch, 6)
    assert (resolved.state, resolved.resolve_time) == (State.RESOLVED, START + 6 * HOUR)
    (again,) = await evaluate(watch, 8)
    assert again.alert_id != resolved.alert_id
    assert await states(alerts) == [State.FIRING, State.RESOLVED]


async def test_version_that_stopped(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """The windows after a version's last prediction are not judged until it predicts again."""
    await traffic(store, [True, True])
    await evaluate(watch, 500)
    assert await watch.evaluate("late", START + 1_000 * HOUR) == (0, [])
    assert await states(alerts) == [State.FIRING]
    await traffic(store, [False, False, False], first=10)
    (resolved,) = await evaluate(watch, 13)
    assert resolved.state is State.RESOLVED


async def test_acknowledged_while_judged(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """Who takes an alert while windows are judged keeps it."""
    await traffic(store, [True, True, True])
    (firing,) = await evaluate(watch, 2)
    unresolved = alerts.unresolved

    async def taken_meanwhile(*given: object) -> list[Alert]:
        read = await unresolved(*given)  # type: ignore[arg-type]  # passed on
        await alerts.acknowledge(firing.alert_id, "ada")
        return read

    alerts.unresolved = taken_meanwhile  # type: ignore[method-assign,assignment]  # the person
    await evaluate(watch, 3)
    alert = await alerts.get(firing.alert_id)
    assert (alert.state, alert.acknowledged_by) == (State.ACKNOWLEDGED, "ada")


async def test_acknowledged_resolves(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """An alert that somebody took resolves like any other, and still says who took it."""
    await traffic(store, [True, True, False, False, False])
    (firing,) = await evaluate(watch, 2)
    await alerts.acknowledge(firing.alert_id, "ada")
    (resolved,) = await evaluate(watch, 5)
    assert (resolved.state, resolved.acknowledged_by) == (State.RESOLVED, "ada")
    assert (await alerts.get(firing.alert_id)).acknowledged_by == "ada"


async def test_acknowledge_states(watch: Watch, store: PredictionStore, alerts: AlertStore) -> None:
    """Only a firing alert is taken; the first to take it stays the one who did."""
    await traffic(store, [True, True])
    (pending,) = await evaluate(watch, 1)
    assert (await alerts.acknowledge(pending.alert_id, "ada")).state is State.PENDING
    await evaluate(watch, 2)
    for actor in ("ada", "bob"):
        taken = await alerts.acknowledge(pending.alert_id, actor)
        assert (taken.state, taken.acknowledged_by) == (State.ACKNOWLEDGED, "ada")
    with pytest.raises(errors.NotFoundError):
        await alerts.acknowledge(ids.uuid7(), "ada")


async def test_quality_waits_for_labels(
    watch: Watch, store: PredictionStore, alerts: AlertStore
) -> None:
    """A window's quality is judged when its outcomes are due, by those that are known then."""
    for number in range(2):
        times = [START + number * HOUR] * 250
        record = testing.record(times, scores=[0.05] * 250)
        await store.add_records([record], 1)
        await store.add_outcomes(testing.labels(record, [1.0] * 250))
    assert await evaluate(watch, 2) == []
    changed = await evaluate(watch, 4)
    assert [(each.key.cause, each.key.subject, each.state) for each in changed] == [
        (Cause.PERFORMANCE, "log_loss", State.FIRING)
    ]


async def test_drift_fires(watch: Watch, store: PredictionStore, registry: FakeRegistry) -> None:
    """A column that has moved fires under its own name."""
    registry.known = {V1: FACTS}
    for number in range(2):
        times = [START + number * HOUR] * 400
        await store.add_records([testing.record(times, x=[5.0] * 400)], 1)
    (firing,) = await evaluate(watch, 2)
    assert (firing.key.cause, firing.key.subject, firing.state) == (Cause.DRIFT, "x", State.FIRING)


async def test_evaluate_registry_away(
    watch: Watch, store: PredictionStore, registry: FakeRegistry
) -> None:
    """Without the registry nothing is judged, and nothing is skipped either."""
    await traffic(store, [True, True])
    registry.away = True
    with pytest.raises(errors.UnavailableError):
        await evaluate(watch, 2)
    registry.away = False
    assert len(await evaluate(watch, 2)) == 1
