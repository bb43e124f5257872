import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from setpoint.retraining.v1 import retraining_pb2, retraining_service_pb2_grpc
from setpoint.retraining.v1 import retraining_service_pb2 as pb
from setpoint_db import engine
from setpoint_retraining import config, convert, testing, wiring
from setpoint_retraining.domain.policy import RolloutStep
from setpoint_retraining.domain.run import RunState
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_rpc import channel
from setpoint_runtime import errors, ids, paging
from setpoint_testkit.serving import Serve

AWAY = "127.0.0.1:1"
"""Nobody listens there: a run stays at its first step, which waits."""


@dataclass
class Service:
    stub: "retraining_service_pb2_grpc.RetrainingServiceAsyncStub"
    store: SQLStore

    async def with_policy(self, **changes: Any) -> None:
        """Store a policy."""
        request = pb.PutPolicyRequest(request_id=ids.uuid7(), policy=proto_policy(**changes))
        await self.stub.PutPolicy(request)

    async def with_run(self) -> retraining_pb2.Run:
        """Start a run that will wait for its peers."""
        await self.with_policy()
        request = pb.StartRunRequest(request_id=ids.uuid7(), policy="weekly", trigger="by hand")
        return (await self.stub.StartRun(request)).run

    async def cancel(self, run_id: str) -> pb.CancelRunResponse:
        request = pb.CancelRunRequest(request_id=ids.uuid7(), run_id=run_id)
        return await self.stub.CancelRun(request)


@pytest.fixture
async def service(
    serve: Serve, migrated_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Service]:
    url = migrated_url("retraining")
    settings = config.RetrainingSettings(
        database_url=url,
        work_directory=tmp_path,
        feature_address=AWAY,
        registry_address=AWAY,
        router_address=AWAY,
        monitoring_address=AWAY,
        validation_address=AWAY,
        inference_address=AWAY,
        advance_seconds=0,
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(wiring.build, settings))
        opened: grpc.aio.Channel = await stack.enter_async_context(
            channel.connect(server.address, client="test")
        )
        database = engine.create_engine(url, application_name="test", schema="retraining")
        stack.push_async_callback(database.dispose)
        yield Service(retraining_service_pb2_grpc.RetrainingServiceStub(opened), SQLStore(database))


def proto_policy(**changes: Any) -> retraining_pb2.Policy:
    return convert.policy_to_proto(testing.policy(**changes))


async def failing(call: object) -> errors.SetpointError:
    """Await a call that fails; return its typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # stubs of grpc.aio calls are not awaitable to mypy
    return channel.from_rpc_error(caught.value)


async def test_put_policy_defaults(service: Service) -> None:
    """What is left empty gets its default; what was given comes back, also from the list."""
    policy = proto_policy(trainer="", gate_metric="", minimum_rows=0)
    put = await service.stub.PutPolicy(pb.PutPolicyRequest(request_id=ids.uuid7(), policy=policy))
    stored = (await service.stub.GetPolicy(pb.GetPolicyRequest(name="weekly"))).policy
    assert put.policy == stored
    assert stored.create_time > 0
    assert (stored.trainer, stored.gate_metric, stored.minimum_rows) == (
        "hist_gradient_boosting",
        "log_loss",
        1_000,
    )
    listed = await service.stub.ListPolicies(pb.ListPoliciesRequest())
    assert list(listed.policies) == [stored]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"name": "Weekly"}, "policy.name", errors.Reason.INVALID_FIELD),
        ({"label_field": ""}, "policy.label_field", errors.Reason.MISSING_FIELD),
        ({"lookback": 1}, "policy.lookback_microseconds", errors.Reason.INVALID_FIELD),
        ({"minimum_rows": -5}, "policy.minimum_rows", errors.Reason.INVALID_FIELD),
        (
            {"rollout_steps": (RolloutStep(-1, 0, 0),)},
            "policy.rollout_steps[0].basis_points",
            errors.Reason.INVALID_FIELD,
        ),
        ({"trainer": "magic"}, "policy.trainer", errors.Reason.TRAINER_NOT_FOUND),
        (
            {"trainer_parameters": {"depth": "1"}},
            "policy.trainer_parameters['depth']",
            errors.Reason.UNKNOWN_FIELD,
        ),
    ],
)
async def test_put_policy_invalid(
    service: Service, changes: dict[str, Any], field: str, reason: errors.Reason
) -> None:
    """A wrong field is named."""
    request = pb.PutPolicyRequest(request_id=ids.uuid7(), policy=proto_policy(**changes))
    error = await failing(service.stub.PutPolicy(request))
    assert isinstance(error, errors.InvalidArgumentError)
    assert (error.violations[0].field, error.reason) == (field, reason)


async def test_refuses_nul_everywhere(service: Service) -> None:
    """A character that the database cannot hold is the caller's mistake, not an internal error."""
    await service.with_policy()
    start = pb.StartRunRequest(request_id=ids.uuid7(), policy="weekly", trigger="a\0b")
    token = paging.encode("ListPolicies", (), ("a\0b",))
    calls = {
        "trigger": service.stub.StartRun(start),
        "name": service.stub.GetPolicy(pb.GetPolicyRequest(name="a\0b")),
        "model": service.stub.ListRuns(pb.ListRunsRequest(model="a\0b")),
        "page_token": service.stub.ListPolicies(pb.ListPoliciesRequest(page_token=token)),
    }
    for field, call in calls.items():
        error = await failing(call)
        assert isinstance(error, errors.InvalidArgumentError)
        assert error.violations[0].field == field


