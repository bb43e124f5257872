import asyncio
from dataclasses import replace

import pytest

from setpoint_batch import testing
from setpoint_batch.domain.job import Job, Part, State
from setpoint_batch.store.sql_store import SQLStore
from setpoint_db import testing as db_testing
from setpoint_runtime import errors, ids

FINGERPRINT = b"f" * 32
PLAN = {"partitions": [{"number": 0}]}


def part(number: int) -> Part:
    return Part(number, f"part-{number}", 10, 1, 2, 100, "s" * 64)


async def start(store: SQLStore, job: Job, *, rerun: bool = False) -> tuple[Job, bool]:
    """Start a job under a request id of its own; say whether that began it."""
    found, started, _ = await store.start(ids.uuid7(), FINGERPRINT, job, b"", rerun=rerun)
    return found, started


async def test_upgrade_and_downgrade(database_url: str) -> None:
    """The migrations go up, down to nothing, and up again to the same schema."""
    await db_testing.check_migrations(database_url, schema="batch", package="setpoint_batch")


async def test_start_stores(store: SQLStore) -> None:
    """A new job is stored as it is, with its rows."""
    job = testing.job(kept_columns=("a", "é"), alias="champion")
    stored, started, replayed = await store.start(ids.uuid7(), b"1", job, b"rows", rerun=False)
    assert (stored, started, replayed) == (job, True, False)
    assert await store.job(job.job_id) == job
    assert await store.work_of(job.job_id) == (b"rows", None, [])


async def test_start_replay(store: SQLStore) -> None:
    """The same request again says what the first one did, whatever became of the job."""
    request_id, job = ids.uuid7(), testing.job()
    await store.start(request_id, FINGERPRINT, job, b"", rerun=False)
    await store.save(replace(job, state=State.RUNNING))
    again, started, replayed = await store.start(
        request_id, FINGERPRINT, testing.job(), b"", rerun=False
    )
    assert (again.job_id, again.state, started, replayed) == (
        job.job_id,
        State.RUNNING,
        True,
        True,
    )
    with pytest.raises(errors.AlreadyExistsError):
        await store.start(request_id, b"other", job, b"", rerun=False)


async def test_start_same_name_and_time(store: SQLStore) -> None:
    """A name and time is one job; another time is another one."""
    first, _ = await start(store, testing.job())
    again, started = await start(store, testing.job())
    assert (again, started) == (first, False)
    other, started = await start(store, testing.job(event_time=0))
    assert started
    assert other.job_id != first.job_id


async def test_start_at_once(store: SQLStore) -> None:
    """Of many starts of one job at the same moment, one begins it and all see it."""
    results = await asyncio.gather(*(start(store, testing.job()) for _ in range(6)))
    assert sum(started for _, started in results) == 1
    assert len({job.job_id for job, _ in results}) == 1


async def test_start_again_forgets(store: SQLStore) -> None:
    """A job that is begun again has no plan, no parts and no holder of the attempt before."""
    await start(store, testing.job())
    job = await store.claim("one", 30)
    assert job is not None
    job = await store.save_plan(replace(job, state=State.RUNNING), PLAN)
    job = await store.save_parts(job, part(0), frozenset())
    await store.save(job.end(State.FAILED, 1, "why"))
    again, started = await start(store, testing.job())
    assert started
    assert again.attempt == 2
    assert await store.work_of(job.job_id) == (b"", None, [])
    claimed = await store.claim("two", 30)
    assert claimed is not None
    assert claimed.job_id == job.job_id


async def test_save_needs_newest(store: SQLStore) -> None:
    """Who works on an old look at a job can store nothing: no state, no plan, no part."""
    old, _ = await start(store, testing.job())
    new = await store.save(replace(old, state=State.RUNNING))
    assert new.etag == old.etag + 1
    for late in (
        store.save(old),
        store.save_plan(old, PLAN),
        store.save_parts(old, part(0), frozenset()),
    ):
        with pytest.raises(errors.AbortedError) as caught:
            await late
        assert caught.value.reason is errors.Reason.ETAG_MISMATCH
    assert await store.work_of(old.job_id) == (b"", None, [])


