import asyncio

import numpy as np
import pytest

from setpoint_db import testing as db_testing
from setpoint_monitoring import ports, testing
from setpoint_monitoring.domain.records import HOUR, Outcome, VersionKey, Window
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import START, V1, V2
from setpoint_runtime import errors, ids

ALL = ports.ListFilter()
FIRST_DAY = Window(START, START + 24 * HOUR)


async def test_upgrade_and_downgrade(database_url: str) -> None:
    """The migrations go up, down to nothing, and up again to the same schema."""
    await db_testing.check_migrations(
        database_url, schema="monitoring", package="setpoint_monitoring"
    )


async def test_add_records_whole_duplicate(store: PredictionStore) -> None:
    """A record that comes again is stored once, and nothing is left of its copy."""
    record = testing.record([START, START + 1])
    assert await store.add_records([record], 1) == 2
    assert await store.add_records([record], 2) == 0
    assert len(await store.pending(10)) == 1
    assert (await store.prediction(record.entries[0].prediction_id)).record_time == 1


async def test_add_records_partial_duplicate(store: PredictionStore) -> None:
    """Of a record that came in part before, only the new rows are its own."""
    one, two, three = (ids.uuid7() for _ in range(3))
    await store.add_records([testing.record([START, START], prediction_ids=[one, two])], 1)
    second = testing.record([START, START], prediction_ids=[two, three])
    assert await store.add_records([second], 2) == 1
    assert [each.positions for each in await store.pending(10)] == [(0, 1), (1,)]
    assert (await store.prediction(two)).record_time == 1
    assert (await store.prediction(three)).position == 1


async def test_add_records_duplicate_within_call(store: PredictionStore) -> None:
    """A call that holds a prediction twice stores it once, also within one record."""
    record = testing.record([START, START + 1])
    assert await store.add_records([record, record], 1) == 2
    twice = ids.uuid7()
    assert (
        await store.add_records([testing.record([START] * 2, prediction_ids=[twice] * 2)], 1) == 1
    )
    assert await store.count_predictions(ALL) == 3
    assert sum(len(each.positions) for each in await store.pending(10)) == 3


async def test_add_records_at_once(store: PredictionStore) -> None:
    """A record that several routers' retries bring at the same moment is stored once."""
    record = testing.record([START, START + 1])
    stored = await asyncio.gather(*(store.add_records([record], n) for n in range(4)))
    assert sorted(stored) == [0, 0, 0, 2]
    assert len(await store.pending(10)) == 1


async def test_add_outcomes_duplicates(store: PredictionStore) -> None:
    """The same outcome is stored once, whether it comes again or twice in one call."""
    outcome = Outcome(ids.uuid7(), 1.0, START, START + 5)
    later = Outcome(outcome.prediction_id, 1.0, START, START + 9)
    assert await store.add_outcomes([outcome, later]) == 1
    assert await store.add_outcomes([later]) == 0
    assert await store.add_outcomes([Outcome(outcome.prediction_id, 0.0, START, START + 9)]) == 1


async def test_add_outcomes_corrected_back(store: PredictionStore) -> None:
    """An outcome that was corrected may be corrected back; repeats are told by their arrival."""
    record = testing.record([START])
    (entry,) = record.entries
    await store.add_records([record], 1)
    wrong, right = (
        Outcome(entry.prediction_id, label, 10, 20 + int(label)) for label in (1.0, 2.0)
    )
    back = Outcome(entry.prediction_id, 1.0, 10, 30)
    assert [await store.add_outcomes([each]) for each in (wrong, right, back)] == [1, 1, 1]
    assert (await store.scored(V1, FIRST_DAY, None)).label.tolist() == [1.0]
    assert (await store.scored(V1, FIRST_DAY, 29)).label.tolist() == [2.0]
    assert await store.add_outcomes([back, wrong, right]) == 0
    assert await store.add_outcomes([Outcome(entry.prediction_id, 1.0, 10, 40)]) == 0
    labels = [each.label for each in (await store.prediction(entry.prediction_id)).outcomes]
    assert labels == [1.0, 2.0, 1.0]


