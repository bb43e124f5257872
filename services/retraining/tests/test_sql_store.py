import asyncio
from dataclasses import replace

import pytest

from setpoint_db import testing as db_testing
from setpoint_retraining import testing
from setpoint_retraining.domain.run import Run, RunState
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_runtime import errors, ids

FINGERPRINT = b"f" * 32


async def add(store: SQLStore, run: Run) -> Run:
    """Store a run under a request id of its own."""
    stored, _ = await store.add_run(ids.uuid7(), FINGERPRINT, run)
    return stored


def of_model(model: str) -> Run:
    return testing.run(testing.policy(model=model))


async def test_upgrade_and_downgrade(database_url: str) -> None:
    """The migrations go up, down to nothing, and up again to the same schema."""
    await db_testing.check_migrations(
        database_url, schema="retraining", package="setpoint_retraining"
    )


async def test_put_policy_replaces(store: SQLStore) -> None:
    """A policy of the same name takes the place of the one before."""
    await store.put_policy(ids.uuid7(), b"1", testing.policy())
    await store.put_policy(ids.uuid7(), b"2", testing.policy(minimum_rows=7))
    assert await store.policy("weekly") == testing.policy(minimum_rows=7)


async def test_put_policy_replay(store: SQLStore) -> None:
    """The same request again gets the first answer, also after another policy took its place."""
    request_id = ids.uuid7()
    await store.put_policy(request_id, b"1", testing.policy())
    await store.put_policy(ids.uuid7(), b"2", testing.policy(minimum_rows=7))
    again, replayed = await store.put_policy(request_id, b"1", testing.policy())
    assert replayed
    assert again == testing.policy()
    assert (await store.policy("weekly")).minimum_rows == 7
    with pytest.raises(errors.AlreadyExistsError) as caught:
        await store.put_policy(request_id, b"3", testing.policy())
    assert caught.value.reason is errors.Reason.REQUEST_ID_REUSED


async def test_policy_unknown(store: SQLStore) -> None:
    """A policy and a run that do not exist are not found."""
    with pytest.raises(errors.NotFoundError) as caught:
        await store.policy("none")
    assert caught.value.reason is errors.Reason.POLICY_NOT_FOUND
    with pytest.raises(errors.NotFoundError) as caught:
        await store.run(ids.uuid7())
    assert caught.value.reason is errors.Reason.RUN_NOT_FOUND


async def test_policies_pages(store: SQLStore) -> None:
    """Pages hold every policy once, by name."""
    for name in ("b", "a", "c"):
        await store.put_policy(ids.uuid7(), b"1", testing.policy(name=name))
    first = await store.policies("", 2)
    rest = await store.policies(first[-1].name, 2)
    assert [each.name for each in [*first, *rest]] == ["a", "b", "c"]


async def test_add_run_one_at_a_time(store: SQLStore) -> None:
    """While a model's run has not ended, there is no other; another model's does not matter."""
    first = await add(store, testing.run())
    await add(store, of_model("other"))
    for state in (
        RunState.QUEUED,
        RunState.RUNNING,
        RunState.AWAITING_APPROVAL,
        RunState.ROLLING_OUT,
    ):
        first = await store.save(replace(first, state=state))
        with pytest.raises(errors.FailedPreconditionError) as caught:
            await add(store, testing.run())
        assert caught.value.reason is errors.Reason.RUN_STATE
    await store.save(first.end(RunState.REJECTED, 1))
    await add(store, testing.run())


