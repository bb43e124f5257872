"""A running Setpoint with a trained, approved and routed model, for tests that need one.

Everything is done as a user does it, over gRPC: definitions and history go to the feature service,
a policy to retraining, which trains the first version; it is approved, and the route serves it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from tests.support import parcels, waiting

from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2
from setpoint.retraining.v1 import retraining_pb2, retraining_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint.validation.v1 import suite_pb2, validation_service_pb2
from setpoint_client import AsyncClient, Prediction
from setpoint_client.stubs import AsyncStubs
from setpoint_devstack import stack as stacks
from setpoint_runtime import ids

CALLER = "setpoint-tests"
CALL_SECONDS = 30.0
"""For calls that are not themselves the matter of a test; a busy machine is slow, and a service that
was killed a moment ago is waited for."""

PAGE = 1_000
APPROVER = "a person"

ENVIRONMENT = {
    # The worlds of these tests lie in the past; the services' clocks must not judge them.
    "SETPOINT_MONITORING_EVALUATE_SECONDS": "0",
    "SETPOINT_RETRAINING_ADVANCE_SECONDS": "0",
    # How soon a new worker takes the run of a dead one.
    "SETPOINT_RETRAINING_LEASE_SECONDS": "5",
    # How long a busy machine takes is no matter of these tests.
    "SETPOINT_ROUTER_FEATURES_SECONDS": "5",
    "SETPOINT_ROUTER_INFERENCE_SECONDS": "20",
    "SETPOINT_ROUTER_LATENCY_TOLERANCE_SECONDS": "10",
}
"""Settings of the shared stack."""


@dataclass(slots=True)
class Asked:
    """Predictions about parcels that were answered."""

    questions: list[parcels.Parcel] = field(default_factory=list)
    answers: list[Prediction] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids of the predictions."""
        return [answer.prediction_id for answer in self.answers]

    @property
    def versions(self) -> Counter[int]:
        """How often each version answered."""
        return Counter(answer.assignment.version for answer in self.answers)


