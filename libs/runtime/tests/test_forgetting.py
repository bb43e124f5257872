import asyncio
import contextlib

import pytest

from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, forgetting

NOW = 1_700_000_000_000_000


async def test_task_outlives_an_outage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, and goes on when the store is there again."""
    caplog.set_level("INFO", logger=forgetting.__name__)
    monkeypatch.setattr(forgetting, "LOOK_SECONDS", 0.0)
    looks, is_back = 0, asyncio.Event()

    async def forget(kind: str, before: int, limit: int) -> int:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "away")
        is_back.set()
        return 0

    task = asyncio.create_task(
        forgetting.Forgetting(forget, clocks.ManualClock(NOW), {"skew": 1.0}).run()
    )
    await asyncio.wait_for(is_back.wait(), 30)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert caplog.text.count("what is old is kept") == 1


async def test_tick_rests_after_each_full_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times as long as the piece took, and not after the last one, which is not full."""
    clock, rests, left = clocks.ManualClock(NOW), list[float](), [3, 3, 1]

    async def forget(kind: str, before: int, limit: int) -> int:
        assert (kind, before, limit) == ("skew", NOW - 5_000_000, 3)
        clock.advance(1_000_000 * len(left))
        return left.pop(0)

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    kept = forgetting.Forgetting(forget, clock, {"skew": 5.0}, 3)
    await kept.tick()
    assert rests == [27.0, 18.0]
    assert kept.counts == {"skew": 7}


async def test_run_ends_when_all_is_kept_for_ever() -> None:
    """A life of 0 never ends, so there is nothing to look for."""

    async def forget(kind: str, before: int, limit: int) -> int:
        raise AssertionError(kind)

    await forgetting.Forgetting(forget, clocks.ManualClock(NOW), {"skew": 0.0}).run()