async def test_list_trainers_pages(service: Service) -> None:
    """Trainers are listed by name with their parameters, in pages."""
    first = await service.stub.ListTrainers(pb.ListTrainersRequest(page_size=1))
    rest = await service.stub.ListTrainers(pb.ListTrainersRequest(page_token=first.next_page_token))
    assert first.trainers[0].name == "hist_gradient_boosting"
    assert first.trainers[0].parameters["max_iter"] == "100"
    assert "logistic_regression" in [each.name for each in rest.trainers]
    assert rest.next_page_token == ""


async def test_start_run_unknown_policy(service: Service) -> None:
    """A run needs a policy."""
    request = pb.StartRunRequest(request_id=ids.uuid7(), policy="none")
    error = await failing(service.stub.StartRun(request))
    assert error.reason is errors.Reason.POLICY_NOT_FOUND


async def test_start_run_twice(service: Service) -> None:
    """One run at a time; the same request again is a replay; what is cancelled makes room."""
    await service.with_policy()
    request = pb.StartRunRequest(request_id=ids.uuid7(), policy="weekly")
    run = (await service.stub.StartRun(request)).run
    again = await service.stub.StartRun(request)
    assert (again.replayed, again.run.run_id) == (True, run.run_id)
    other = pb.StartRunRequest(request_id=ids.uuid7(), policy="weekly")
    assert (await failing(service.stub.StartRun(other))).reason is errors.Reason.RUN_STATE
    await service.cancel(run.run_id)
    await service.stub.StartRun(other)


async def test_watch_run_until_end(service: Service) -> None:
    """A watcher sees the run now, after each change, and its end; then the stream ends."""
    run = await service.with_run()
    seen = []
    async with asyncio.timeout(20):
        async for each in service.stub.WatchRun(pb.WatchRunRequest(run_id=run.run_id)):
            seen.append(each.run.state)
            if each.run.state == retraining_pb2.RUN_STATE_RUNNING and each.run.steps:
                await service.cancel(run.run_id)
    assert seen[-1] == retraining_pb2.RUN_STATE_CANCELLED
    assert retraining_pb2.RUN_STATE_RUNNING in seen
    error = await failing(service.stub.WatchRun(pb.WatchRunRequest(run_id=ids.uuid7())).read())
    assert error.reason is errors.Reason.RUN_NOT_FOUND


async def test_watch_run_until_approval(service: Service) -> None:
    """Who asks for it is sent no further than where a person is waited for."""
    run = testing.rolling_out(state=RunState.AWAITING_APPROVAL)
    await service.store.add_run(ids.uuid7(), b"", run)
    request = pb.WatchRunRequest(run_id=run.run_id, stop_at_approval=True)
    async with asyncio.timeout(20):
        seen = [each.run.state async for each in service.stub.WatchRun(request)]
    assert seen == [retraining_pb2.RUN_STATE_AWAITING_APPROVAL]


async def test_decide_run_wrong_digest(service: Service) -> None:
    """An approval of something else is refused before anybody is asked."""
    run = testing.rolling_out(state=RunState.AWAITING_APPROVAL)
    await service.store.add_run(ids.uuid7(), b"", run)
    request = pb.DecideRunRequest(
        request_id=ids.uuid7(),
        run_id=run.run_id,
        approve=True,
        manifest_digest="0" * 64,
        approver="ada",
    )
    error = await failing(service.stub.DecideRun(request))
    assert error.reason is errors.Reason.DIGEST_MISMATCH
    request.approver = ""
    error = await failing(service.stub.DecideRun(request))
    assert error.violations[0].field == "approver"


async def test_decide_run_too_early(service: Service) -> None:
    """A run that does not wait for a person cannot be decided, nor advanced."""
    run = await service.with_run()
    decide = pb.DecideRunRequest(
        request_id=ids.uuid7(), run_id=run.run_id, approve=True, approver="ada"
    )
    assert (await failing(service.stub.DecideRun(decide))).reason is errors.Reason.RUN_STATE
    advance = pb.AdvanceRolloutRequest(run_id=run.run_id)
    assert (await failing(service.stub.AdvanceRollout(advance))).reason is errors.Reason.RUN_STATE


async def test_list_runs_pages(service: Service) -> None:
    """Pages hold every run once, newest first; a token of another list is refused."""
    made: list[str] = []
    for number in range(3):
        run = testing.run(testing.policy(model=f"m{number}"), state=RunState.AWAITING_APPROVAL)
        await service.store.add_run(ids.uuid7(), b"", run)
        made.insert(0, run.run_id)
    found, token = [], "first"
    while token:
        request = pb.ListRunsRequest(page_size=2, page_token="" if token == "first" else token)
        answer = await service.stub.ListRuns(request)
        found += [run.run_id for run in answer.runs]
        token = answer.next_page_token
    assert found == made
    first = await service.stub.ListRuns(pb.ListRunsRequest(page_size=1))
    for token, model in (("weekly", ""), (first.next_page_token, "m1")):
        request = pb.ListRunsRequest(page_token=token, model=model)
        error = await failing(service.stub.ListRuns(request))
        assert error.reason is errors.Reason.INVALID_PAGE_TOKEN
