"""Story 1: a model lives its whole life.

It answers, each answer can be explained to the last bit, it is retrained, a person approves the new
version, a canary shows it to be good, and it is promoted. Then the depots' counters are miswired for
six days, a version learns from them, and is found out in its canary when they are repaired: the
route goes back by itself.

The story begins with the first version that the shared stack was set up with, and lives on where
the story before it has ended, so that it may be run again in the same stack.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import onnxruntime
import polars as pl
import pytest
import xxhash
from tests.support import parcels
from tests.support import world as worlds

from setpoint.common.v1 import reference_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint.retraining.v1 import retraining_pb2
from setpoint_client import PredictionStory, errors, typed_error

pytestmark = pytest.mark.timeout(300)

HALF_A_DAY = parcels.DAY // 2
MISWIRED_DAYS = 6
SLOTS = 10_000


async def test_predict_tells_everything_about_an_answer(world: worlds.World) -> None:
    """Proves that an answer's record holds what was seen, by which version, why, and what became of it."""
    before = parcels.Day(world.days - 1)
    day = parcels.Day(world.days)
    asked = await world.serve_day(day)
    world.days += 1
    await world.deliver(asked)
    assert len(asked.answers) == len(day.parcels)
    records = await world.wait_for_records(asked.ids)
    assert all(records[each] == 1 for each in asked.ids)

    # One of a crew that tells how many are sick, one of the crew that never does.
    for is_silent in (False, True):
        place = next(
            number
            for number, parcel in enumerate(asked.questions)
            if (parcel.crew == parcels.SILENT) is is_silent
        )
        parcel, answer = asked.questions[place], asked.answers[place]
        story = await world.client.get_prediction(answer.prediction_id, timeout=worlds.CALL_SECONDS)
        _check_inputs(story, parcel, [before, day])
        assert story.outputs == answer.outputs
        assert story.assignment == answer.assignment
        assert story.assignment_key == parcel.parcel_id
        assert story.entities == parcel.entities
        assert story.caller == worlds.CALLER
        assert [outcome.label for outcome in story.outcomes] == [float(parcel.late)]
        assert story.degradations == answer.degradations
        assert {each.kind for each in answer.degradations} == (
            {"FEATURE_DEFAULT"} if is_silent else set()
        )
        assert {"features", "inference", "total"} <= story.stage_microseconds.keys()
        key = f"{parcels.ROUTE}\0{parcel.parcel_id}".encode()
        assert answer.assignment.slot == xxhash.xxh3_64_intdigest(key) % SLOTS
        explained = await world.client.explain_assignment(
            parcels.ROUTE,
            parcel.parcel_id,
            time=parcel.sent_time,
            timeout=worlds.CALL_SECONDS,
        )
        assert explained.version == answer.assignment.version
        assert explained.route_revision == answer.assignment.route_revision
        await _check_by_hand(world, story)


def _check_inputs(story: PredictionStory, parcel: parcels.Parcel, days: list[parcels.Day]) -> None:
    """Compares the recorded inputs with what the world knew, values and times."""
    load = _latest(pl.concat([day.loads() for day in days]), "depot", parcel)
    crew = _latest(pl.concat([day.crews() for day in days]), "crew", parcel)
    assert load is not None
    sick_share = parcels.SICK_SHARE_DEFAULT if crew is None else crew["sick_share"]
    expected = {
        "queue": load["queue"],
        "staff": load["staff"],
        "sick_share": sick_share,
        **parcel.inputs,
    }
    assert story.inputs == expected
    assert story.provenance["queue"].event_time == load["event_time"]
    assert story.provenance["queue"].status == "FRESH"
    assert story.provenance["sick_share"].status == ("DEFAULT" if crew is None else "FRESH")
    assert story.provenance["distance"].status == "GIVEN"


def _latest(frame: pl.DataFrame, key: str, parcel: parcels.Parcel) -> dict[str, object] | None:
    known = frame.filter(
        pl.col(key) == parcel.entities[key],
        pl.col("event_time").dt.timestamp("us") <= parcel.sent_time,
    ).sort("event_time")
    return known.to_dicts()[-1] if known.height else None


async def _check_by_hand(world: worlds.World, story: PredictionStory) -> None:
    """Runs the recorded version on the recorded inputs outside of Setpoint."""
    version = await _model_version(world, story.assignment.version)
    assert story.feature_set is not None
    assert story.feature_set.name == version.manifest.feature_set.name
    assert story.feature_set.version == version.manifest.feature_set.version
    request = registry_service_pb2.DownloadArtifactRequest(digest=version.manifest.artifact_digest)
    pieces = world.services.registry.DownloadArtifact(request, timeout=worlds.CALL_SECONDS)
    model = b"".join([piece.data async for piece in pieces])
    assert hashlib.sha256(model).hexdigest() == version.manifest.artifact_digest
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {tensor.name: _tensor(tensor, story) for tensor in version.manifest.inputs}
    [output] = version.manifest.outputs
    [scores] = session.run([output.name], feeds)
    expected = dict(zip(output.columns, scores[0].tolist(), strict=True))
    assert story.outputs == expected


