import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from setpoint_runtime import errors, tasks
from setpoint_validation.domain.suite import Snapshot
from setpoint_validation.service.feed import RuleFeed
from setpoint_validation.testing import FakeRules

POLL_SECONDS = 0.01
AWAY = errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "away")


@pytest.fixture
def source() -> FakeRules:
    return FakeRules()


@contextlib.asynccontextmanager
async def running(source: FakeRules, poll_seconds: float = POLL_SECONDS) -> AsyncIterator[RuleFeed]:
    feed = RuleFeed(source, poll_seconds)
    async with tasks.TaskOwner() as owner:
        _ = owner.start("rules", feed.run())
        yield feed
        assert not owner.failed.is_set()


async def following(watch: "AsyncIterator[Snapshot]") -> int:
    async with asyncio.timeout(20):
        return (await anext(watch)).revision


async def test_watch_begins_with_snapshot(source: FakeRules) -> None:
    """Every watcher gets the snapshot at once, also one that was there before the first one."""
    feed = RuleFeed(source, POLL_SECONDS)
    early = feed.watch()
    waiting = asyncio.ensure_future(following(early))
    await asyncio.sleep(0)
    await feed.refresh()
    assert await waiting == 1
    assert await following(feed.watch()) == 1


async def test_watch_gets_changes(source: FakeRules) -> None:
    """Every watcher gets each new snapshot; the whole of it is read once for all."""
    async with running(source) as feed:
        watches = [feed.watch() for _ in range(3)]
        assert [await following(watch) for watch in watches] == [1, 1, 1]
        source.snapshot = Snapshot(2, ())
        assert [await following(watch) for watch in watches] == [2, 2, 2]
        assert source.reads == 2


async def test_watch_slow_gets_newest(source: FakeRules) -> None:
    """Who reads slowly misses what was between."""
    feed = RuleFeed(source, POLL_SECONDS)
    await feed.refresh()
    watch = feed.watch()
    assert await following(watch) == 1
    for revision in (2, 3, 4):
        source.snapshot = Snapshot(revision, ())
        await feed.refresh()
    assert await following(watch) == 4


async def test_watch_follows_restored_database(source: FakeRules) -> None:
    """A revision that went back, as of a restored database, is a change too."""
    async with running(source) as feed:
        source.snapshot = Snapshot(9, ())
        watch = feed.watch()
        while await following(watch) != 9:
            pass
        source.snapshot = Snapshot(3, ())
        assert await following(watch) == 3


async def test_poke_looks_at_once(source: FakeRules) -> None:
    """After a change of one's own nobody waits for the next look."""
    async with running(source, poll_seconds=60) as feed:
        watch = feed.watch()
        await following(watch)
        source.snapshot = Snapshot(2, ())
        feed.poke()
        assert await following(watch) == 2


async def test_run_survives_outage(source: FakeRules, caplog: pytest.LogCaptureFixture) -> None:
    """While the store is away the last snapshot stays, with one line in the log; then it goes on."""
    caplog.set_level(logging.INFO)
    async with running(source) as feed:
        watch = feed.watch()
        await following(watch)
        source.error = AWAY
        async with asyncio.timeout(20):
            while "cannot be read" not in caplog.text:
                await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(5 * POLL_SECONDS)
        assert await following(feed.watch()) == 1
        source.snapshot = Snapshot(2, ())
        source.error = None
        assert await following(watch) == 2
    lines = [record.getMessage() for record in caplog.records if "rules" in record.getMessage()]
    assert [line.partition(",")[0] for line in lines] == [
        "the rules cannot be read",
        "the rules can be read again",
    ]


async def test_run_keeps_last_when_unreadable(source: FakeRules) -> None:
    """A rule that only a newer release understands leaves the last snapshot in force."""
    async with running(source) as feed:
        watch = feed.watch()
        await following(watch)
        source.error = errors.invalid("rule.kind", "entropy", "must be known")
        await asyncio.sleep(5 * POLL_SECONDS)
        assert await following(feed.watch()) == 1


async def test_watch_can_be_closed(source: FakeRules) -> None:
    """A watcher that leaves while it waits disturbs nobody."""
    async with running(source) as feed:
        leaving, staying = feed.watch(), feed.watch()
        await following(leaving)
        await following(staying)
        waiting = asyncio.ensure_future(anext(leaving))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await leaving.aclose()
        source.snapshot = Snapshot(2, ())
        assert await following(staying) == 2