async def test_add_run_at_once(store: SQLStore) -> None:
    """Of many runs of one model that are started at once, one is."""
    results = await asyncio.gather(
        *(add(store, testing.run()) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(each, Run) for each in results) == 1
    assert all(isinstance(each, Run | errors.FailedPreconditionError) for each in results)


async def test_add_run_replay(store: SQLStore) -> None:
    """The same request again returns the run as it is now, although it still goes on."""
    request_id, run = ids.uuid7(), testing.run()
    await store.add_run(request_id, FINGERPRINT, run)
    await store.save(run.begin("snapshot", 1))
    again, replayed = await store.add_run(request_id, FINGERPRINT, testing.run())
    assert replayed
    assert (again.run_id, again.state) == (run.run_id, RunState.RUNNING)
    with pytest.raises(errors.AlreadyExistsError):
        await store.add_run(request_id, b"other", testing.run())


async def test_save_needs_newest(store: SQLStore) -> None:
    """Who works on an old look at a run cannot store anything."""
    run = await add(store, testing.run())
    saved = await store.save(run.begin("snapshot", 1))
    assert saved.etag == run.etag + 1
    with pytest.raises(errors.AbortedError) as caught:
        await store.save(run.begin("snapshot", 2))
    assert caught.value.reason is errors.Reason.ETAG_MISMATCH
    assert await store.run(run.run_id) == saved


async def test_save_at_once(store: SQLStore) -> None:
    """Of many changes of one look, one stands."""
    run = await add(store, testing.run())
    results = await asyncio.gather(
        *(store.save(run.begin("snapshot", time)) for time in range(6)), return_exceptions=True
    )
    assert sum(isinstance(each, Run) for each in results) == 1


async def test_runs_pages(store: SQLStore) -> None:
    """Runs are listed newest first, in pages, of all models or of one."""
    made = [await add(store, of_model(f"m{number}")) for number in range(3)]
    newest = [run.run_id for run in reversed(made)]
    first = await store.runs(None, None, 2)
    rest = await store.runs(None, first[-1].run_id, 2)
    assert [run.run_id for run in [*first, *rest]] == newest
    assert await store.runs("m1", None, 10) == [made[1]]


async def test_claim_oldest_once(store: SQLStore) -> None:
    """Waiting runs go to workers one by one, oldest first; a claimed one is nobody else's."""
    first = await add(store, of_model("a"))
    second = await add(store, of_model("b"))
    claimed = [await store.claim(name, 30) for name in ("one", "two", "three")]
    assert [each.run_id if each else None for each in claimed] == [
        first.run_id,
        second.run_id,
        None,
    ]


async def test_claim_at_once(store: SQLStore) -> None:
    """Workers that look at the same moment do not get the same run."""
    await add(store, testing.run())
    claimed = await asyncio.gather(*(store.claim(f"w{number}", 30) for number in range(4)))
    assert sum(each is not None for each in claimed) == 1


async def test_claim_after_lease(store: SQLStore) -> None:
    """When a lease has passed another takes the run; the first one can then neither keep nor save it."""
    await add(store, testing.run())
    first = await store.claim("first", 0.01)
    assert first is not None
    assert await store.extend(first.run_id, "first", 0.01)
    await asyncio.sleep(0.05)
    second = await store.claim("second", 30)
    assert second is not None
    assert second.run_id == first.run_id
    assert not await store.extend(first.run_id, "first", 30)
    with pytest.raises(errors.AbortedError):
        await store.save(first.begin("snapshot", 1))
    assert await store.extend(second.run_id, "second", 30)
    await store.save(second.begin("snapshot", 1))


@pytest.mark.parametrize(
    "state", [RunState.AWAITING_APPROVAL, RunState.ROLLING_OUT, RunState.CANCELLED]
)
async def test_claim_only_work(store: SQLStore, state: RunState) -> None:
    """A run that waits for people or traffic, or has ended, is no work, and is not kept either."""
    await add(store, testing.run())
    run = await store.claim("one", 0.0)
    assert run is not None
    await store.save(replace(run, state=state))
    assert await store.claim("two", 30) is None
    assert not await store.extend(run.run_id, "one", 30)


async def test_rolling_out(store: SQLStore) -> None:
    """The runs whose route is shifting are found, and only they."""
    await add(store, of_model("a"))
    shifting = await add(store, replace(of_model("b"), state=RunState.ROLLING_OUT))
    assert await store.rolling_out() == [shifting.run_id]
