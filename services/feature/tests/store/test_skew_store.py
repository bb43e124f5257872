from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import numpy as np
import pytest

from setpoint_db import engine as engines
from setpoint_feature import ports
from setpoint_feature.domain.skew import Cause, Example, Seen, Tally
from setpoint_feature.store import skew_store, tables


@pytest.fixture
async def store(feature_url: str) -> AsyncIterator[skew_store.SQLSkewStore]:
    """A store on a database of its own."""
    engine = engines.create_engine(feature_url, application_name="test", schema=tables.SCHEMA)
    yield skew_store.SQLSkewStore(engine)
    await engine.dispose()


def page(after: int, through: int) -> ports.RecordPage:
    """Returns a stretch of records."""
    return ports.RecordPage([], after, through, 99)


def tally(day: int, count: int, first: int = 0) -> Tally:
    """Returns what a replay found: a feature that differs, with its examples."""
    examples = [
        Example(f"p{number}", "f", Cause.VALUE, 5, "1\0", None, Seen(1, 4), Seen(3, -1))
        for number in range(first, first + count)
    ]
    found = Counter({("f", Cause.VALUE): count})
    return Tally("s", "v", day, 10, count, 100, found, examples)


async def test_add_moves_on_once(store: skew_store.SQLSkewStore) -> None:
    """Of two replicas that replay the same records one counts."""
    assert await store.progress() == ports.Progress()
    assert await store.add(page(0, 7), 50, [tally(1, 2)])
    assert not await store.add(page(0, 9), 60, [tally(1, 2)])
    assert await store.progress() == ports.Progress(7, 99, 50)
    (found,) = await store.totals("", "", 0, 5)
    assert (found.predictions, found.differing_predictions, found.values) == (10, 2, 100)


async def test_totals_add_up_from_a_day_on(store: skew_store.SQLSkewStore) -> None:
    """Days add up; what is older or of another set is left out, and the newest examples are kept."""
    assert await store.add(page(0, 1), 1, [tally(1, 4), Tally("t", "v", 1, 3, 0, 9)])
    assert await store.add(page(1, 2), 2, [tally(2, 30, first=4)])
    both = await store.totals("s", "v", 0, 20)
    assert both[0].differences == {("f", Cause.VALUE): 34}
    ids = [each.prediction_id for each in both[0].examples]
    assert ids == [f"p{number}" for number in range(33, 13, -1)]
    assert both[0].examples[0] == Example(
        "p33", "f", Cause.VALUE, 5, "1\N{REPLACEMENT CHARACTER}", None, Seen(1, 4), Seen(3, -1)
    )
    (later,) = await store.totals("", "", 2, 1)
    assert (later.predictions, len(later.examples)) == (10, 1)
    assert [each.feature_set for each in await store.totals("", "", 1, 1)] == ["s", "t"]
    assert await store.totals("s", "other", 0, 1) == []


async def test_written_times_among_many_batches(
    store: skew_store.SQLSkewStore, feature_url: str
) -> None:
    """Each row has the time of its own batch, and finding it does not mean to look at all the others."""
    connection = await asyncpg.connect(feature_url)
    # Ten rows each, every fourth missing, and between them batches that hold none; another view has all.
    await connection.execute(
        """
        SET search_path = feature;
        INSERT INTO batches (batch_id, view, content, refused, first_sequence, last_sequence, create_time)
        SELECT gen_random_uuid(), kind, '', '', at * 10 + 1,
               at * 10 + CASE kind WHEN 3 THEN 0 ELSE 10 END, to_timestamp(kind * 10000 + at)
          FROM generate_series(0, 3999) AS at, generate_series(1, 3) AS kind
         WHERE kind = 2 OR at % 4 < 3;
        UPDATE batches SET view = 1 WHERE view = 3;
        ANALYZE batches;
        """
    )
    sequences = np.arange(40_001, 0, -1)
    found = await store.written_times(1, sequences)
    await connection.close()

    at = (sequences - 1) // 10
    is_there = (at % 4 < 3) & (at < 4_000)
    assert found.tolist() == np.where(is_there, (10_000 + at) * 1_000_000, 0).tolist()
