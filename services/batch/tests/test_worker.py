"""Jobs from start to end on a real database, with tasks done in this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setpoint_batch import ports, testing
from setpoint_batch.domain.job import Job, State
from setpoint_batch.partition import results, tasks
from setpoint_batch.service.attempt import Needs, Sizes
from setpoint_batch.service.worker import Worker
from setpoint_batch.store.sql_store import SQLStore
from setpoint_runtime import clock, errors, ids

ROWS = 90
SECONDS = 50.0


class Threads:
    """Implements `ports.Executor`: tasks in threads, counted, with a hook before each."""

    tasks_at_once = 2

    def __init__(self, folder: Path) -> None:
        self.done: Counter[Any] = Counter()
        self.around = testing.task(folder, "")["around"]
        self.before: Callable[[ports.Json], Any] | None = None

    async def run(self, task: ports.Json) -> ports.Json:
        what = task["partition"]["number"] if task["kind"] == "score" else task["kind"]
        if self.before is not None and (waits := self.before(task)) is not None:
            await waits
        answer = await asyncio.to_thread(tasks.run, {**task, "around": self.around})
        self.done[what] += 1
        return results.result_of(answer)


class House:
    """A store, an executor, and workers that come and go."""

    def __init__(self, folder: Path, store: SQLStore) -> None:
        self.folder = folder
        self.store = store
        self.executor = Threads(folder)
        self.source = folder / "in.parquet"
        table = pl.DataFrame({"a": [float(row) for row in range(ROWS)], "b": [1.0] * ROWS})
        table.write_parquet(self.source, row_group_size=30)
        self.output = folder / "out"
        self.worker: Worker | None = None

    @asynccontextmanager
    async def working(self, lease_seconds: float = 30.0) -> AsyncIterator[None]:
        """Let a worker work, for the length of a block; it stops as if it were killed."""
        needs = Needs(
            self.store,
            testing.FakeModels(),
            testing.FakeFeatures(),
            testing.FakeRules(),
            self.executor,
            Sizes(30, 30),
            clock.SystemClock(),
        )
        self.worker = Worker(needs, lease_seconds)
        task = asyncio.create_task(self.worker.work(0.02))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def start(self, *, rerun: bool = False) -> Job:
        asked = testing.job(input_url=f"file://{self.source}", output_url=f"file://{self.output}")
        job, _, _ = await self.store.start(ids.uuid7(), b"1", asked, b"", rerun=rerun)
        return job

    async def until(self, job: Job, *states: State) -> Job:
        async with asyncio.timeout(SECONDS):
            while (found := await self.store.job(job.job_id)).state not in states:
                await asyncio.sleep(0.01)
        return found

    async def parts_done(self, job: Job, number: int) -> None:
        async with asyncio.timeout(SECONDS):
            while (await self.store.job(job.job_id)).progress.partitions_done < number:
                await asyncio.sleep(0.01)

    def left(self) -> set[str]:
        """What lies in the folder beside the input and the work directory."""
        return {each.name for each in self.folder.iterdir()} - {"in.parquet", "work"}


@pytest.fixture
def house(tmp_path: Path, store: SQLStore) -> House:
    return House(tmp_path, store)


def holding(number: int) -> tuple[Callable[[ports.Json], Any], asyncio.Event]:
    """A hook that holds a partition until the event is set."""
    event = asyncio.Event()

    def before(task: ports.Json) -> Any:
        is_it = task["kind"] == "score" and task["partition"]["number"] == number
        return event.wait() if is_it else None

    return before, event


async def test_done(house: House) -> None:
    """A job is planned, worked on and committed; each partition is done once."""
    job = await house.start()
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert ended.state is State.SUCCEEDED, ended
    assert house.executor.done == {"plan": 1, 0: 1, 1: 1, 2: 1, "commit": 1}
    progress = ended.progress
    assert (progress.rows, progress.rows_done, progress.partitions_done) == (ROWS, ROWS, 3)
    assert ended.manifest_url == f"file://{house.output}/manifest.json"
    scores = pl.read_parquet(house.output / "*.parquet")["score"].to_list()
    assert scores == [row + 2.5 for row in range(ROWS)]
    assert house.left() == {"out"}


async def test_resumed(house: House) -> None:
    """After its worker is gone a job goes on with the partitions that are not done, or were lost."""
    job = await house.start()
    house.executor.before, _ = holding(2)
    async with house.working(lease_seconds=1.0):
        await house.parts_done(job, 2)
    [scratch] = house.folder.glob(".out*.new")
    (scratch / "part-00000.parquet").write_bytes(b"damaged")
    house.executor.before = None
    house.executor.done.clear()
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert ended.state is State.SUCCEEDED, ended
    assert house.executor.done == {"committed": 1, "verify": 1, 0: 1, 2: 1, "commit": 1}
    assert ended.progress.rows_done == ROWS
    assert len(pl.read_parquet(house.output / "*.parquet")) == ROWS
    assert house.left() == {"out"}


async def test_resumed_after_commit(house: House) -> None:
    """A worker that dies between the commit and its note leaves nothing to be done again."""
    job = await house.start()
    stored = asyncio.Event()
    save = house.store.save

    async def never(job: Job) -> Job:
        if job.state is State.SUCCEEDED:
            stored.set()
            await asyncio.Event().wait()
        return await save(job)

    house.store.save = never  # type: ignore[method-assign]
    async with house.working(lease_seconds=1.0):
        async with asyncio.timeout(SECONDS):
            await stored.wait()
    house.store.save = save  # type: ignore[method-assign]
    house.executor.done.clear()
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert ended.state is State.SUCCEEDED
    assert house.executor.done == {"committed": 1}


@pytest.mark.parametrize("times", [1, 100], ids=["once", "always"])
async def test_failing_behind_the_commit(house: House, times: int) -> None:
    """A commit whose answer gets lost has happened: the job has succeeded, with all of its output."""
    job = await house.start()
    left = times

    def lost(task: ports.Json) -> None:
        nonlocal left
        if task["kind"] == "commit" and left:
            left -= 1
            results.result_of(tasks.run({**task, "around": house.executor.around}))
            raise ports.WorkerLostError("a worker process ended with -9")

    house.executor.before = lost
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert (ended.state, ended.error) == (State.SUCCEEDED, "")
    assert len(pl.read_parquet(house.output / "*.parquet")) == ROWS
    assert house.left() == {"out"}


async def test_cancelled(house: House) -> None:
    """A cancelled job stops in the middle of a partition and leaves nothing."""
    job = await house.start()
    house.executor.before, _ = holding(2)
    async with house.working():
        await house.parts_done(job, 2)
        stopped, _ = await house.store.cancel(ids.uuid7(), b"1", job.job_id, 7)
        assert stopped.state is State.CANCELLING
        assert house.worker is not None
        house.worker.wake(job.job_id)
        ended = await house.until(job, State.CANCELLED)
    assert ended.end_time > 0
    assert house.left() == set()
    assert 2 not in house.executor.done


async def test_cancelled_after_commit(house: House) -> None:
    """A cancellation that comes after the commit is too late: a job with an output has succeeded."""
    job = await house.start()
    committed = asyncio.Event()
    save = house.store.save

    async def never(job: Job) -> Job:
        if job.state is State.SUCCEEDED:
            committed.set()
            await asyncio.Event().wait()
        return await save(job)

    house.store.save = never  # type: ignore[method-assign]
    async with house.working():
        async with asyncio.timeout(SECONDS):
            await committed.wait()
        house.store.save = save  # type: ignore[method-assign]
        await house.store.cancel(ids.uuid7(), b"1", job.job_id, 7)
        assert house.worker is not None
        house.worker.wake(job.job_id)
        ended = await house.until(job, State.SUCCEEDED, State.CANCELLED)
    assert ended.state is State.SUCCEEDED
    assert ended.manifest_url == f"file://{house.output}/manifest.json"
    assert len(pl.read_parquet(house.output / "*.parquet")) == ROWS
    assert house.left() == {"out"}


async def test_failed(house: House) -> None:
    """A job that cannot be done says why, leaves nothing, and can be started again."""
    job = await house.start()
    good = house.source.read_bytes()
    house.source.write_bytes(b"no table")
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
        assert (ended.state, ended.error_reason) == (State.FAILED, "INVALID_INPUT")
        assert house.left() == set()
        house.source.write_bytes(good)
        again = await house.start()
        assert (again.job_id, again.attempt) == (job.job_id, 2)
        assert house.worker is not None
        house.worker.wake(job.job_id)
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert (ended.state, ended.error) == (State.SUCCEEDED, "")


async def test_rerun_failing_keeps_output(house: House) -> None:
    """A rerun that fails leaves the output of the attempt before as it was."""
    job = await house.start()
    async with house.working():
        await house.until(job, State.SUCCEEDED)
        house.source.write_bytes(b"no table")
        await house.start(rerun=True)
        assert house.worker is not None
        house.worker.wake(job.job_id)
        await house.until(job, State.FAILED)
    assert len(pl.read_parquet(house.output / "*.parquet")) == ROWS
    assert house.left() == {"out"}


async def test_lost_workers(house: House) -> None:
    """A partition whose process dies is tried again, but not for ever."""
    job = await house.start()
    deaths: list[int] = []

    def die(task: ports.Json) -> None:
        if task["kind"] == "score" and task["partition"]["number"] == 1 and len(deaths) < limit:
            deaths.append(1)
            raise ports.WorkerLostError("killed", "Traceback: a secret of row 7")

    house.executor.before, limit = die, 2
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
        assert ended.state is State.SUCCEEDED
        deaths, limit = [], 100
        await house.start(rerun=True)
        assert house.worker is not None
        house.worker.wake(job.job_id)
        ended = await house.until(job, State.FAILED)
    assert "3 processes died over the same work, the last time because killed" in ended.error
    assert "secret" not in ended.error
    assert len(deaths) == 3


async def test_peer_away(house: House) -> None:
    """What fails because a service is away is tried again."""
    job = await house.start()
    failures = iter([errors.UnavailableError(errors.Reason.UNAVAILABLE, "away")])

    def fail(task: ports.Json) -> None:
        if task["kind"] == "score" and (error := next(failures, None)):
            raise error

    house.executor.before = fail
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    assert ended.state is State.SUCCEEDED


async def test_late_worker(house: House) -> None:
    """A worker that comes back after its lease has passed changes nothing any more."""
    job = await house.start()
    old = await house.store.claim("old", 0.0)
    assert old is not None
    async with house.working():
        ended = await house.until(job, State.SUCCEEDED, State.FAILED)
    with pytest.raises(errors.AbortedError):
        await house.store.save(replace(old, state=State.RUNNING))
    assert await house.store.job(job.job_id) == ended