class World:
    """A stack and what a user does with it.

    Args:
        stack: It runs.
        client: Of all its services.
    """

    def __init__(self, stack: stacks.Stack, client: AsyncClient) -> None:
        self.stack = stack
        self.client = client
        self.days = 0
        """Days of parcels that have been written and served so far."""

    @property
    def services(self) -> AsyncStubs:
        """The raw stubs."""
        return self.client.stubs

    async def register(
        self,
        entities: Sequence[definition_pb2.Entity],
        views: Sequence[definition_pb2.FeatureView],
        feature_set: definition_pb2.FeatureSet,
        suite: suite_pb2.Suite,
    ) -> None:
        """Registers what a feature set is made of, and the rules of its requests."""
        feature = self.services.feature
        for entity in entities:
            await feature.RegisterEntity(
                feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )
        for view in views:
            await feature.RegisterFeatureView(
                feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )
        await feature.RegisterFeatureSet(
            feature_service_pb2.RegisterFeatureSetRequest(
                request_id=ids.uuid7(), feature_set=feature_set
            ),
            timeout=CALL_SECONDS,
            wait_for_ready=True,
        )
        await self.services.validation.PutSuite(
            validation_service_pb2.PutSuiteRequest(request_id=ids.uuid7(), suite=suite),
            timeout=CALL_SECONDS,
            wait_for_ready=True,
        )

    async def write(self, frames: dict[str, pl.DataFrame]) -> None:
        """Writes rows of several views."""
        await asyncio.gather(
            *(self.client.write_features(view, frame) for view, frame in frames.items())
        )

    @asynccontextmanager
    async def killed(self, name: str) -> AsyncIterator[None]:
        """Kills a service or store with -9; it runs again after the block, whatever happens in it."""
        await self.stack.kill(name)
        try:
            yield
        finally:
            await self.stack.restart(name)

    async def revive(self) -> None:
        """Starts whatever does not run, each as soon as those that it calls are there."""
        for store in ("postgres", "valkey"):
            if not self.stack.is_running(store):
                await self.stack.restart(store)
        dead = {each.name for each in self.stack.services if not self.stack.is_running(each.name)}
        while dead:
            ready = [
                each.name
                for each in self.stack.services
                if each.name in dead and dead.isdisjoint(each.peers)
            ]
            await asyncio.gather(*(self.stack.restart(name) for name in ready))
            dead -= set(ready)

    # Retraining.

    async def put_policy(self, policy: retraining_pb2.Policy) -> None:
        """Stores a policy."""
        await self.services.retraining.PutPolicy(
            retraining_service_pb2.PutPolicyRequest(request_id=ids.uuid7(), policy=policy),
            timeout=CALL_SECONDS,
            wait_for_ready=True,
        )

    async def start_run(self, policy: str, known_at: int) -> retraining_pb2.Run:
        """Starts a run on the data known at a time."""
        response = await self.services.retraining.StartRun(
            retraining_service_pb2.StartRunRequest(
                request_id=ids.uuid7(), policy=policy, known_at_time=known_at, trigger="a test"
            ),
            timeout=CALL_SECONDS,
            wait_for_ready=True,
        )
        return response.run

    async def get_run(self, run_id: str) -> retraining_pb2.Run:
        """Reads a run."""
        request = retraining_service_pb2.GetRunRequest(run_id=run_id)
        response = await self.services.retraining.GetRun(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )
        return response.run

    async def retrain(self, policy: str, known_at: int) -> retraining_pb2.Run:
        """Starts a run and waits until it has a version that a person may approve."""
        started = await self.start_run(policy, known_at)
        busy = (retraining_pb2.RUN_STATE_QUEUED, retraining_pb2.RUN_STATE_RUNNING)
        run = await waiting.until(
            lambda: self.get_run(started.run_id), lambda run: run.state not in busy
        )
        assert run.state == retraining_pb2.RUN_STATE_AWAITING_APPROVAL, run
        return run

    async def decide(
        self, run: retraining_pb2.Run, as_of: int, *, approve: bool = True
    ) -> retraining_pb2.Run:
        """Approves or rejects what a run made."""
        request = retraining_service_pb2.DecideRunRequest(
            request_id=ids.uuid7(),
            run_id=run.run_id,
            approve=approve,
            manifest_digest=run.manifest_digest,
            approver=APPROVER,
            as_of_time=as_of,
        )
        response = await self.services.retraining.DecideRun(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )
        return response.run

    async def advance(
        self, run_id: str, as_of: int
    ) -> retraining_service_pb2.AdvanceRolloutResponse:
        """Looks at a rollout as of a time."""
        request = retraining_service_pb2.AdvanceRolloutRequest(run_id=run_id, as_of_time=as_of)
        return await self.services.retraining.AdvanceRollout(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )

    # Predictions.

    async def predict(self, parcel: parcels.Parcel, route: str = parcels.ROUTE) -> Prediction:
        """Asks about a parcel as of the time at which it is sent."""
        return await self.client.predict(
            route,
            entities=parcel.entities,
            inputs=parcel.inputs,
            event_time=parcel.sent_time,
            assignment_key=parcel.parcel_id,
            timeout=CALL_SECONDS,
        )

    async def serve_day(self, day: parcels.Day) -> Asked:
        """Lives through a day: hour by hour the depots' counters, then the questions."""
        await self.client.write_features("crew_health", day.crews())
        asked = Asked()
        loads = day.loads().partition_by("event_time", maintain_order=True)
        for hour, load in enumerate(loads):
            await self.client.write_features("depot_load", load)
            sent = [parcel for parcel in day.parcels if parcel.hour == hour]
            asked.questions += sent
            asked.answers += await asyncio.gather(*(self.predict(parcel) for parcel in sent))
        await self.write({"parcel_sent": day.sent(), "parcel_arrived": day.arrived()})
        return asked

    async def deliver(self, asked: Asked) -> None:
        """Tells monitoring what became of the parcels."""
        times = [parcel.sent_time + parcels.DELIVERY for parcel in asked.questions]
        outcomes = pl.DataFrame(
            {
                "prediction_id": asked.ids,
                "label": [float(parcel.late) for parcel in asked.questions],
                "event_time": times,
                "arrival_time": times,
            }
        ).with_columns(
            pl.col("event_time", "arrival_time")
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
        )
        await self.client.record_outcomes(outcomes)

    # Records.

    async def recorded(self, model: str = parcels.MODEL) -> Counter[str]:
        """Counts how often each prediction id is in monitoring's list of a model's predictions."""
        found: Counter[str] = Counter()
        token = ""
        while True:
            page = await self.services.monitoring.ListPredictions(
                monitoring_service_pb2.ListPredictionsRequest(
                    model=model, page_size=PAGE, page_token=token
                ),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )
            found.update(each.prediction_id for each in page.predictions)
            token = page.next_page_token
            if not token:
                return found

    async def wait_for_records(self, ids_answered: Sequence[str]) -> Counter[str]:
        """Waits until monitoring has all of these predictions, and returns what it has."""
        wanted = set(ids_answered)
        return await waiting.until(self.recorded, lambda found: wanted <= found.keys())

    # Routes.

    async def route(self, name: str = parcels.ROUTE) -> route_pb2.Route:
        """Reads the current revision of a route."""
        request = router_service_pb2.GetRouteRequest(name=name)
        response = await self.services.router.GetRoute(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )
        return response.route

    async def revisions(self, name: str = parcels.ROUTE) -> list[route_pb2.Route]:
        """Reads all revisions of a route, newest first."""
        request = router_service_pb2.ListRouteRevisionsRequest(name=name, page_size=PAGE)
        response = await self.services.router.ListRouteRevisions(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )
        return list(response.routes)


def weights(route: route_pb2.Route) -> dict[int, int]:
    """Returns the shares of the versions that have one, in basis points."""
    return {each.version: each.basis_points for each in route.weights if each.basis_points}


@asynccontextmanager
async def connected(stack: stacks.Stack) -> AsyncIterator[World]:
    """Connects to a running stack."""
    addresses: dict[str, Any] = {f"{name}_address": at for name, at in stack.addresses.items()}
    async with AsyncClient(caller=CALLER, **addresses) as client:
        yield World(stack, client)


TRAINING_DAYS = 12


async def settle(world: World) -> None:
    """Brings the world of parcels to life: twelve days of history and a first version that serves."""
    await world.register(parcels.ENTITIES, parcels.VIEWS, parcels.feature_set(), parcels.suite())
    days = [parcels.Day(number).frames() for number in range(TRAINING_DAYS)]
    await world.write({view: pl.concat([day[view] for day in days]) for view in days[0]})
    world.days = TRAINING_DAYS
    await world.put_policy(parcels.policy())
    run = await world.retrain(parcels.POLICY, parcels.midnight(world.days))
    run = await world.decide(run, parcels.midnight(world.days))
    assert run.state == retraining_pb2.RUN_STATE_SUCCEEDED, run
