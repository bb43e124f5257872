import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from setpoint_batch import ports, testing
from setpoint_batch.adapters.process_pool import ProcessPool
from setpoint_runtime import errors

SECONDS = 50.0


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[ProcessPool]:
    around = testing.task(tmp_path, "")["around"]
    async with ProcessPool(2, 0, 100.0, around) as opened:
        yield opened


def workers() -> list[psutil.Process]:
    """Worker processes of this one."""
    found = psutil.Process().children()
    return [each for each in found if "setpoint_batch.partition" in each.cmdline()]


async def until_gone(pids: list[int]) -> None:
    async with asyncio.timeout(SECONDS):
        while any(psutil.pid_exists(pid) for pid in pids):
            await asyncio.sleep(0.02)


def endless(tmp_path: Path) -> dict[str, Any]:
    """A task that does not end: its input is a pipe that nobody writes to."""
    path = tmp_path / "in.csv"
    if not path.exists():
        os.mkfifo(path)
    return {**testing.task(tmp_path, path), "kind": "plan"}


async def test_run_keeps_a_process(pool: ProcessPool, tmp_path: Path) -> None:
    """Tasks one after the other share a process; a task's error is raised as it is."""
    source = tmp_path / "in.csv"
    pl.DataFrame({"a": [1.0], "b": [2.0]}).write_csv(source)
    task = testing.task(tmp_path, source)
    plan = await pool.run({**task, "kind": "plan"})
    assert plan["rows"] == 1
    pids = [each.pid for each in workers()]
    with pytest.raises(errors.NotFoundError) as caught:
        await pool.run({**testing.task(tmp_path, tmp_path / "none.csv"), "kind": "plan"})
    assert caught.value.reason is errors.Reason.INPUT_NOT_FOUND
    assert [each.pid for each in workers()] == pids
    assert len(pids) == 1


async def test_cancel_kills(pool: ProcessPool, tmp_path: Path) -> None:
    """Cancelling a task ends its process, wherever it is; the next task gets another."""
    running = asyncio.create_task(pool.run(endless(tmp_path)))
    while not workers():
        await asyncio.sleep(0.02)
    pids = [each.pid for each in workers()]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until_gone(pids)
    task = testing.task(tmp_path, tmp_path / "none.csv")
    with pytest.raises(errors.NotFoundError):
        await pool.run({**task, "kind": "plan"})


async def test_lost_worker(pool: ProcessPool, tmp_path: Path) -> None:
    """A process that dies over a task is told as such."""
    running = asyncio.create_task(pool.run(endless(tmp_path)))
    while not workers():
        await asyncio.sleep(0.02)
    os.kill(workers()[0].pid, signal.SIGKILL)
    with pytest.raises(ports.WorkerLostError, match="-9"):
        await running


async def test_last_words_are_for_the_log(pool: ProcessPool, tmp_path: Path) -> None:
    """What a process says when a defect ends it is kept apart from how it ended."""
    task = testing.task(tmp_path, tmp_path / "none.csv")
    with pytest.raises(ports.WorkerLostError) as caught:
        await pool.run({**task, "kind": "no such kind"})
    assert str(caught.value) == "a worker process ended with 1"
    assert "KeyError" in caught.value.last_words


async def test_idle_end(tmp_path: Path) -> None:
    """A process without work ends by itself."""
    task = testing.task(tmp_path, tmp_path / "none.csv")
    async with ProcessPool(1, 0, 0.0, task["around"]) as pool:
        with pytest.raises(errors.NotFoundError):
            await pool.run({**task, "kind": "plan"})
        await until_gone([each.pid for each in workers()])
