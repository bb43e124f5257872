import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setpoint_columns import Columns
from setpoint_retraining import ports, testing
from setpoint_retraining.domain.policy import Policy
from setpoint_retraining.domain.run import WORK_STEPS, Run, RunState
from setpoint_retraining.service import worker as workers
from setpoint_retraining.service.worker import HEARTBEATS, Peers, Worker
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_retraining.testing import (
    FakeFeatures,
    FakeInference,
    FakeRegistry,
    FakeValidation,
)
from setpoint_retraining.training import fit
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import SystemClock


@dataclass
class Training:
    """Implements `ports.Training` in this process, unless a test wants it otherwise."""

    error: Exception | None = None
    hold: asyncio.Event | None = None
    tasks: list[Mapping[str, Any]] = field(default_factory=list)

    async def train(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        self.tasks.append(task)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        paths = {name: Path(task[name]) for name in ("snapshot", "model", "scores")}
        return fit.train(fit.Task(**{**task, **paths, "inputs": tuple(task["inputs"])}))


@dataclass
class World:
    """Workers with their peers, on a real store."""

    store: SQLStore
    folder: Path
    features: FakeFeatures = field(default_factory=FakeFeatures)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    validation: FakeValidation = field(default_factory=FakeValidation)
    inference: FakeInference = field(default_factory=FakeInference)
    training: Training = field(default_factory=Training)
    lease_seconds: float = workers.LEASE_SECONDS

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        """Run a new worker for the length of the block; its end is as sudden as a crash."""
        peers = Peers(self.features, self.registry, self.validation, self.inference, self.training)
        worker = Worker(self.store, peers, self.folder, "commit", SystemClock(), self.lease_seconds)
        task = asyncio.create_task(worker.work(0.02))
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def start(self, **changes: Any) -> str:
        """Store a run and return its id."""
        plan: Policy = testing.policy(**changes)
        stored, _ = await self.store.add_run(ids.uuid7(), b"", testing.run(plan))
        return stored.run_id

    async def until(self, run_id: str, *states: RunState) -> Run:
        """Return the run when it has got there."""
        async with asyncio.timeout(40):
            while (run := await self.store.run(run_id)).state not in states:
                await asyncio.sleep(0.02)
        return run

    async def until_training(self, number: int) -> None:
        """Return when so many trainings have begun."""
        async with asyncio.timeout(40):
            while len(self.training.tasks) < number:
                await asyncio.sleep(0.02)

    async def result(self, **changes: Any) -> Run:
        """Start a run, let a worker do it, and return it when it waits or has ended."""
        run_id = await self.start(**changes)
        async with self.working():
            return await self.until(
                run_id,
                RunState.AWAITING_APPROVAL,
                RunState.ROLLING_OUT,
                RunState.FAILED,
                RunState.REJECTED,
            )


@pytest.fixture
def world(store: SQLStore, tmp_path: Path) -> World:
    return World(store, tmp_path)


async def test_work_makes_version(world: World) -> None:
    """All steps are done in order; the version waits for a person with everything it is made of."""
    run = await world.result(suite="inputs")
    assert run.state is RunState.AWAITING_APPROVAL
    assert tuple(step.name for step in run.steps) == WORK_STEPS
    assert all(step.done and step.summary for step in run.steps)
    assert (run.version, run.manifest_digest, run.champion_version) == (2, "d" * 64, None)
    assert run.metrics["roc_auc"] > 0.8
    assert world.validation.suites == ["inputs"]
    ((registered, package),) = world.registry.registered
    assert registered == run.run_id
    assert package.snapshot["digest"] == run.output("snapshot")["digest"]
    assert package.snapshot["known_at"] == testing.KNOWN_AT
    assert (package.numbers, package.texts) == (("x", "y"), ("colour",))
    assert (package.code_version, package.parent) == ("commit", None)


async def test_work_beats_champion(world: World) -> None:
    """A champion is asked about the same hold-out rows, with what it would have seen."""
    world.registry.serving = testing.champion()
    run = await world.result()
    assert run.state is RunState.AWAITING_APPROVAL
    assert run.champion_version == 1
    assert run.champion_metrics["log_loss"] > run.metrics["log_loss"]
    (seen,) = world.inference.seen
    assert seen.names == ("x",)
    assert seen.rows == run.output("train")["test_rows"]
    assert world.registry.registered[0][1].parent == 1


async def test_work_asks_champion_with_its_features(world: World) -> None:
    """A champion of another feature set sees that one's values."""
    world.registry.serving = testing.champion(ports.FeatureSetKey("older", "b" * 64))
    run = await world.result()
    assert run.state is RunState.AWAITING_APPROVAL
    assert "exact_feature_set older" in world.features.calls
    assert world.features.calls.count("historical") == 2


async def test_work_rejected_by_gate(world: World) -> None:
    """What is not good enough is not registered, and the run says by how much."""
    world.registry.serving = testing.champion()
    score = world.inference.scores

    async def knows(model: str, champion: ports.Champion, inputs: Columns) -> Any:
        await score(model, champion, inputs)
        table = world.features.table
        held = table[tables.QUESTION_TIME].values >= testing.KNOWN_AT - 4 * testing.DAY
        return np.clip(table[tables.LABEL].floats()[held][: inputs.rows], 0.01, 0.99)

    world.inference.scores = knows  # type: ignore[method-assign]  # a champion that knows the answers
    run = await world.result()
    assert run.state is RunState.REJECTED
    assert "is not good enough" in run.error
    assert run.champion_metrics["log_loss"] < 0.02
    assert run.steps[-1].name == "evaluate"
    assert world.registry.registered == []


async def test_work_approves_by_policy(world: World) -> None:
    """Where the policy says that no person is needed it stands as the approver."""
    run = await world.result(automatic_approval=True)
    assert run.state is RunState.ROLLING_OUT
    assert world.registry.decisions == [(True, "d" * 64, "policy weekly")]
    approve, rollout = run.steps[-2:]
    assert (approve.name, approve.done, rollout.name, rollout.done) == (
        "approve",
        True,
        "rollout",
        False,
    )


async def test_work_approves_against_todays_champion(world: World) -> None:
    """A policy approves nothing that was judged against a version that is not the champion any more."""

    class Changing(FakeRegistry):
        async def register(self, *arguments: Any) -> tuple[int, str]:
            self.serving = testing.champion()
            return await super().register(*arguments)

    world.registry = Changing()
    run = await world.result(automatic_approval=True)
    assert (run.state, run.error_reason) == (RunState.FAILED, "CHAMPION_CHANGED")
    assert world.registry.decisions == []


async def test_work_waits_for_peers(world: World) -> None:
    """A service that is away for a moment costs time, not the run."""
    world.features.away = 2
    world.registry.away = 1
    run = await world.result()
    assert run.state is RunState.AWAITING_APPROVAL


async def test_work_survives_database_blink(world: World) -> None:
    """A database that is away while a result is stored is waited for too."""
    save = world.store.save
    failed: list[Run] = []

    async def blinks(run: Run) -> Run:
        if len(failed) < 2:
            failed.append(run)
            raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "away")
        return await save(run)

    world.store.save = blinks  # type: ignore[method-assign]  # the blink
    run = await world.result()
    assert run.state is RunState.AWAITING_APPROVAL
    assert len(failed) == 2


