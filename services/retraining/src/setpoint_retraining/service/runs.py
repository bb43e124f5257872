"""Policies and runs as people ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from setpoint_retraining import ports
from setpoint_retraining.domain.policy import Policy, check
from setpoint_retraining.domain.run import Run, RunState, Step
from setpoint_retraining.service import approval
from setpoint_retraining.service.rollout import Rollout
from setpoint_runtime import errors, ids
from setpoint_runtime.clock import Clock

WATCH_SECONDS = 0.2
"""How often a watched run is looked at."""

CANCEL_TRIES = 5


class Runs:
    """Starts, shows, decides and cancels runs."""

    def __init__(
        self,
        store: ports.Store,
        registry: ports.Registry,
        rollout: Rollout,
        check_trainer: Callable[[Policy], None],
        wake: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Take what it works with; `wake` tells a worker that a run waits."""
        self._store = store
        self._registry = registry
        self._rollout = rollout
        self._check_trainer = check_trainer
        self._wake = wake
        self._clock = clock

    async def put_policy(
        self, request_id: str, fingerprint: bytes, policy: Policy
    ) -> tuple[Policy, bool]:
        """Store a policy. Raises InvalidArgumentError."""
        check(policy)
        self._check_trainer(policy)
        dated = replace(policy, create_time=self._clock.now_us())
        return await self._store.put_policy(request_id, fingerprint, dated)

    async def start(
        self, request_id: str, fingerprint: bytes, policy: str, known_at: int, trigger: str
    ) -> tuple[Run, bool]:
        """Start a run. Raises NotFoundError, FailedPreconditionError."""
        plan = await self._store.policy(policy)
        now = self._clock.now_us()
        run = Run(ids.uuid7(), plan, trigger, known_at or now, RunState.QUEUED, now)
        stored, replayed = await self._store.add_run(request_id, fingerprint, run)
        self._wake()
        return stored, replayed

    async def watch(self, run_id: str, stop_at_approval: bool) -> AsyncIterator[Run]:
        """Yield a run now and after each change, until nothing more is to be seen."""
        seen = -1
        while True:
            run = await self._store.run(run_id)
            if run.etag != seen:
                seen = run.etag
                yield run
            waits = run.state in (RunState.AWAITING_APPROVAL, RunState.ROLLING_OUT)
            if run.ended or (stop_at_approval and waits):
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def decide(
        self,
        request_id: str,
        fingerprint: bytes,
        run_id: str,
        approve: bool,
        digest: str,
        approver: str,
        comment: str,
        as_of: int,
    ) -> tuple[Run, bool]:
        """Approve or reject a run's version; an approved one begins its rollout.

        Raises:
            FailedPreconditionError: The run does not wait for a decision, the digest is another, or
                the champion is another than the run was judged against.
        """
        check_request_id(request_id)
        run = await self._store.run(run_id)
        if _replayed(run, "approve", request_id, fingerprint):
            return run, True
        if run.state is not RunState.AWAITING_APPROVAL:
            raise errors.FailedPreconditionError(
                errors.Reason.RUN_STATE,
                f"run {run_id} is {run.state.name}; only AWAITING_APPROVAL can be decided",
            )
        if digest != run.manifest_digest:
            raise errors.FailedPreconditionError(
                errors.Reason.DIGEST_MISMATCH,
                f"manifest_digest: {digest!r} must be the run's {run.manifest_digest!r}",
            )
        if approve:
            await approval.approve(self._registry, run, digest, approver, comment)
        else:
            await self._registry.decide(run, False, digest, approver, comment)
        now = self._clock.now_us()
        word = "approved" if approve else "rejected"
        summary = f"{word} by {approver}: {comment}".rstrip(": ")
        step = Step("approve", now, now, summary, _request(request_id, fingerprint))
        decided = replace(run, steps=(*run.steps, step))
        if not approve:
            ended = decided.end(RunState.REJECTED, now, summary)
            return await self._store.save(ended), False
        begun = Step("rollout", now)
        rolling = replace(decided, state=RunState.ROLLING_OUT, steps=(*decided.steps, begun))
        await self._store.save(rolling)
        return (await self._rollout.advance(run_id, as_of or now)).run, False

    async def cancel(self, request_id: str, fingerprint: bytes, run_id: str) -> tuple[Run, bool]:
        """Cancel a run; a running rollout goes back. Raises FailedPreconditionError."""
        check_request_id(request_id)
        for _ in range(CANCEL_TRIES):
            try:
                return await self._cancel(request_id, fingerprint, run_id)
            except errors.AbortedError:
                # The worker finished a step in between.
                continue
        return await self._cancel(request_id, fingerprint, run_id)

    async def _cancel(self, request_id: str, fingerprint: bytes, run_id: str) -> tuple[Run, bool]:
        async with self._rollout.lock(run_id):
            return await self._cancel_now(request_id, fingerprint, run_id)

    async def _cancel_now(
        self, request_id: str, fingerprint: bytes, run_id: str
    ) -> tuple[Run, bool]:
        run = await self._store.run(run_id)
        if _replayed(run, "cancel", request_id, fingerprint):
            return run, True
        if run.ended:
            raise errors.FailedPreconditionError(
                errors.Reason.RUN_STATE, f"run {run_id} has ended: {run.state.name}"
            )
        now = self._clock.now_us()
        step = Step("cancel", now, now, "cancelled", _request(request_id, fingerprint))
        noted = replace(run, steps=(*run.steps, step))
        return await self._rollout.go_back(noted, now, RunState.CANCELLED, "cancelled"), False


def check_request_id(request_id: str) -> None:
    """Checks that a call can be told from others. Raises InvalidArgumentError."""
    if not ids.is_uuid(request_id):
        raise errors.invalid("request_id", request_id, "must be a UUID chosen by the caller")


def _request(request_id: str, fingerprint: bytes) -> dict[str, str]:
    return {"request_id": request_id, "fingerprint": fingerprint.hex()}


def _replayed(run: Run, step: str, request_id: str, fingerprint: bytes) -> bool:
    """Tells whether a request did this step of the run. Raises AlreadyExistsError."""
    told = run.output(step)
    if told.get("request_id") != request_id:
        return False
    if told["fingerprint"] != fingerprint.hex():
        raise errors.AlreadyExistsError(
            errors.Reason.REQUEST_ID_REUSED,
            f"request_id: {request_id!r} was used with another request",
        )
    return True
