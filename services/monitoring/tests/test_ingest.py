import asyncio
import dataclasses

import numpy as np
import pytest

from setpoint_columns import Column, DataType
from setpoint_monitoring import convert, testing
from setpoint_monitoring.domain.profile import Reference
from setpoint_monitoring.domain.records import HOUR, VersionKey, Window
from setpoint_monitoring.service import ingest as ingests
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_monitoring.testing import START, V1, FakeRegistry
from setpoint_runtime import errors
from setpoint_runtime.clock import ManualClock

WINDOW = Window(START, START + 24 * HOUR)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def ingest(store: PredictionStore, registry: FakeRegistry) -> Ingest:
    return Ingest(store, registry, convert.RecordCodec(), ManualClock(START))


async def counted(store: PredictionStore) -> dict[int, list[int]]:
    """Return what is counted, by hour after the start."""
    rows = await store.profiles(V1, WINDOW)
    return {hour - START // HOUR: counts.tolist() for _, hour, counts in rows}


async def test_predictions_counts_duplicates(ingest: Ingest) -> None:
    """The answer says how many are new and how many came before."""
    record = testing.record([START, START + 1])
    assert await ingest.predictions([record]) == (2, 0)
    assert await ingest.predictions([record, testing.record([START])]) == (1, 2)
    assert await ingest.predictions([]) == (0, 0)
    outcomes = testing.labels(record, [1.0, 0.0])
    assert await ingest.outcomes(outcomes[:1]) == (1, 0)
    assert await ingest.outcomes(outcomes) == (1, 1)
    assert await ingest.outcomes([]) == (0, 0)


async def test_count_pending_once(ingest: Ingest, store: PredictionStore) -> None:
    """Every new row is counted once, in the hour of its event time; failed ones are not."""
    times = [START, START + 1, START + HOUR, START + 2]
    record = testing.record(times, x=[-2.0, None, 2.0, 0.0], failed=[False, False, False, True])
    await ingest.predictions([record])
    await ingest.predictions([record])
    assert await ingest.count_pending() == 1
    assert await ingest.count_pending() == 0
    assert await counted(store) == {0: [1, 0, 0, 0, 1, 0], 1: [0, 0, 0, 1, 0, 0]}


async def test_count_pending_at_once(
    ingest: Ingest, store: PredictionStore, registry: FakeRegistry
) -> None:
    """Replicas that count at the same moment count each record once between them."""
    await ingest.predictions([testing.record([START] * 3) for _ in range(4)])
    other = Ingest(store, registry, convert.RecordCodec(), ManualClock(START))
    done = await asyncio.gather(ingest.count_pending(), other.count_pending())
    assert sum(done) == 4
    assert await counted(store) == {0: [0, 0, 12, 0, 0, 0]}


async def test_count_pending_of_empty_record(
    ingest: Ingest, store: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records without predictions stand in nobody's way."""
    monkeypatch.setattr(ingests, "PROFILE_BATCH", 1)
    empty = dataclasses.replace(testing.record([START]), entries=())
    assert await ingest.predictions([empty, empty]) == (0, 0)
    await ingest.predictions([testing.record([START])])
    assert await ingest.count_pending() == 1
    assert await counted(store) == {0: [0, 0, 1, 0, 0, 0]}


async def test_count_pending_registry_away(
    ingest: Ingest, store: PredictionStore, registry: FakeRegistry
) -> None:
    """Without the registry nothing is refused and nothing is lost: counting waits."""
    registry.away = True
    assert await ingest.predictions([testing.record([START])]) == (1, 0)
    with pytest.raises(errors.UnavailableError):
        await ingest.count_pending()
    assert await counted(store) == {}
    registry.away = False
    assert await ingest.count_pending() == 1
    assert await counted(store) == {0: [0, 0, 1, 0, 0, 0]}


@pytest.mark.parametrize("kind", [errors.UnavailableError, errors.DeadlineExceededError])
async def test_run_survives_registry(
    ingest: Ingest, store: PredictionStore, registry: FakeRegistry, kind: type[errors.SetpointError]
) -> None:
    """A registry that is away or slow is waited for in the background."""
    facts, asked = registry.facts, []

    async def fails_first(version: VersionKey) -> object:
        asked.append(version)
        if len(asked) < 3:
            raise kind(errors.Reason.DEADLINE_EXCEEDED, "slow")
        return await facts(version)

    registry.facts = fails_first  # type: ignore[method-assign,assignment]  # the bad moment
    task = asyncio.create_task(ingest.run(0.01))
    await ingest.predictions([testing.record([START])])
    async with asyncio.timeout(10):
        while not await counted(store):
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(asked) >= 3


async def test_count_pending_unregistered(ingest: Ingest, store: PredictionStore) -> None:
    """Predictions of no version, or of one that the registry does not know, are kept uncounted."""
    records = [
        testing.record([START], version=VersionKey("late", 9)),
        testing.record([START], version=VersionKey("", 0)),
    ]
    await ingest.predictions(records)
    assert await ingest.count_pending() == 2
    assert await counted(store) == {}
    assert await store.pending(10) == []


def test_count_column_of_other_kind() -> None:
    """Text where training saw numbers is invalid; numbers where it saw texts are read as text."""
    texts = Column.from_list("x", ["a", None, "b"], DataType.STRING)
    assert ingests.count_column(testing.REFERENCE, texts).tolist() == [0, 0, 0, 0, 1, 2]
    levels = Reference("c", (), ("1", "2"), (5, 5, 0, 0, 0, 0), categorical=True)
    numbers = Column.from_list("c", [1, 3, None], DataType.INT64)
    assert ingests.count_column(levels, numbers).tolist() == [1, 0, 0, 1, 1, 0]
    infinite = Column.from_numpy("x", np.array([np.inf, np.nan, 0.5]))
    assert ingests.count_column(testing.REFERENCE, infinite).tolist() == [0, 0, 1, 0, 0, 2]
