"""Story 5: the online store is killed; each route does what it is told to, and recovers."""

import pytest
from tests.support import parcels, waiting
from tests.support import world as worlds

from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_client import Prediction, errors
from setpoint_runtime import ids

pytestmark = pytest.mark.timeout(300)

TOLERANT = "parcel_late_tolerant"


async def _create_tolerant_route(world: worlds.World) -> None:
    """Makes a second route to the same version, which answers without features."""
    route = await world.route()
    tolerant = route_pb2.Route(
        name=TOLERANT,
        model=route.model,
        weights=route.weights,
        feature_failure_policy=route_pb2.FEATURE_FAILURE_POLICY_ANSWER_WITH_NULLS,
    )
    await world.services.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=tolerant),
        timeout=worlds.CALL_SECONDS,
    )


async def test_kill_of_valkey_is_refused_or_flagged_then_forgotten(world: worlds.World) -> None:
    """Proves a clear error or a flagged answer while the store is down, and good answers afterwards."""
    await _create_tolerant_route(world)
    day = parcels.Day(world.days)
    [first, *_] = day.parcels
    await world.client.write_features("crew_health", day.crews())

    async with world.killed("valkey"):
        with pytest.raises(errors.UnavailableError) as refused:
            await world.predict(first)
        assert refused.value.reason is errors.Reason.FEATURES_UNAVAILABLE
        answer = await world.predict(first, TOLERANT)
        assert [each.kind for each in answer.degradations] == ["FEATURES_UNAVAILABLE"]
        written = await world.client.write_features(
            "depot_load", day.loads(), timeout=worlds.CALL_SECONDS
        )
        assert written.rows_written == day.loads().height
        assert not written.online_applied

    # The last parcel of the day asks for the counters that were written in the dark.
    last = max(day.parcels, key=lambda parcel: parcel.sent_time)

    async def ask() -> Prediction | None:
        try:
            return await world.predict(last)
        except errors.UnavailableError:
            return None

    def is_whole(answer: Prediction | None) -> bool:
        if answer is None:
            return False
        return {each.kind for each in answer.degradations} <= {"FEATURE_DEFAULT"}

    found = await waiting.until(ask, is_whole)
    assert found is not None
    await world.wait_for_records([found.prediction_id])
    story = await world.client.get_prediction(found.prediction_id)
    load = day.loads().filter(depot=last.depot).sort("event_time").to_dicts()[last.hour]
    assert story.inputs["queue"] == load["queue"]
    assert story.provenance["queue"].event_time == load["event_time"]
    await world.write({"parcel_sent": day.sent(), "parcel_arrived": day.arrived()})
    world.days += 1
