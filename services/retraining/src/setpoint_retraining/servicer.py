"""The RPCs: convert, call, convert."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from setpoint.retraining.v1 import (
    retraining_pb2,
    retraining_service_pb2,
    retraining_service_pb2_grpc,
)
from setpoint_db import idempotency
from setpoint_retraining import convert, ports
from setpoint_retraining.domain.policy import check_text
from setpoint_retraining.service.rollout import Rollout
from setpoint_retraining.service.runs import Runs
from setpoint_retraining.training import trainers
from setpoint_runtime import errors, names, paging
from setpoint_runtime.clock import Clock

Context = grpc.aio.ServicerContext[Any, Any]


class RetrainingServicer(retraining_service_pb2_grpc.RetrainingServiceServicer):
    """Implements setpoint.retraining.v1.RetrainingService."""

    def __init__(self, runs: Runs, rollout: Rollout, store: ports.Store, clock: Clock) -> None:
        """Take the services."""
        self._runs = runs
        self._rollout = rollout
        self._store = store
        self._clock = clock

    async def PutPolicy(
        self, request: retraining_service_pb2.PutPolicyRequest, context: Context
    ) -> retraining_service_pb2.PutPolicyResponse:
        """Store a policy."""
        policy = convert.policy_from_proto(request.policy)
        stored, replayed = await self._runs.put_policy(
            request.request_id, _fingerprint(request.policy), policy
        )
        return retraining_service_pb2.PutPolicyResponse(
            policy=convert.policy_to_proto(stored), replayed=replayed
        )

    async def GetPolicy(
        self, request: retraining_service_pb2.GetPolicyRequest, context: Context
    ) -> retraining_service_pb2.GetPolicyResponse:
        """Read a policy."""
        policy = await self._store.policy(names.check_name("name", request.name))
        return retraining_service_pb2.GetPolicyResponse(policy=convert.policy_to_proto(policy))

    async def ListPolicies(
        self, request: retraining_service_pb2.ListPoliciesRequest, context: Context
    ) -> retraining_service_pb2.ListPoliciesResponse:
        """List policies."""
        size = paging.size(request.page_size)
        after = _last("ListPolicies", (), request.page_token, str)
        found = await self._store.policies(after, size)
        more = len(found) == size
        return retraining_service_pb2.ListPoliciesResponse(
            policies=[convert.policy_to_proto(each) for each in found],
            next_page_token=paging.encode("ListPolicies", (), (found[-1].name,)) if more else "",
        )

    async def ListTrainers(
        self, request: retraining_service_pb2.ListTrainersRequest, context: Context
    ) -> retraining_service_pb2.ListTrainersResponse:
        """List the installed trainers."""
        size = paging.size(request.page_size)
        after = _last("ListTrainers", (), request.page_token, str)
        later = [item for item in trainers.installed().items() if item[0] > after]
        shown = [
            retraining_pb2.Trainer(
                name=name,
                description=trainer.description,
                parameters={key: str(value) for key, value in trainer.parameters.items()},
            )
            for name, trainer in later[:size]
        ]
        more = len(later) > size
        token = paging.encode("ListTrainers", (), (shown[-1].name,)) if more else ""
        return retraining_service_pb2.ListTrainersResponse(trainers=shown, next_page_token=token)

    async def StartRun(
        self, request: retraining_service_pb2.StartRunRequest, context: Context
    ) -> retraining_service_pb2.StartRunResponse:
        """Start a run."""
        run, replayed = await self._runs.start(
            request.request_id,
            idempotency.fingerprint(request.policy, str(request.known_at_time), request.trigger),
            names.check_name("policy", request.policy),
            _time("known_at_time", request.known_at_time),
            check_text("trigger", request.trigger),
        )
        return retraining_service_pb2.StartRunResponse(
            run=convert.run_to_proto(run), replayed=replayed
        )

    async def GetRun(
        self, request: retraining_service_pb2.GetRunRequest, context: Context
    ) -> retraining_service_pb2.GetRunResponse:
        """Read a run."""
        run = await self._store.run(convert.run_id("run_id", request.run_id))
        return retraining_service_pb2.GetRunResponse(run=convert.run_to_proto(run))

    async def ListRuns(
        self, request: retraining_service_pb2.ListRunsRequest, context: Context
    ) -> retraining_service_pb2.ListRunsResponse:
        """List runs."""
        size, asked = paging.size(request.page_size), (request.model,)
        before = _last("ListRuns", asked, request.page_token, uuid.UUID)
        model = names.check_name("model", request.model) if request.model else None
        runs = await self._store.runs(model, before or None, size)
        more = len(runs) == size
        return retraining_service_pb2.ListRunsResponse(
            runs=[convert.run_to_proto(each) for each in runs],
            next_page_token=paging.encode("ListRuns", asked, (runs[-1].run_id,)) if more else "",
        )

    async def WatchRun(
        self, request: retraining_service_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[retraining_service_pb2.WatchRunResponse]:
        """Send a run now and after each change."""
        run_id = convert.run_id("run_id", request.run_id)
        async for run in self._runs.watch(run_id, request.stop_at_approval):
            yield retraining_service_pb2.WatchRunResponse(run=convert.run_to_proto(run))

    async def CancelRun(
        self, request: retraining_service_pb2.CancelRunRequest, context: Context
    ) -> retraining_service_pb2.CancelRunResponse:
        """Cancel a run."""
        run, replayed = await self._runs.cancel(
            request.request_id,
            idempotency.fingerprint("CancelRun", request.run_id),
            convert.run_id("run_id", request.run_id),
        )
        return retraining_service_pb2.CancelRunResponse(
            run=convert.run_to_proto(run), replayed=replayed
        )

    async def DecideRun(
        self, request: retraining_service_pb2.DecideRunRequest, context: Context
    ) -> retraining_service_pb2.DecideRunResponse:
        """Approve or reject a run's version."""
        run, replayed = await self._runs.decide(
            request.request_id,
            _fingerprint(request),
            convert.run_id("run_id", request.run_id),
            request.approve,
            request.manifest_digest,
            check_text("approver", _required("approver", request.approver)),
            check_text("comment", request.comment),
            _time("as_of_time", request.as_of_time),
        )
        return retraining_service_pb2.DecideRunResponse(
            run=convert.run_to_proto(run), replayed=replayed
        )

    async def AdvanceRollout(
        self, request: retraining_service_pb2.AdvanceRolloutRequest, context: Context
    ) -> retraining_service_pb2.AdvanceRolloutResponse:
        """Move a rollout on."""
        as_of = _time("as_of_time", request.as_of_time) or self._clock.now_us()
        advance = await self._rollout.advance(convert.run_id("run_id", request.run_id), as_of)
        return retraining_service_pb2.AdvanceRolloutResponse(
            run=convert.run_to_proto(advance.run),
            changed=advance.changed,
            explanation=advance.explanation,
        )


def _fingerprint(message: Any) -> bytes:
    return idempotency.fingerprint(
        type(message).__name__, message.SerializeToString(deterministic=True)
    )


def _last(method: str, asked: Sequence[str], token: str, kind: type) -> str:
    """Returns where the page before ended; empty at the beginning."""
    key = paging.decode(method, asked, token, (kind,))
    return "" if key is None else str(key[0])


def _required(field: str, value: str) -> str:
    if not value:
        raise errors.invalid(field, value, "must be set", errors.Reason.MISSING_FIELD)
    return value


def _time(field: str, value: int) -> int:
    if value < 0:
        raise errors.invalid(field, value, "must be a time in microseconds, or 0")
    return value