async def test_add_outcomes_corrections_in_one_call(store: PredictionStore) -> None:
    """Corrections that come together count in the order in which they were learned."""
    one, other = ids.uuid7(), ids.uuid7()
    told = [Outcome(one, label, 10, at) for at, label in enumerate((1.0, 1.0, 0.0, 1.0))]
    assert await store.add_outcomes([*reversed(told), Outcome(other, 1.0, 10, 2)]) == 4
    assert await store.add_outcomes(told) == 0


async def test_outcome_before_prediction(store: PredictionStore) -> None:
    """An outcome may come before the record of its prediction."""
    record = testing.record([START])
    await store.add_outcomes(testing.labels(record, [1.0]))
    await store.add_records([record], 1)
    found = await store.prediction(record.entries[0].prediction_id)
    assert [each.label for each in found.outcomes] == [1.0]
    assert (await store.scored(V1, FIRST_DAY, None)).label.tolist() == [1.0]


async def test_scored_correction_wins(store: PredictionStore) -> None:
    """The newest outcome counts; at equal event times the one that arrived last."""
    record = testing.record([START])
    (entry,) = record.entries
    await store.add_records([record], 1)
    for label, event, arrival in ((1.0, 10, 20), (0.0, 10, 30), (5.0, 5, 99)):
        await store.add_outcomes([Outcome(entry.prediction_id, label, event, arrival)])
    assert (await store.scored(V1, FIRST_DAY, None)).label.tolist() == [0.0]
    assert [each.label for each in (await store.prediction(entry.prediction_id)).outcomes] == [
        0.0,
        1.0,
        5.0,
    ]


async def test_scored_as_known_at(store: PredictionStore) -> None:
    """What had not arrived by a time is not known at it."""
    record = testing.record([START])
    (entry,) = record.entries
    await store.add_records([record], 1)
    await store.add_outcomes([Outcome(entry.prediction_id, 1.0, 10, 20)])
    await store.add_outcomes([Outcome(entry.prediction_id, 0.0, 11, 30)])
    known = [(await store.scored(V1, FIRST_DAY, at)).label.tolist() for at in (19, 20, 29, 30)]
    np.testing.assert_equal(known, [[np.nan], [1.0], [1.0], [0.0]])


async def test_scored_of_version_route_and_window(store: PredictionStore) -> None:
    """Other versions, routes and times are left out; failed rows have no score."""
    mine = testing.record([START + 2, START], failed=[True, False])
    others = [
        testing.record([START], version=V2),
        testing.record([START], route="other"),
        testing.record([FIRST_DAY.end]),
    ]
    await store.add_records([mine, *others], 1)
    scored = await store.scored(V1, FIRST_DAY, None, route="late")
    assert scored.event_time.tolist() == [START, START + 2]
    assert scored.failed.tolist() == [False, True]
    np.testing.assert_equal(scored.score, [0.25, np.nan])
    assert len((await store.scored(V1, FIRST_DAY, None)).event_time) == 3


async def test_scored_where_another_stood_in(store: PredictionStore) -> None:
    """What a version could not answer is its failure, and an answer of the one that stood in."""
    times = [START, START + 1, START + 2]
    record = testing.record(times, version=V1, chosen=[None, 2, 2], failed=[False, False, True])
    await store.add_records([record, testing.record([START + 3], version=V2)], 1)
    answered = await store.scored(V1, FIRST_DAY, None, route="late")
    assert answered.failed.tolist() == [False, False, True]
    assigned = await store.scored(V1, FIRST_DAY, None, route="late", as_assigned=True)
    assert assigned.event_time.tolist() == [START]
    for as_assigned in (False, True):
        chosen = await store.scored(V2, FIRST_DAY, None, route="late", as_assigned=as_assigned)
        assert chosen.event_time.tolist() == [START + 1, START + 2, START + 3]
        assert chosen.failed.tolist() == [True, True, False]
        np.testing.assert_equal(chosen.score, [np.nan, np.nan, 0.25])
    assert await store.versions("late") == [(V1, START, START + 2), (V2, START + 1, START + 3)]
    sample = await store.sample(V2, FIRST_DAY, 2)
    assert sample == [record.entries[2].prediction_id, record.entries[1].prediction_id]