def _tensor(tensor: model_pb2.TensorSpec, story: PredictionStory) -> npt.NDArray[np.generic]:
    values = [[story.inputs[column] for column in tensor.columns]]
    return np.array(values, dtype=object if tensor.name == "texts" else np.float32)


async def _model_version(world: worlds.World, number: int) -> model_pb2.ModelVersion:
    reference = reference_pb2.ModelVersionReference(model=parcels.MODEL, version=number)
    request = registry_service_pb2.GetModelVersionRequest(model_version=reference)
    found = await world.services.registry.GetModelVersion(request, timeout=worlds.CALL_SECONDS)
    return found.model_version


async def _champion(world: worlds.World) -> int:
    request = registry_service_pb2.GetAliasRequest(model=parcels.MODEL, alias="champion")
    response = await world.services.registry.GetAlias(request, timeout=worlds.CALL_SECONDS)
    return response.alias.version


async def test_retrain_approves_canaries_and_promotes(world: worlds.World) -> None:
    """Proves that a new version gets traffic only when approved, half of it first, then all of it."""
    champion = await _champion(world)
    begin = parcels.midnight(world.days)
    run = await world.retrain(parcels.POLICY, begin)
    assert [step.name for step in run.steps if step.done] == [
        *("snapshot", "validate", "train", "evaluate", "package", "register"),
    ]
    assert run.champion_version == champion
    assert run.metrics.keys() == run.champion_metrics.keys()
    assert worlds.weights(await world.route()) == {champion: SLOTS}
    made = await _model_version(world, run.version)
    assert made.approval_state == model_pb2.APPROVAL_STATE_PENDING
    assert made.manifest.snapshot.known_at_time == begin

    await _refuse_other_digest(world, run)
    rolling = await world.decide(run, begin)
    assert rolling.state == retraining_pb2.RUN_STATE_ROLLING_OUT
    assert worlds.weights(await world.route()) == {champion: SLOTS // 2, run.version: SLOTS // 2}
    asked = await world.serve_day(parcels.Day(world.days))
    world.days += 1
    assert asked.versions.keys() == {champion, run.version}
    repeated = await world.predict(asked.questions[0])
    assert repeated.assignment == asked.answers[0].assignment

    early = await world.advance(run.run_id, begin + HALF_A_DAY)
    assert not early.changed
    await world.deliver(asked)
    await world.wait_for_records(asked.ids)
    done = await world.advance(run.run_id, begin + parcels.DAY)
    assert done.run.state == retraining_pb2.RUN_STATE_SUCCEEDED, done.explanation
    assert worlds.weights(await world.route()) == {run.version: SLOTS}
    assert await _champion(world) == run.version


async def _refuse_other_digest(world: worlds.World, run: retraining_pb2.Run) -> None:
    """Tries to approve something else than what the run made."""
    other = retraining_pb2.Run()
    other.CopyFrom(run)
    other.manifest_digest = "0" * 64
    with pytest.raises(Exception, match="digest") as refused:
        await world.decide(other, 0)
    error = typed_error(refused.value)  # type: ignore[arg-type]  # an AioRpcError, or it fails here
    assert isinstance(error, errors.FailedPreconditionError)
    assert error.reason is errors.Reason.DIGEST_MISMATCH


async def test_failing_candidate_rolls_back_by_itself(world: worlds.World) -> None:
    """Proves that a version which is worse on real traffic loses it again, with the evidence kept."""
    champion = await _champion(world)
    run = await _learn_from_miswired_days(world)
    assert run.metrics["log_loss"] < run.champion_metrics["log_loss"]
    begin = parcels.midnight(world.days)
    await world.decide(run, begin)
    asked = await world.serve_day(parcels.Day(world.days))
    world.days += 1
    assert asked.versions.keys() == {champion, run.version}
    await world.deliver(asked)
    await world.wait_for_records(asked.ids)
    judged = await world.advance(run.run_id, begin + parcels.DAY)
    assert judged.run.state == retraining_pb2.RUN_STATE_ROLLED_BACK, judged.explanation
    assert "loss" in judged.run.error
    route = await world.route()
    assert worlds.weights(route) == {champion: SLOTS}
    assert judged.explanation in route.reason
    assert await _champion(world) == champion
    after = await world.predict(parcels.Day(world.days).parcels[0])
    assert after.assignment.version == champion


async def _learn_from_miswired_days(world: worlds.World) -> retraining_pb2.Run:
    """Lets six wrong days pass, and trains on nothing else."""
    days = [
        parcels.Day(world.days + number, is_miswired=True).frames()
        for number in range(MISWIRED_DAYS)
    ]
    await world.write({view: pl.concat([day[view] for day in days]) for view in days[0]})
    world.days += MISWIRED_DAYS
    policy = parcels.policy("recent")
    policy.lookback_microseconds = MISWIRED_DAYS * parcels.DAY
    policy.holdout_microseconds = parcels.DAY
    await world.put_policy(policy)
    return await world.retrain("recent", parcels.midnight(world.days))
