import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from setpoint_retraining import ports, testing
from setpoint_retraining.domain.run import Run, RunState
from setpoint_retraining.service.rollout import Advance, Rollout
from setpoint_retraining.service.runs import Runs
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_retraining.testing import DAY, FakeMonitoring, FakeRegistry, FakeRoutes
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import ManualClock

T0 = testing.KNOWN_AT
PASS, FAIL, INCONCLUSIVE = ports.Verdict


@dataclass
class World:
    """A rollout with its peers, on a real store."""

    store: SQLStore
    routes: FakeRoutes = field(default_factory=FakeRoutes)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    monitoring: FakeMonitoring = field(default_factory=FakeMonitoring)
    clock: ManualClock = field(default_factory=lambda: ManualClock(T0))

    def __post_init__(self) -> None:
        self.rollout = Rollout(self.store, self.routes, self.registry, self.monitoring, self.clock)
        self.runs = Runs(
            self.store, self.registry, self.rollout, lambda _: None, lambda: None, self.clock
        )

    async def add(self, run: Run) -> str:
        """Store a run and return its id."""
        stored, _ = await self.store.add_run(ids.uuid7(), b"", run)
        return stored.run_id

    async def begun(self) -> str:
        """Store a run whose first step was taken at T0."""
        run_id = await self.add(testing.rolling_out())
        await self.rollout.advance(run_id, T0)
        return run_id

    async def decide(self, run_id: str, request_id: str = "", **changes: Any) -> tuple[Run, bool]:
        """Approve a run, with changes."""
        asked = {"approve": True, "digest": "d" * 64, "approver": "ada", "comment": "", "as_of": T0}
        return await self.runs.decide(
            request_id or ids.uuid7(), b"print", run_id, **{**asked, **changes}
        )


@pytest.fixture
def world(store: SQLStore) -> World:
    return World(store)


async def test_begin_without_route(world: World) -> None:
    """The first version of all gets a route and all traffic at once."""
    world.routes.weights = None
    run_id = await world.add(testing.rolling_out())
    advance = await world.rollout.advance(run_id, T0)
    assert advance.run.state is RunState.SUCCEEDED
    assert world.routes.changes == [("finish", {2: 10_000}, T0)]
    assert world.registry.promoted == [(2, "champion", T0)]
    assert advance.run.steps[-1].name == "rollout"


@pytest.mark.parametrize(("taking_part", "share"), [(10_000, 1_000), (2_500, 250), (3, 1)])
async def test_look_expects_share_of_all_keys(world: World, taking_part: int, share: int) -> None:
    """Where not all keys take part in a route's split, a step's share of traffic is less."""
    run_id = await world.begun()
    world.routes.taking_part = taking_part
    await world.rollout.advance(run_id, T0 + DAY)
    assert [asked[4] for asked in world.monitoring.asked] == [share]


async def test_begin_takes_first_step(world: World) -> None:
    """The version with most traffic becomes the one to compare with; it gives up the first share."""
    world.routes.weights = {1: 9_000, 7: 1_000}
    run_id = await world.add(testing.rolling_out())
    advance = await world.rollout.advance(run_id, T0)
    assert world.routes.weights == {1: 9_000, 2: 1_000}
    assert (advance.changed, advance.run.champion_version) == (True, 1)
    assert (advance.run.rollout_step, advance.run.rollout_step_time) == (0, T0)


async def test_advance_held_by_time(world: World) -> None:
    """Before its time has passed a step is held, and nobody is asked."""
    run_id = await world.begun()
    advance = await world.rollout.advance(run_id, T0 + DAY - 1)
    assert not advance.changed
    assert "held" in advance.explanation
    assert world.monitoring.asked == []
    assert world.routes.weights == {1: 9_000, 2: 1_000}


async def test_advance_held_by_gate(world: World) -> None:
    """While the gate has not seen enough the step is held, however late it is."""
    world.monitoring.verdict = INCONCLUSIVE
    run_id = await world.begun()
    advance = await world.rollout.advance(run_id, T0 + 9 * DAY)
    assert not advance.changed
    assert advance.explanation.startswith("inconclusive")
    assert advance.run.state is RunState.ROLLING_OUT
    assert world.monitoring.asked == [(2, 1, T0, T0 + 9 * DAY, 1_000, 10)]