async def test_parts(store: SQLStore) -> None:
    """Parts are kept one by one with the job's counts, and those that are lost forgotten."""
    job, _ = await start(store, testing.job())
    job = await store.save_plan(job, PLAN)
    for number in (2, 0, 1):
        job = replace(job, progress=job.progress.add(part(number)))
        job = await store.save_parts(job, part(number), frozenset())
    assert (await store.work_of(job.job_id))[1:] == (PLAN, [part(0), part(1), part(2)])
    assert (await store.job(job.job_id)).progress.rows_done == 30
    await store.save_parts(job, None, frozenset({0, 2}))
    assert (await store.work_of(job.job_id))[2] == [part(1)]


async def test_forget_keeps_jobs(store: SQLStore) -> None:
    """Of jobs that ended long ago only what a resume needs is forgotten, and of others nothing."""
    kept: dict[str, bytes] = {}
    for name, state, end in (
        ("old", State.SUCCEEDED, 10),
        ("new", State.FAILED, 30),
        ("live", State.RUNNING, 0),
    ):
        job = testing.job(name=name)
        await store.start(ids.uuid7(), FINGERPRINT, job, b"rows", rerun=False)
        job = await store.save_plan(job, PLAN)
        job = await store.save_parts(job, part(0), frozenset())
        job = await store.save(replace(job, state=state, end_time=end))
        kept[job.job_id] = b"" if name == "old" else b"rows"
    assert await store.forget(20) == 1
    for job_id, rows in kept.items():
        work = (rows, PLAN, [part(0)]) if rows else (b"", None, [])
        assert await store.work_of(job_id) == work
    assert await store.forget(20) == 0
    again, started = await start(store, testing.job(name="old"))
    assert (again.state, started) == (State.SUCCEEDED, False)


async def test_cancel(store: SQLStore) -> None:
    """A job at work is stopped first, and not kept by its worker any more; a replay says so."""
    await start(store, testing.job())
    job = await store.claim("one", 30)
    assert job is not None
    await store.save(replace(job, state=State.RUNNING, start_time=1))
    request_id = ids.uuid7()
    stopped, replayed = await store.cancel(request_id, FINGERPRINT, job.job_id, 5)
    assert (stopped.state, replayed) == (State.CANCELLING, False)
    assert not await store.extend(job.job_id, "one", 30)
    again, replayed = await store.cancel(request_id, FINGERPRINT, job.job_id, 5)
    assert (again, replayed) == (stopped, True)
    await store.save(stopped.end(State.CANCELLED, 6))
    with pytest.raises(errors.FailedPreconditionError):
        await store.cancel(ids.uuid7(), FINGERPRINT, job.job_id, 5)
    with pytest.raises(errors.NotFoundError) as caught:
        await store.cancel(ids.uuid7(), FINGERPRINT, ids.uuid7(), 5)
    assert caught.value.reason is errors.Reason.BATCH_PREDICTION_NOT_FOUND


async def test_claim(store: SQLStore) -> None:
    """Each waiting job goes to one worker; when a lease has passed another one takes it."""
    first, _ = await start(store, testing.job())
    claimed = await asyncio.gather(*(store.claim(f"w{number}", 0.0) for number in range(3)))
    taken = [each for each in claimed if each is not None]
    assert {each.job_id for each in taken} == {first.job_id}
    held = await store.claim("holder", 30)
    assert held is not None
    assert await store.claim("other", 30) is None
    assert await store.extend(first.job_id, "holder", 30)
    assert not await store.extend(first.job_id, "other", 30)
    await store.save(held.end(State.SUCCEEDED, 1))
    assert not await store.extend(first.job_id, "holder", 30)


async def test_claim_cancelling(store: SQLStore) -> None:
    """A job whose worker died while it was being cancelled is taken by another one."""
    await start(store, testing.job())
    job = await store.claim("dead", 0.0)
    assert job is not None
    await store.save(replace(job, state=State.CANCELLING))
    found = await store.claim("other", 30)
    assert found is not None
    assert found.state is State.CANCELLING


async def test_jobs_pages(store: SQLStore) -> None:
    """Jobs are listed newest first, in pages, all or those of a name."""
    made = [(await start(store, testing.job(event_time=time)))[0] for time in range(3)]
    other, _ = await start(store, testing.job(name="other"))
    newest = [other.job_id, *(job.job_id for job in reversed(made))]
    first = await store.jobs(None, None, 2)
    rest = await store.jobs(None, first[-1].job_id, 10)
    assert [job.job_id for job in [*first, *rest]] == newest
    assert [job.job_id for job in await store.jobs("other", None, 10)] == [other.job_id]