async def test_versions_that_never_answered(store: PredictionStore) -> None:
    """A version for which another one always stood in is one of the model's versions."""
    await store.add_records([testing.record([START, START + 1], chosen=[7, 7])], 1)
    found = await store.versions("late")
    assert found == [(V1, START, START + 1), (VersionKey("late", 7), START, START + 1)]


async def test_prediction_unknown(store: PredictionStore) -> None:
    """A prediction without a record is not found."""
    with pytest.raises(errors.NotFoundError) as caught:
        await store.prediction(ids.uuid7())
    assert caught.value.reason is errors.Reason.PREDICTION_NOT_FOUND


async def test_list_predictions_pages(store: PredictionStore) -> None:
    """Pages hold every prediction once, newest event time first, also at equal times."""
    record = testing.record([START, START + 1, START, START + 2, START + 1])
    await store.add_records([record], 1)
    found: list[tuple[int, str]] = []
    for _ in range(3):
        page = await store.list_predictions(ALL, found[-1] if found else None, 2)
        found += [(each.event_time, each.prediction_id) for each in page]
    wanted = [(entry.event_time, entry.prediction_id) for entry in record.entries]
    assert found == sorted(wanted, reverse=True)


async def test_list_predictions_filters(store: PredictionStore) -> None:
    """Lists and counts obey model, version and window."""
    records = [
        testing.record([START, START + HOUR]),
        testing.record([START], version=V2),
        testing.record([START], version=VersionKey("other", 1)),
    ]
    await store.add_records(records, 1)
    for which, wanted in (
        (ALL, 4),
        (ports.ListFilter(model="late"), 3),
        (ports.ListFilter(model="late", version=1), 2),
        (ports.ListFilter(model="late", window=Window(START, START + HOUR)), 2),
        (ports.ListFilter(model="none"), 0),
    ):
        assert await store.count_predictions(which) == wanted
        assert len(await store.list_predictions(which, None, 10)) == wanted
    assert await store.models() == ["late", "other"]
    assert await store.versions("late") == [(V1, START, START + HOUR), (V2, START, START)]


async def test_add_profiles_adds(store: PredictionStore) -> None:
    """Counts add up; only the hours of the window are read."""
    hour = START // HOUR
    for number in range(2):
        await store.add_records([testing.record([START])], 1)
        (pending,) = await store.pending(10)
        counts = {(V1, "x", hour + extra): np.array([1, 2, number]) for extra in (0, 1)}
        assert await store.add_profiles([pending.record_id], counts)
    assert await store.pending(10) == []
    ((column, found, summed),) = await store.profiles(V1, Window(START, START + HOUR))
    assert (column, found, summed.tolist()) == ("x", hour, [2, 4, 1])
    assert len(await store.profiles(V1, Window(START, START + 2 * HOUR))) == 2
    assert await store.profiles(V2, FIRST_DAY) == []


async def test_add_profiles_of_another(store: PredictionStore) -> None:
    """When another replica has counted one of the records, nothing at all is added."""
    await store.add_records([testing.record([START]), testing.record([START])], 1)
    first, second = [each.record_id for each in await store.pending(10)]
    counts = {(V1, "x", START // HOUR): np.array([1, 1])}
    assert await store.add_profiles([first], counts)
    assert not await store.add_profiles([first, second], counts)
    assert [each.record_id for each in await store.pending(10)] == [second]
    ((_, _, summed),) = await store.profiles(V1, FIRST_DAY)
    assert summed.tolist() == [1, 1]


async def test_add_profiles_at_once(store: PredictionStore) -> None:
    """Of replicas that count the same records at the same moment, one does."""
    await store.add_records([testing.record([START])], 1)
    (pending,) = await store.pending(10)
    counts = {(V1, "x", START // HOUR): np.array([1])}
    done = await asyncio.gather(*(store.add_profiles([pending.record_id], counts) for _ in "abc"))
    assert sorted(done) == [False, False, True]