async def test_advance_passes_to_the_end(world: World) -> None:
    """Step by step, each judged by its own time and share, the new version becomes the champion."""
    run_id = await world.begun()
    second = await world.rollout.advance(run_id, T0 + DAY)
    assert (second.run.rollout_step, world.routes.weights) == (1, {1: 5_000, 2: 5_000})
    last = await world.rollout.advance(run_id, T0 + 2 * DAY)
    assert last.run.state is RunState.SUCCEEDED
    assert world.routes.weights == {2: 10_000}
    assert world.registry.promoted == [(2, "champion", T0 + 2 * DAY)]
    assert [asked[2:5] for asked in world.monitoring.asked] == [
        (T0, T0 + DAY, 1_000),
        (T0 + DAY, T0 + 2 * DAY, 5_000),
    ]
    with pytest.raises(errors.FailedPreconditionError) as caught:
        await world.rollout.advance(run_id, T0 + 3 * DAY)
    assert caught.value.reason is errors.Reason.RUN_STATE


async def test_advance_same_time_again(world: World) -> None:
    """The same time again changes nothing."""
    run_id = await world.begun()
    await world.rollout.advance(run_id, T0 + DAY)
    again = await world.rollout.advance(run_id, T0 + DAY)
    assert not again.changed
    assert len(world.routes.changes) == 2


async def test_advance_fails_and_goes_back(world: World) -> None:
    """A version that does harm loses its traffic at once, and the run says why."""
    run_id = await world.begun()
    world.monitoring.verdict = FAIL
    advance = await world.rollout.advance(run_id, T0 + DAY)
    assert advance.run.state is RunState.ROLLED_BACK
    assert world.routes.weights == {1: 10_000}
    assert "as the test says" in advance.run.error
    assert world.registry.promoted == []


async def crash(world: World, run_id: str, as_of: int) -> None:
    """Advance and die after the route was shifted, before the run was stored."""
    save = world.store.save

    async def dies(run: Run) -> Run:
        raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "gone")

    world.store.save = dies  # type: ignore[method-assign]  # the crash
    with pytest.raises(errors.UnavailableError):
        await world.rollout.advance(run_id, as_of)
    world.store.save = save  # type: ignore[method-assign]  # the restart


async def test_advance_after_crash(world: World) -> None:
    """What was done before a crash is asked for under the same request id and done once."""
    run_id = await world.add(testing.rolling_out())
    await crash(world, run_id, T0)
    advance = await world.rollout.advance(run_id, T0 + 5)
    assert advance.run.champion_version == 1
    await crash(world, run_id, T0 + 2 * DAY)
    await world.rollout.advance(run_id, T0 + 2 * DAY)
    first, again, second, second_again = world.routes.request_ids
    assert (first, second) == (again, second_again)
    assert [action for action, _, _ in world.routes.changes] == ["step-0", "step-1"]


async def test_advance_after_crash_at_the_end(world: World) -> None:
    """A crash after the last shift is made good: the run succeeds."""
    world.routes.weights = None
    run_id = await world.add(testing.rolling_out())
    await crash(world, run_id, T0)
    advance = await world.rollout.advance(run_id, T0 + DAY)
    assert advance.run.state is RunState.SUCCEEDED
    assert world.routes.weights == {2: 10_000}


async def test_advance_at_once(world: World) -> None:
    """Two looks at the same time take one step, not two."""
    run_id = await world.begun()
    results = await asyncio.gather(
        *(world.rollout.advance(run_id, T0 + DAY) for _ in range(3)), return_exceptions=True
    )
    moved = [each for each in results if isinstance(each, Advance) and each.changed]
    assert len(moved) == 1
    assert [action for action, _, _ in world.routes.changes] == ["step-0", "step-1"]


async def test_cancel_goes_back(world: World) -> None:
    """A rollout that is cancelled gives the champion all traffic again; again is a replay."""
    run_id, request_id = await world.begun(), ids.uuid7()
    run, replayed = await world.runs.cancel(request_id, b"1", run_id)
    assert (run.state, replayed) == (RunState.CANCELLED, False)
    assert world.routes.weights == {1: 10_000}
    run, replayed = await world.runs.cancel(request_id, b"1", run_id)
    assert (run.state, replayed) == (RunState.CANCELLED, True)
    with pytest.raises(errors.FailedPreconditionError):
        await world.runs.cancel(ids.uuid7(), b"1", run_id)


async def test_cancel_after_crash_goes_back(world: World) -> None:
    """A share that was given just before a crash is taken back too."""
    run_id = await world.add(testing.rolling_out())
    await crash(world, run_id, T0)
    assert world.routes.weights == {1: 9_000, 2: 1_000}
    await world.runs.cancel(ids.uuid7(), b"", run_id)
    assert world.routes.weights == {1: 10_000}


async def test_cancel_before_rollout(world: World) -> None:
    """A run that never touched the route is cancelled without touching it."""
    run_id = await world.add(replace(testing.run(), champion_version=1))
    await world.runs.cancel(ids.uuid7(), b"", run_id)
    assert world.routes.changes == []


