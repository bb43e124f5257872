import pytest

from setpoint_monitoring import testing
from setpoint_monitoring.domain.records import Record
from setpoint_monitoring.store import prediction_store
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import START


async def add(store: PredictionStore, count: int, now: int = 1) -> list[Record]:
    """Stores some records, one after the other."""
    records = [testing.record([START + number]) for number in range(count)]
    for each in records:
        await store.add_records([each], now)
    return records


async def test_sample_takes_all_in_order(store: PredictionStore) -> None:
    """The whole share is every record, once and as it came, however small the pieces are."""
    records = await add(store, 5)
    sample = await store.sample_records(0, 10_000, None)
    assert [each.payload for each in sample.records] == [each.payload for each in records]
    assert sample.through == sample.newest == sample.records[-1].record_id
    assert {each.record_time for each in sample.records} == {1}
    rest = await store.sample_records(sample.through, 10_000, None)
    assert (rest.records, rest.through) == ((), sample.newest)


async def test_sample_is_cut_by_size_and_goes_on(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is full ends after a record, and the next one begins with the following."""
    records = await add(store, 4)
    monkeypatch.setattr(prediction_store, "SAMPLED_BYTES", len(records[0].payload) + 1)
    first = await store.sample_records(0, 10_000, None)
    assert (len(first.records), first.through) == (2, first.records[-1].record_id)
    second = await store.sample_records(first.through, 10_000, None)
    found = [each.payload for each in (*first.records, *second.records)]
    assert found == [each.payload for each in records]
    assert second.through == second.newest


async def test_sample_of_a_share_is_the_same_each_time(store: PredictionStore) -> None:
    """A share takes some of the records, always the same, and a greater share takes them too."""
    await add(store, 60)
    taken = [
        {each.record_id for each in (await store.sample_records(0, share, None)).records}
        for share in (5_000, 5_000, 8_000, 10_000)
    ]
    assert taken[0] == taken[1] < taken[2] < taken[3]
    nothing = await store.sample_records(0, 1, None)
    assert nothing.through == nothing.newest


async def test_sample_stops_before_what_is_too_new(store: PredictionStore) -> None:
    """What was stored after the time is left for later, and nothing before it is passed over."""
    await add(store, 2, now=10)
    await add(store, 2, now=20)
    first = await store.sample_records(0, 10_000, 15)
    assert [each.record_time for each in first.records] == [10, 10]
    assert first.through == first.records[-1].record_id < first.newest
    second = await store.sample_records(first.through, 10_000, 15)
    assert (second.records, second.through) == ((), first.through)
    third = await store.sample_records(first.through, 10_000, 20)
    assert [each.record_time for each in third.records] == [20, 20]


async def test_sample_of_nothing(store: PredictionStore) -> None:
    """Without records there is nothing to go through."""
    sample = await store.sample_records(0, 10_000, 5)
    assert (sample.records, sample.through, sample.newest) == ((), 0, 0)
