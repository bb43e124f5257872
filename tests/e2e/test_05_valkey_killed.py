"""Story 5: the online store is killed; answers come from the history, flagged, and then no longer."""

import pytest
from tests.support import parcels, waiting
from tests.support import world as worlds

from setpoint_client import Prediction, errors

pytestmark = pytest.mark.timeout(300)

FROM_HISTORY = "FEATURES_FROM_HISTORY"


async def test_kill_of_valkey_is_flagged_then_forgotten(world: worlds.World) -> None:
    """Proves right and flagged answers while the store is down, also about what is written meanwhile."""
    day = parcels.Day(world.days)
    await world.client.write_features("crew_health", day.crews())
    # The last parcel of the day asks for the counters that are written in the dark.
    last = max(day.parcels, key=lambda parcel: parcel.sent_time)
    load = day.loads().filter(depot=last.depot).sort("event_time").to_dicts()[last.hour]

    async def ask() -> Prediction | None:
        try:
            return await world.predict(last)
        except errors.UnavailableError:
            return None

    def is_from_history(answer: Prediction | None) -> bool:
        return answer is not None and FROM_HISTORY in {each.kind for each in answer.degradations}

    def is_whole(answer: Prediction | None) -> bool:
        if answer is None:
            return False
        return {each.kind for each in answer.degradations} <= {"FEATURE_DEFAULT"}

    async with world.killed("valkey"):
        written = await world.client.write_features(
            "depot_load", day.loads(), timeout=worlds.CALL_SECONDS
        )
        assert written.rows_written == day.loads().height
        assert not written.online_applied
        in_the_dark = await waiting.until(ask, is_from_history)
        assert in_the_dark is not None
        views = {each.subject for each in in_the_dark.degradations if each.kind == FROM_HISTORY}
        assert {"depot_load", "crew_health"} <= views

    afterwards = await waiting.until(ask, is_whole)
    assert afterwards is not None
    answers = [in_the_dark, afterwards]
    await world.wait_for_records([each.prediction_id for each in answers])
    for each in answers:
        story = await world.client.get_prediction(each.prediction_id, timeout=worlds.CALL_SECONDS)
        assert story.inputs["queue"] == load["queue"]
        assert story.provenance["queue"].event_time == load["event_time"]
    await world.write({"parcel_sent": day.sent(), "parcel_arrived": day.arrived()})
    world.days += 1