async def test_work_goes_on_after_crash(world: World) -> None:
    """A new worker takes the run when the lease has passed, and does no finished step again."""
    world.lease_seconds = 0.3
    world.training.hold = asyncio.Event()
    run_id = await world.start()
    async with world.working():
        await world.until_training(1)
    before = await world.store.run(run_id)
    world.training.hold.set()
    async with world.working():
        after = await world.until(run_id, RunState.AWAITING_APPROVAL)
    assert world.features.calls.count("historical") == 1
    assert before.steps[:2] == after.steps[:2]
    assert len(world.training.tasks) == 2
    assert len(world.registry.registered) == 1


async def test_work_keeps_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes longer than a lease is not taken away."""
    world.lease_seconds = 2.0
    world.training.hold = asyncio.Event()
    extend, kept = world.store.extend, asyncio.Semaphore(0)

    async def counted(*arguments: Any) -> bool:
        is_held = await extend(*arguments)
        kept.release()
        return is_held

    monkeypatch.setattr(world.store, "extend", counted)
    run_id = await world.start()
    async with world.working():
        await world.until_training(1)
        for _ in range(HEARTBEATS + 1):
            await kept.acquire()
        # The lease that the run was taken with has passed by now.
        assert await world.store.claim("another", 30) is None
        world.training.hold.set()
        await world.until(run_id, RunState.AWAITING_APPROVAL)
    assert len(world.training.tasks) == 1


async def test_work_stops_when_cancelled(world: World) -> None:
    """A cancelled run is let go, and the worker takes the next one."""
    world.lease_seconds = 0.3
    world.training.hold = asyncio.Event()
    run_id = await world.start()
    async with world.working():
        await world.until_training(1)
        running = await world.store.run(run_id)
        await world.store.save(running.end(RunState.CANCELLED, 1, "cancelled"))
        await world.start()
        await world.until_training(2)
    assert (await world.store.run(run_id)).state is RunState.CANCELLED


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (
            errors.InternalError(errors.Reason.INTERNAL, "the training process died: a\0b"),
            "INTERNAL",
            "the training process died: ab",
        ),
        (
            errors.FailedPreconditionError(errors.Reason.NOT_ENOUGH_DATA, "7 rows"),
            "NOT_ENOUGH_DATA",
            "7 rows",
        ),
        (ZeroDivisionError("secret"), "INTERNAL", "an unexpected error, see the log"),
    ],
)
async def test_work_fails(world: World, error: Exception, reason: str, words: str) -> None:
    """What cannot be waited for ends the run with its words; what nobody expected keeps them in the log."""
    world.training.error = error
    run = await world.result()
    assert run.state is RunState.FAILED
    assert (run.error, run.error_reason) == (words, reason)
    assert not run.steps[-1].done


async def test_work_fails_where_the_history_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spine from before what the features' history keeps ends its run by name; the worker goes on with the next."""
    words = "spine.event_time[0] is 2023-01-01, and retention has removed rows"

    async def refuses(*_: Any) -> Columns:
        raise errors.OutOfRangeError(errors.Reason.HISTORY_REMOVED, words)

    ended = (RunState.FAILED, RunState.REJECTED)
    async with world.working():
        with monkeypatch.context() as patch:
            patch.setattr(world.features, "historical", refuses)
            run = await world.until(await world.start(), RunState.FAILED)
        assert (run.error, run.error_reason) == (words, "HISTORY_REMOVED")
        world.validation.passes = False
        run = await world.until(await world.start(suite="inputs"), *ended)
        assert run.error_reason == "RULE_VIOLATED"


async def test_work_fails_by_suite(world: World) -> None:
    """A snapshot that its suite refuses is not trained on."""
    world.validation.passes = False
    run = await world.result(suite="inputs")
    assert (run.state, run.error_reason) == (RunState.FAILED, "RULE_VIOLATED")
    assert world.training.tasks == []


@pytest.mark.parametrize(
    ("gone", "reason"), [(True, "ARTIFACT_NOT_FOUND"), (False, "DIGEST_MISMATCH")]
)
async def test_work_refuses_other_snapshot(world: World, gone: bool, reason: str) -> None:
    """A snapshot file that is gone or was changed after it was taken is not used."""
    validate = world.validation.validate

    async def tampers(run: Run, suite: str, table: Any) -> tuple[bool, str]:
        path = world.folder / run.run_id / "snapshot.arrow"
        if gone:
            path.unlink()
        else:
            tables.write_snapshot(testing.snapshot(seed=9), path)
        return await validate(run, suite, table)

    world.validation.validate = tampers  # type: ignore[method-assign]  # somebody else's hand
    run = await world.result(suite="inputs")
    assert (run.state, run.error_reason) == (RunState.FAILED, reason)
