"""Ensembles over the wire: members together, members missing, and what is told of them."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from setpoint.common.v1 import value_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_oip import datatypes, parameters, tensors
from setpoint_oip.protocol import open_inference_pb2 as oip_pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_router import testing
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
Kind = router_service_pb2.DegradationKind.Name
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}
OF_GIVEN = 10.5
BROKEN = errors.InternalError(errors.Reason.INFERENCE_FAILED, "it broke")
GONE = errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "gone")


def together(*versions: int, weights: tuple[int, ...] = (), **fields: Any) -> route_pb2.Ensemble:
    """Returns an ensemble, by default the mean of all."""
    fields.setdefault("combination", route_pb2.COMBINATION_MEAN)
    members = [route_pb2.EnsembleMember(version=each) for each in versions]
    for member, weight in zip(members, weights, strict=False):
        member.weight = weight
    return route_pb2.Ensemble(members=members, **fields)


@pytest_asyncio.fixture
async def running(start_router: Any) -> Any:
    """A router without routes."""
    async with start_router() as made:
        yield made


async def create(router: Any, ensemble: route_pb2.Ensemble, **fields: Any) -> Any:
    """Creates the route `flights` with an ensemble."""
    return await router.create(weights={}, ensemble=ensemble, **fields)


async def recorded(router: Any, prediction_id: str) -> dict[str, Any]:
    """Returns the record of a prediction once monitoring has it."""
    async with asyncio.timeout(20):
        while prediction_id not in router.peers.ingest.ids:
            await asyncio.sleep(0.005)
    found: dict[str, Any] = router.peers.ingest.row(prediction_id)
    return found


async def refusal(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Returns code and typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


def partial(answer: Any) -> list[str]:
    """Returns the subjects of an answer's degradations, all of which are of missing members."""
    assert {Kind(each.kind) for each in answer.degradations} <= {
        "DEGRADATION_KIND_ENSEMBLE_PARTIAL"
    }
    return [each.subject for each in answer.degradations]


def members(row: dict[str, Any]) -> dict[int, Any]:
    """Returns the outputs of each member in the only row of a record, or its error."""
    found: dict[int, Any] = {}
    for each in row["record"].members:
        if each.failures.columns:
            found[each.version] = columns_proto.from_proto(each.failures)["error"].item(0)
        else:
            found[each.version] = columns_proto.from_proto(each.outputs)["score"].item(0)
    return found


async def test_ensemble_answers_with_the_mean(running: Any) -> None:
    """Members see the same features and answer as one; the record says what each of them said."""
    made = await create(running, together(1, 2, 4), shadows=[])
    assert made.ensemble.quorum == 3
    assert [each.weight for each in made.ensemble.members] == [1, 1, 1]
    answer = await running.predict(event_time=1_000_000)
    assert answer.outputs["score"].double_value == pytest.approx(7e6 / 3 + 160)
    assert answer.assignment.reason == route_pb2.ASSIGNMENT_REASON_ENSEMBLE
    assert answer.assignment.model_version.version == 0
    assert list(answer.assignment.versions) == [1, 2, 4]
    assert not answer.degradations
    assert running.peers.features.online.calls == 1
    row = await recorded(running, answer.prediction_id)
    assert row["record"].kind == prediction_pb2.PREDICTION_KIND_SERVED
    assert row["record"].model_version.version == 0
    assert row["record"].score_column == "score"
    assert row["outputs"]["score"] == answer.outputs["score"].double_value
    assert row["inputs"] == {"share": 2.0, "delay": 150.0, "hour": 8, "origin": "JFK"}
    assert members(row) == {1: 1e6 + 160, 2: 2e6 + 160, 4: 4e6 + 160}


