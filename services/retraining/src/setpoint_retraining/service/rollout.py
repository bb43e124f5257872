"""Shifting a route to a run's version, step by step, each step behind a gate."""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import dataclass, replace

from setpoint_retraining import ports
from setpoint_retraining.domain.policy import EVERYTHING
from setpoint_retraining.domain.run import Run, RunState, Step
from setpoint_runtime import errors
from setpoint_runtime.clock import Clock

_LOGGER = logging.getLogger(__name__)

CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class Advance:
    """What a look at a rollout brought."""

    run: Run
    changed: bool
    explanation: str


class Rollout:
    """Moves rollouts on. Every action has a name, so that doing it again after a crash is a replay."""

    def __init__(
        self,
        store: ports.Store,
        routes: ports.Routes,
        registry: ports.Registry,
        monitoring: ports.Monitoring,
        clock: Clock,
    ) -> None:
        """Take what it works with."""
        self._store = store
        self._routes = routes
        self._registry = registry
        self._monitoring = monitoring
        self._clock = clock
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def lock(self, run_id: str) -> asyncio.Lock:
        """Return the lock under which a run's route is shifted.

        Route and run change one after the other; without it a step forward and a way back at the
        same time could leave the route where the run is not.
        """
        return self._locks.setdefault(run_id, asyncio.Lock())

    async def advance(self, run_id: str, as_of: int) -> Advance:
        """Move a rollout on if its step's time and gate allow.

        Raises:
            NotFoundError: There is no such run.
            FailedPreconditionError: The run is not rolling out.
            AbortedError: Somebody else moved it at the same time.
        """
        async with self.lock(run_id):
            return await self._advance(run_id, as_of)

    async def _advance(self, run_id: str, as_of: int) -> Advance:
        run = await self._store.run(run_id)
        if run.state is not RunState.ROLLING_OUT or run.version is None:
            raise errors.FailedPreconditionError(
                errors.Reason.RUN_STATE,
                f"run {run_id} is {run.state.name}; only a run that is ROLLING_OUT can advance",
            )
        if run.rollout_step < 0:
            return await self._begin(run, run.version, as_of)
        return await self._look(run, run.version, as_of)

    async def go_back(self, run: Run, as_of: int, state: RunState, why: str) -> Run:
        """Give the champion all traffic again and end the run."""
        if run.state is RunState.ROLLING_OUT and run.version is not None:
            champion = await self._champion(run, run.version)
            if champion is not None:
                await self._routes.set_weights(run, "go-back", {champion: EVERYTHING}, as_of, why)
        return await self._store.save(run.end(state, self._clock.now_us(), why))

    async def _champion(self, run: Run, version: int) -> int | None:
        """Return the version that takes the traffic back; None if the route was never shifted."""
        if run.rollout_step >= 0:
            return run.champion_version
        # The first step may have shifted the route just before a crash.
        route = await self._routes.current(run.plan.route)
        if route is None or version not in route.weights:
            return None
        return _greatest(route, version)

    async def _begin(self, run: Run, version: int, as_of: int) -> Advance:
        route = await self._routes.current(run.plan.route)
        if route is None:
            why = f"first version: {run.trigger}"
            return await self._finish(run, version, as_of, why)
        baseline = _greatest(route, version)
        if baseline is None:
            return await self._finish(run, version, as_of, "the route serves this version already")
        return await self._go_to(replace(run, champion_version=baseline), version, 0, as_of, "")

    async def _look(self, run: Run, version: int, as_of: int) -> Advance:
        step = run.plan.rollout_steps[run.rollout_step]
        until = run.rollout_step_time + step.hold_microseconds
        if as_of < until or as_of <= run.rollout_step_time:
            return Advance(run, False, f"held until {until}")
        if run.champion_version is None:
            return await self._finish(run, version, as_of, "no version to compare with")
        answer = await self._monitoring.compare(
            run,
            version,
            run.champion_version,
            run.rollout_step_time,
            as_of,
            await self._share(run, step.basis_points),
            step.minimum_predictions,
        )
        if answer.verdict is ports.Verdict.FAIL:
            why = f"rolled back at {_percent(step.basis_points)}: {answer.explanation}"
            ended = await self.go_back(run, as_of, RunState.ROLLED_BACK, why)
            return Advance(ended, True, why)
        if answer.verdict is not ports.Verdict.PASS:
            return Advance(run, False, f"inconclusive: {answer.explanation}")
        return await self._go_to(run, version, run.rollout_step + 1, as_of, answer.explanation)

    async def _share(self, run: Run, basis_points: int) -> int:
        """Return a step's share of all keys, which is less than its weight where not all take part."""
        route = await self._routes.current(run.plan.route)
        taking_part = EVERYTHING if route is None else route.taking_part
        return max(1, basis_points * taking_part // EVERYTHING)

    async def _go_to(
        self, run: Run, version: int, number: int, as_of: int, evidence: str
    ) -> Advance:
        step = run.plan.rollout_steps[number]
        if step.basis_points == EVERYTHING or run.champion_version is None:
            return await self._finish(run, version, as_of, evidence)
        why = f"version {version} to {_percent(step.basis_points)}"
        why = f"{why}: {evidence}" if evidence else why
        weights = {
            run.champion_version: EVERYTHING - step.basis_points,
            version: step.basis_points,
        }
        await self._routes.set_weights(run, f"step-{number}", weights, as_of, why)
        moved = replace(run, rollout_step=number, rollout_step_time=as_of)
        return Advance(await self._store.save(moved), True, why)

    async def _finish(self, run: Run, version: int, as_of: int, evidence: str) -> Advance:
        why = f"version {version} to 100 %"
        why = f"{why}: {evidence}" if evidence else why
        await self._routes.set_weights(run, "finish", {version: EVERYTHING}, as_of, why)
        await self._registry.promote(run, CHAMPION, as_of, why)
        now = self._clock.now_us()
        begun = next((each for each in run.steps if each.name == "rollout"), None)
        done = Step("rollout", begun.start_time if begun else now, now, why)
        steps = (*(each for each in run.steps if each.name != "rollout"), done)
        ended = replace(run, steps=steps).end(RunState.SUCCEEDED, now)
        return Advance(await self._store.save(ended), True, why)

    async def watch(self) -> None:
        """Look at every rollout once, by the service's clock."""
        for run_id in await self._store.rolling_out():
            try:
                advance = await self.advance(run_id, self._clock.now_us())
            except errors.SetpointError as error:
                # One rollout whose peers are away, or whose route is refused, holds up no other.
                _LOGGER.warning("rollout of run %s: %s", run_id, error)
                continue
            if advance.changed:
                _LOGGER.info("rollout of run %s: %s", run_id, advance.explanation)


def _greatest(route: ports.RouteState, version: int) -> int | None:
    """Returns the version with most traffic beside the new one."""
    others = {each: share for each, share in route.weights.items() if each != version}
    return max(others, key=lambda each: others[each], default=None)


def _percent(basis_points: int) -> str:
    return f"{basis_points / 100:g} %"