async def test_cancel_beside_advance(world: World) -> None:
    """Whichever comes first, the route ends where the run does."""
    run_id = await world.begun()
    await asyncio.gather(
        world.runs.cancel(ids.uuid7(), b"", run_id),
        world.rollout.advance(run_id, T0 + DAY),
        return_exceptions=True,
    )
    run = await world.store.run(run_id)
    assert run.state is RunState.CANCELLED
    assert world.routes.weights == {1: 10_000}


async def test_cancel_beside_worker(world: World) -> None:
    """A step that a worker finishes in between does not make a cancellation fail."""
    run_id = await world.add(testing.run())
    read = world.store.run

    async def overtaken(run_id: str) -> Run:
        world.store.run = read  # type: ignore[method-assign]  # only the first time
        run = await read(run_id)
        await world.store.save(run.begin("snapshot", 1))
        return run

    world.store.run = overtaken  # type: ignore[method-assign]  # the worker
    run, _ = await world.runs.cancel(ids.uuid7(), b"", run_id)
    assert run.state is RunState.CANCELLED


async def test_watch_goes_on(world: World) -> None:
    """A rollout that cannot move holds up no other."""
    first = await world.add(testing.rolling_out())
    plan = testing.policy(model="other", route="other")
    second = await world.add(
        testing.run(plan, state=RunState.ROLLING_OUT, version=2, manifest_digest="d")
    )
    set_weights = world.routes.set_weights

    async def refuses(run: Run, *args: Any) -> None:
        if run.run_id == first:
            raise errors.AlreadyExistsError(errors.Reason.NAME_TAKEN, "no")
        await set_weights(run, *args)

    world.routes.set_weights = refuses  # type: ignore[method-assign,assignment]  # one route is stuck
    await world.rollout.watch()
    assert (await world.store.run(first)).rollout_step == -1
    assert (await world.store.run(second)).rollout_step == 0


async def test_decide_begins_rollout(world: World) -> None:
    """An approval is stored with the registry and begins the rollout; again is a replay."""
    run_id = await world.add(testing.rolling_out(state=RunState.AWAITING_APPROVAL))
    request_id = ids.uuid7()
    run, _ = await world.decide(run_id, request_id)
    assert (run.state, run.rollout_step, run.rollout_step_time) == (RunState.ROLLING_OUT, 0, T0)
    assert world.registry.decisions == [(True, "d" * 64, "ada")]
    _, replayed = await world.decide(run_id, request_id)
    assert replayed
    with pytest.raises(errors.FailedPreconditionError) as caught:
        await world.decide(run_id)
    assert caught.value.reason is errors.Reason.RUN_STATE


async def test_decide_rejects(world: World) -> None:
    """A person's no ends the run and leaves the route alone."""
    run_id = await world.add(testing.rolling_out(state=RunState.AWAITING_APPROVAL))
    run, _ = await world.decide(run_id, approve=False, comment="too late")
    assert (run.state, run.error) == (RunState.REJECTED, "rejected by ada: too late")
    assert world.routes.changes == []


async def test_decide_refuses_after_another_champion(world: World) -> None:
    """A version that was judged against another champion is not approved, but may be rejected."""
    run_id = await world.add(
        testing.rolling_out(state=RunState.AWAITING_APPROVAL, champion_version=1)
    )
    for serving in (None, replace(testing.champion(), version=5)):
        world.registry.serving = serving
        with pytest.raises(
            errors.FailedPreconditionError, match="judged against version 1"
        ) as caught:
            await world.decide(run_id)
        assert caught.value.reason is errors.Reason.CHAMPION_CHANGED
    assert world.registry.decisions == []
    run, _ = await world.decide(run_id, approve=False)
    assert run.state is RunState.REJECTED


async def test_decide_same_champion(world: World) -> None:
    """A version that was judged against the champion of now is approved."""
    world.registry.serving = testing.champion()
    run_id = await world.add(
        testing.rolling_out(state=RunState.AWAITING_APPROVAL, champion_version=1)
    )
    run, _ = await world.decide(run_id)
    assert run.state is RunState.ROLLING_OUT


async def test_decide_other_digest(world: World) -> None:
    """An approval holds for what the approver saw, and for nothing else."""
    run_id = await world.add(testing.rolling_out(state=RunState.AWAITING_APPROVAL))
    with pytest.raises(errors.FailedPreconditionError) as caught:
        await world.decide(run_id, digest="e" * 64)
    assert caught.value.reason is errors.Reason.DIGEST_MISMATCH
    assert world.registry.decisions == []