async def test_weights_of_missing_members_go_to_the_others(running: Any) -> None:
    """A member that fails is flagged and told, and the others' weights are taken anew."""
    weighted = together(
        1, 2, 4, weights=(1, 3, 6), quorum=2, combination=route_pb2.COMBINATION_WEIGHTED_MEAN
    )
    await create(running, weighted)
    answer = await running.predict(inputs=GIVEN)
    assert answer.outputs["score"].double_value == pytest.approx(3.1e6 + OF_GIVEN)
    running.peers.inference.version_errors[4] = BROKEN
    answer = await running.predict(inputs=GIVEN)
    assert answer.outputs["score"].double_value == pytest.approx(1.75e6 + OF_GIVEN)
    assert partial(answer) == ["4"]
    assert list(answer.assignment.versions) == [1, 2]
    row = await recorded(running, answer.prediction_id)
    assert row["degradations"] == "ENSEMBLE_PARTIAL:4"
    told = members(row)
    assert (told[1], told[2]) == (1e6 + OF_GIVEN, 2e6 + OF_GIVEN)
    assert told[4].startswith("INFERENCE_FAILED")
    assert [each.weight for each in row["record"].members] == [1, 3, 6]


async def patient(call: Any) -> Any:
    """Returns the answer of a call that may be unavailable at first."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                    raise
                await asyncio.sleep(0.01)


async def test_slow_member_is_left_out(running: Any) -> None:
    """A member that does not answer by its own deadline is missing, and is not waited for."""
    gate = running.peers.inference.gates[2] = asyncio.Event()
    await create(running, together(1, 2, quorum=1, member_deadline_microseconds=200_000))
    # On a machine that pauses the other one may be late too.
    answer = await patient(lambda: running.predict(inputs=GIVEN, timeout=20))
    assert partial(answer) == ["2"]
    assert answer.outputs["score"].double_value == 1e6 + OF_GIVEN
    row = await recorded(running, answer.prediction_id)
    assert "did not answer within 0.2 s" in members(row)[2]
    gate.set()


async def test_below_quorum_fails_with_all_causes(running: Any) -> None:
    """With too few members there is no answer, and the error names each that is missing."""
    running.peers.inference.version_errors = {2: BROKEN, 4: GONE}
    await create(running, together(1, 2, 4, quorum=2))
    code, error = await refusal(running.predict(inputs=GIVEN))
    assert (code, error.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        errors.Reason.ENSEMBLE_BELOW_QUORUM,
    )
    assert error.metadata == {"2": "INFERENCE_FAILED", "4": "MODEL_VERSION_NOT_FOUND"}
    assert "1 of 3 members answered, 2 must" in error.message


async def test_refused_row_is_the_callers(running: Any) -> None:
    """What a member has against the row itself is told as it is."""
    refused = errors.invalid("inputs", "?", "must be otherwise")
    running.peers.inference.version_errors = {1: refused, 2: refused}
    await create(running, together(1, 2))
    code, error = await refusal(running.predict(inputs=GIVEN))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, errors.Reason.INVALID_FIELD)


@pytest.mark.parametrize("is_batch", [False, True])
async def test_fallback_answers_when_versions_are_gone(running: Any, is_batch: bool) -> None:
    """When too few members can answer at all, the fallback version does."""
    running.peers.inference.version_errors = {1: GONE, 2: GONE}
    await create(running, together(1, 2, 4, quorum=2), fallback_version=5)
    if is_batch:
        results, outputs = await predict_batch(running, 3)
        assert results["version"].to_list() == [5] * 3
        assert results["degradations"].to_list() == ["FALLBACK_VERSION:0"] * 3
        assert outputs["score"].item(2) == 5e6 + 2
        return
    answer = await running.predict(inputs=GIVEN)
    assert answer.outputs["score"].double_value == 5e6 + OF_GIVEN
    assert answer.assignment.model_version.version == 5
    assert not answer.assignment.versions
    row = await recorded(running, answer.prediction_id)
    assert not row["record"].members
    assert row["chosen_version"] == 0


async def test_gone_without_fallback_tells_of_the_quorum(running: Any) -> None:
    """Without a fallback the error is that of the ensemble."""
    running.peers.inference.version_errors = {1: GONE, 2: GONE}
    await create(running, together(1, 2))
    _, error = await refusal(running.predict(inputs=GIVEN))
    assert error.reason is errors.Reason.ENSEMBLE_BELOW_QUORUM
    results, _ = await predict_batch(running, 2)
    assert results["error"].item(0).startswith("ENSEMBLE_BELOW_QUORUM")


async def predict_batch(router: Any, rows: int) -> tuple[Columns, Columns]:
    """Returns results and outputs of a batch whose row n has the score n."""
    table = Columns.from_dict(
        {
            "share": (DataType.FLOAT64, [float(number) for number in range(rows)]),
            "delay": (DataType.FLOAT64, [0.0] * rows),
            "hour": (DataType.INT64, [0] * rows),
            "origin": (DataType.STRING, ["JFK"] * rows),
        }
    )
    answer = await router.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(route="flights", rows=columns_proto.to_proto(table)),
        timeout=30,
    )
    return columns_proto.from_proto(answer.results), columns_proto.from_proto(answer.outputs)


def without(*bad: float) -> Any:
    """Returns a poison that refuses rows of some shares."""

    def poison(inputs: Columns) -> errors.SetpointError | None:
        return BROKEN if set(inputs["share"].to_list()) & set(bad) else None

    return poison


async def test_batch_rows_never_cross(running: Any) -> None:
    """Each row gets its own answer; a row that breaks the models fails alone."""
    running.peers.inference.poison = without(3.0, 77.0)
    await create(running, together(1, 2, quorum=1))
    results, outputs = await predict_batch(running, 200)
    bad = {3, 77}
    scores = [None if row in bad else 1.5e6 + row for row in range(200)]
    assert outputs["score"].to_list() == scores
    found = results["error"].to_list()
    assert {row for row, each in enumerate(found) if each} == bad
    assert found[3].startswith("ENSEMBLE_BELOW_QUORUM")
    assert set(results["version"].to_list()) == {0}
    assert set(results["reason"].to_list()) == {route_pb2.ASSIGNMENT_REASON_ENSEMBLE}


async def test_batch_tells_who_is_missing_by_row(running: Any) -> None:
    """A member that fails on one row is missing from that row alone."""
    inference = running.peers.inference
    inference.poisons = {2: without(5.0)}
    await create(running, together(1, 2, quorum=1))
    results, outputs = await predict_batch(running, 9)
    flags = results["degradations"].to_list()
    assert flags == [None] * 5 + ["ENSEMBLE_PARTIAL:2"] + [None] * 3
    assert outputs["score"].to_list() == [(1e6 if row == 5 else 1.5e6) + row for row in range(9)]
    row = await recorded(running, results["prediction_id"].item(5))
    first, second = row["record"].members
    assert columns_proto.from_proto(first.outputs)["score"].null_count == 0
    listed = columns_proto.from_proto(second.outputs)["score"].to_list()
    assert [at for at, each in enumerate(listed) if each is None] == [5]
    assert columns_proto.from_proto(second.failures)["error"].null_count == 8
    assert not first.failures.columns


async def test_answers_of_many_callers_never_cross(running: Any) -> None:
    """Callers in flight together each get the mean of their own row."""
    await create(running, together(1, 2, 4))

    async def one(number: int) -> None:
        answer = await running.predict(inputs=GIVEN | {"share": Value(double_value=number)})
        score = answer.outputs["score"].double_value
        assert score == pytest.approx(7e6 / 3 + number + 10)

    await asyncio.gather(*(one(number) for number in range(60)))


async def test_shadow_of_an_ensemble(running: Any) -> None:
    """A shadow may be compared with an ensemble."""
    shadow = route_pb2.Shadow(version=5, basis_points=10_000)
    await create(running, together(1, 2), shadows=[shadow])
    answer = await running.predict()
    async with asyncio.timeout(20):
        while not [each for each in running.peers.ingest.records if each.kind == 2]:
            await asyncio.sleep(0.005)
    (record,) = [each for each in running.peers.ingest.records if each.kind == 2]
    (row,) = testing.predictions_of(record).to_rows()
    assert row["primary_prediction_id"] == answer.prediction_id
    assert columns_proto.from_proto(record.outputs)["score"].item(0) == 5e6 + 160


async def test_override_and_explanation(running: Any) -> None:
    """A key with an override gets its version; all others are told of the ensemble."""
    await create(running, together(1, 2), overrides={"vip": 4})
    answer = await running.predict(inputs=GIVEN, assignment_key="vip")
    assert answer.outputs["score"].double_value == 4e6 + OF_GIVEN

    async def explain(key: str) -> Any:
        return await running.stub.ExplainAssignment(
            router_service_pb2.ExplainAssignmentRequest(route="flights", assignment_key=key)
        )

    assert (await explain("vip")).assignment.model_version.version == 4
    found = await explain("other")
    assert list(found.assignment.versions) == [1, 2]
    assert found.assignment.reason == route_pb2.ASSIGNMENT_REASON_ENSEMBLE
    assert "MEAN of versions 1, 2, of which 2 must answer" in found.explanation
    answer = await running.predict(inputs=GIVEN, assignment_key="other")
    assert answer.assignment == found.assignment


async def test_create_refuses(running: Any) -> None:
    """What cannot answer together is refused by reason, and nothing is stored."""
    unset, vote = route_pb2.COMBINATION_UNSPECIFIED, route_pb2.COMBINATION_VOTE
    unfit, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    for ensemble, code, reason in (
        (together(1, 3), unfit, "NOT_APPROVED"),
        (together(1, 10), grpc.StatusCode.NOT_FOUND, "MODEL_VERSION_NOT_FOUND"),
        (together(1, 6), unfit, "SIGNATURE_MISMATCH"),
        (together(1, 7), unfit, "SIGNATURE_MISMATCH"),
        (together(1, 2, combination=vote), unfit, "SIGNATURE_MISMATCH"),
        (together(1, 2, combination=unset), invalid, "INVALID_FIELD"),
        (together(1, 1), invalid, "INVALID_FIELD"),
    ):
        found, error = await refusal(create(running, ensemble))
        assert (found, error.reason.value) == (code, reason)
    _, error = await refusal(running.predict())
    assert error.reason is errors.Reason.ROUTE_NOT_FOUND


async def test_ensemble_survives_a_restart(start_router: Any) -> None:
    """An ensemble comes back from database and file as it was."""
    wanted = together(
        1, 2, weights=(2, 3), quorum=1, combination=route_pb2.COMBINATION_WEIGHTED_MEAN
    )
    async with start_router() as router:
        await create(router, wanted)
    async with start_router() as router:
        asked = router_service_pb2.GetRouteRequest(name="flights")
        assert (await router.stub.GetRoute(asked)).route.ensemble == wanted
        # It starts from the file, and looks into the database then.
        answer = await patient(lambda: router.predict(inputs=GIVEN))
        assert answer.outputs["score"].double_value == pytest.approx(1.6e6 + OF_GIVEN)


async def test_ensemble_speaks_the_open_inference_protocol(running: Any) -> None:
    """A route with an ensemble is a model as any other, its only version 0."""
    await create(running, together(1, 2, quorum=1))
    running.peers.inference.version_errors[2] = BROKEN
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(running.to_router)
    described = await stub.ModelMetadata(oip_pb.ModelMetadataRequest(name="flights"))
    assert list(described.versions) == ["0"]
    assert described.outputs[0].name == "score"
    request = oip_pb.ModelInferRequest(model_name="flights")
    for name, datatype, array in (
        ("numbers", "FP32", np.array([[0.5, 2, 8]], "f4")),
        ("origin", "BYTES", np.array(["JFK"], object)),
    ):
        made = tensors.Tensor(name, datatypes.DATATYPES[datatype], array)
        tensors.fill_request(request, [made], is_raw=False)
    response = await stub.ModelInfer(request, timeout=20)
    assert response.model_version == "0"
    assert response.parameters[f"{parameters.PREFIX}versions"].string_param == "1"
    outputs = {each.name: each.array.tolist() for each in tensors.of_response(response)}
    assert outputs["score"] == [[1e6 + OF_GIVEN]]
    found = response.parameters[f"{parameters.PREFIX}degradations"]
    assert found.string_param == "ENSEMBLE_PARTIAL:2"
