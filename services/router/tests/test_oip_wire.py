"""The Open Inference Protocol on the router, over the wire."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from setpoint.router.v1 import route_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint_columns import DataType
from setpoint_columns.dtypes import FLOATS
from setpoint_oip import parameters, tensors
from setpoint_oip.conformance import suite
from setpoint_oip.conformance.subject import Subject
from setpoint_oip.datatypes import DATATYPES, AnyArray
from setpoint_oip.layout import Held
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor
from setpoint_router import oip_servicer, testing
from setpoint_router.convert import oip
from setpoint_router.domain import assignment
from setpoint_router.domain.route import Field, ServedTensor, ServedVersion
from setpoint_rpc import channel
from setpoint_runtime import errors, ids

ORIGIN = np.array(["JFK"], object)
GIVEN = {"numbers": np.array([[0.5, 2, 8]], "f4"), "origin": ORIGIN}
KEYED = {"carrier": np.array(["UA"], object), "hour": np.array([8]), "origin": ORIGIN}
KINDS = {"f4": "FP32", "f8": "FP64", "i8": "INT64", "i2": "INT16", "f2": "FP16"}


def question(
    inputs: dict[str, AnyArray],
    outputs: tuple[str, ...] = (),
    *,
    is_raw: bool = True,
    given: dict[str, parameters.Value] | None = None,
    **fields: Any,
) -> pb.ModelInferRequest:
    """Ask a route."""
    request = pb.ModelInferRequest(**({"model_name": "flights"} | fields))
    made = [
        Tensor(name, DATATYPES[KINDS.get(each.dtype.str[1:], "BYTES")], each)
        for name, each in inputs.items()
    ]
    tensors.fill_request(request, made, is_raw=is_raw)
    for name in outputs:
        request.outputs.add(name=name)
    parameters.fill(request.parameters, given or {})
    return request


async def infer(router: Any, *args: Any, **fields: Any) -> tuple[dict[str, Any], Any]:
    """Return the outputs and the message of an answer."""
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(router.to_router)
    response = await stub.ModelInfer(question(*args, **fields), timeout=20)
    return {each.name: each.array.tolist() for each in tensors.of_response(response)}, response


async def refused(router: Any, *args: Any, **fields: Any) -> tuple[Any, errors.SetpointError]:
    """Return code and error of a question that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(router, *args, **fields)
    return caught.value.code(), channel.from_rpc_error(caught.value)


async def recorded(router: Any, count: int) -> set[str]:
    """Return the ids of the predictions that monitoring has, once they are so many."""
    async with asyncio.timeout(20):
        while len(router.peers.ingest.ids) < count:
            await asyncio.sleep(0.01)
    return set(router.peers.ingest.ids)


@pytest.mark.parametrize("is_raw", [True, False])
async def test_infer_given_inputs(router: Any, is_raw: bool) -> None:
    """Proves that all inputs, as the model's tensors or as columns, are one recorded prediction."""
    columns = {
        "share": np.array([0.5], "f8"),
        "delay": np.array([[2]], "i2"),
        "hour": np.array([8], "i8"),
        "origin": ORIGIN,
    }
    for inputs in (GIVEN, columns):
        found, response = await infer(router, inputs, is_raw=is_raw, id="mine")
        assert found == {"score": [[1e6 + 10.5]]}
        assert bool(response.raw_output_contents) is is_raw
        assert (response.model_name, response.model_version, response.id) == (
            "flights",
            "1",
            "mine",
        )
        told = parameters.read(response.parameters)
        assert ids.is_uuid(str(told.pop("setpoint_prediction_id")))
        assert told.pop("setpoint_slot") in range(10_000)
        assert told == {
            "setpoint_route": "flights",
            "setpoint_route_revision": 1,
            "setpoint_reason": "SLOT",
            "setpoint_degraded": False,
            "setpoint_degradations": "",
        }
    assert len(await recorded(router, 2)) == 2


async def test_router_conforms(router: Any) -> None:
    """Proves that the conformance suite finds nothing, whatever is tried on a route."""
    results = await suite.run(Subject(router.to_router, "flights"))
    assert suite.is_conformant(results, is_strict=True), suite.found(results)


async def test_infer_fetches_features(router: Any) -> None:
    """Proves that entity keys, as tensors or as parameters, have their features fetched."""
    expected = [[1e6 + 2 + ord("U") + ord("A") + 8]]
    found, response = await infer(router, KEYED)
    assert found == {"score": expected}
    feature_set = parameters.read(response.parameters)["setpoint_feature_set"]
    assert feature_set == "{}@{}".format(*testing.FEATURE_SET)
    requested = {name: KEYED[name] for name in ("hour", "origin")}
    found, _ = await infer(router, requested, given={"setpoint_entity_carrier": "UA"})
    assert found == {"score": expected}
    rows = {name: np.repeat(each, 3) for name, each in requested.items()}
    found, _ = await infer(router, rows, given={"setpoint_entity_carrier": "UA"})
    assert found == {"score": expected * 3}
    _, error = await refused(router, requested, given={"setpoint_entity_pilot": "x"})
    assert error.reason is errors.Reason.UNKNOWN_FIELD


async def test_infer_equals_predict(router: Any) -> None:
    """Proves that a key gets the same version, slot and outputs through both contracts."""
    await router.create("split", weights={1: 5_000, 2: 5_000})
    for number in range(6):
        key = f"Zoë {number}"
        theirs = await router.predict("split", assignment_key=key)
        found, response = await infer(
            router, KEYED, model_name="split", given={"setpoint_assignment_key": key}
        )
        told = parameters.read(response.parameters)
        assert found["score"] == [[theirs.outputs["score"].double_value]]
        assert response.model_version == str(theirs.assignment.model_version.version)
        assert told["setpoint_slot"] == theirs.assignment.slot
        assert told["setpoint_slot"] == assignment.slot_of("split", key)


async def test_infer_many_rows(router: Any) -> None:
    """Proves that rows are predictions of their own, answered in order, with facts on demand."""
    await router.create("split", weights={1: 5_000, 2: 5_000})
    count = 40
    keys = np.array([f"key {number}" for number in range(count)], object)
    numbers = np.column_stack([np.arange(count), np.zeros(count), np.zeros(count)]).astype("f4")
    asked = ("score", "setpoint_version", "setpoint_prediction_id", "setpoint_reason")
    inputs = {
        "numbers": numbers,
        "origin": np.repeat(ORIGIN, count),
        "setpoint_assignment_key": keys,
        "setpoint_event_time": np.arange(count, dtype="i8") + 1,
    }
    found, response = await infer(router, inputs, asked, model_name="split")
    assert response.model_version == "1,2"
    versions = [row[0] for row in found["setpoint_version"]]
    assert set(versions) == {1, 2}
    assert found["score"] == [[each * 1e6 + row] for row, each in enumerate(versions)]
    assert found["setpoint_reason"] == [[b"SLOT"]] * count
    given = [row[0].decode() for row in found["setpoint_prediction_id"]]
    told = parameters.read(response.parameters)
    assert str(told["setpoint_prediction_id"]).split(",") == given
    assert set(given) <= await recorded(router, count)
    for number in (0, count - 1):
        one = {name: each[number : number + 1] for name, each in inputs.items()}
        again, alone = await infer(router, one, ("setpoint_version",), model_name="split")
        assert again == {"setpoint_version": [[versions[number]]]}
        assert alone.model_version == str(versions[number])
    found, _ = await infer(router, {"numbers": np.empty((0, 3), "f4"), "origin": ORIGIN[:0]})
    assert found == {"score": []}


async def test_infer_is_validated(router: Any) -> None:
    """Proves that the rules of validation reject a row, alone and among others."""
    router.peers.validation.put(
        suite_pb2.Rule(
            rule_id="hours",
            severity=suite_pb2.SEVERITY_REJECT,
            range=suite_pb2.RangeRule(column="hour", min=0, max=23),
        )
    )
    late = KEYED | {"hour": np.array([99])}
    # The rules arrive when they do.
    async with asyncio.timeout(20):
        while await is_answered(router, late):
            await asyncio.sleep(0.01)
    rows = {name: np.concatenate([KEYED[name], late[name]]) for name in KEYED}
    for inputs in (late, rows):
        code, error = await refused(router, inputs)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.reason is errors.Reason.RULE_VIOLATED
        assert "99" in error.message
    assert await is_answered(router, KEYED)


async def is_answered(router: Any, inputs: dict[str, AnyArray]) -> bool:
    """Say whether a question gets an answer."""
    try:
        await infer(router, inputs)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_infer_says_what_was_not_as_it_should_be(router: Any) -> None:
    """Proves that a degraded answer is flagged, alone and among others."""
    router.peers.features.statuses["UA"] = testing.MISSING
    _, response = await infer(router, KEYED)
    told = parameters.read(response.parameters)
    assert told["setpoint_degraded"] is True
    assert "FEATURE_MISSING:share" in str(told["setpoint_degradations"])
    inputs = {name: np.repeat(each, 2) for name, each in KEYED.items()}
    inputs["carrier"] = np.array(["UA", "BB"], object)
    found, response = await infer(router, inputs, ("setpoint_degradations",))
    [[first], [second]] = found["setpoint_degradations"]
    assert first.startswith(b"FEATURE_MISSING:share")
    assert second == b""
    assert parameters.read(response.parameters)["setpoint_degraded"] is True


REFUSED: list[tuple[dict[str, Any], Any, str, str]] = [
    ({"inputs": {"x": ORIGIN}}, "INVALID_ARGUMENT", "UNKNOWN_FIELD", "'x' is not known"),
    ({"inputs": {"origin": ORIGIN}}, "INVALID_ARGUMENT", "MISSING_FIELD", 'inputs["share"]'),
    (
        {"inputs": GIVEN | {"numbers": np.ones((1, 2), "f4")}},
        "INVALID_ARGUMENT",
        "MALFORMED_COLUMNS",
        "[1, 2] must be [rows, 3]",
    ),
    (
        {"inputs": GIVEN, "outputs": ("label",)},
        "INVALID_ARGUMENT",
        "UNKNOWN_FIELD",
        "'label' is not known",
    ),
    (
        {"inputs": GIVEN, "given": {"setpoint_assigment_key": "a"}},
        "INVALID_ARGUMENT",
        "UNKNOWN_FIELD",
        "is not known; there are",
    ),
    (
        {"inputs": GIVEN, "given": {"setpoint_event_time": -1}},
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "event_time: -1",
    ),
    (
        {"inputs": {"numbers": np.array([["a", "b", "c"]], object), "origin": ORIGIN}},
        "INVALID_ARGUMENT",
        "WRONG_TYPE",
        'inputs["share"]',
    ),
    ({"inputs": GIVEN, "model_name": "none"}, "NOT_FOUND", "ROUTE_NOT_FOUND", "no route"),
    (
        {"inputs": GIVEN, "model_version": "9"},
        "NOT_FOUND",
        "MODEL_VERSION_NOT_FOUND",
        "no version '9'",
    ),
]


async def test_infer_refuses_by_name(router: Any) -> None:
    """Proves that what is wrong is named, with a code that clients of the protocol know."""
    for fields, code, reason, said in REFUSED:
        found, error = await refused(router, **fields)
        assert found.name == code, error
        assert error.reason == errors.Reason(reason), error
        assert said in error.message


async def test_infer_names_the_input_of_a_bad_row_among_many(router: Any) -> None:
    """Proves that of many rows too the error names the input that was sent, its row and value."""
    rows = {name: np.repeat(each, 20, axis=0) for name, each in KEYED.items()}
    rows["hour"] = rows["hour"].astype("f8")
    _, error = await refused(router, rows)
    assert error.reason is errors.Reason.WRONG_TYPE
    assert error.message.startswith('inputs["hour"]')
    assert [each.field for each in error.violations] == ['inputs["hour"]']
    many = {name: np.repeat(each, 20, axis=0) for name, each in GIVEN.items()}
    many["origin"][7] = "x" * 70_000
    _, error = await refused(router, many)
    assert error.reason is errors.Reason.TOO_LARGE
    assert error.metadata["field"] == 'inputs["origin"][7]'


async def test_infer_names_no_version_where_the_route_decides(router: Any) -> None:
    """Proves that a version may be named where it is the only one, and nowhere else."""
    found, _ = await infer(router, GIVEN, model_version="1")
    assert found == {"score": [[1e6 + 10.5]]}
    await router.create("split", weights={1: 5_000, 2: 5_000})
    code, error = await refused(router, GIVEN, model_name="split", model_version="1")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the route decides among versions 1, 2" in error.message


async def test_infer_by_request_id_is_one_prediction(router: Any) -> None:
    """Proves that a repetition gets the first answer, alone and in a batch, and other content none."""
    many = {name: np.repeat(each, 20, axis=0) for name, each in GIVEN.items()}
    for inputs in (GIVEN, many):
        given: dict[str, parameters.Value] = {"setpoint_request_id": ids.uuid7()}
        first, response = await infer(router, inputs, given=given)
        again, replay = await infer(router, inputs, given=given)
        assert first == again
        told, repeated = parameters.read(response.parameters), parameters.read(replay.parameters)
        assert told.pop("setpoint_replayed") is False
        assert repeated.pop("setpoint_replayed") is True
        assert told == repeated
        code, error = await refused(router, KEYED, given=given)
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert error.reason is errors.Reason.REQUEST_ID_REUSED
    assert len(await recorded(router, 21)) == 21


async def test_infer_asks_ensembles(router: Any) -> None:
    """Proves that an ensemble is version 0 of its route, alone and in batches, and names its members."""
    members = [route_pb2.EnsembleMember(version=version) for version in (1, 2)]
    ensemble = route_pb2.Ensemble(members=members, combination=route_pb2.COMBINATION_MEAN)
    await router.create("both", weights={}, ensemble=ensemble)
    many = {name: np.repeat(each, 20, axis=0) for name, each in GIVEN.items()}
    for inputs, rows in ((GIVEN, 1), (many, 20)):
        found, response = await infer(router, inputs, model_name="both", model_version="0")
        assert found == {"score": [[1.5e6 + 10.5]] * rows}
        assert response.model_version == "0"
        told = parameters.read(response.parameters)
        assert told.get("setpoint_versions") == ("1,2" if rows == 1 else None)
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(router.to_router)
    described = await stub.ModelMetadata(pb.ModelMetadataRequest(name="both", version="0"))
    assert list(described.versions) == ["0"]
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="both"))).ready
    code, _ = await refused(router, GIVEN, model_name="both", model_version="2")
    assert code is grpc.StatusCode.NOT_FOUND


async def test_infer_fails_with_codes_of_triton(router: Any) -> None:
    """Proves that a failed version is UNAVAILABLE or INTERNAL, for one row and for several."""
    few, many = (
        {name: np.repeat(each, n, axis=0) for name, each in GIVEN.items()} for n in (2, 20)
    )
    for error, code in (
        (
            errors.FailedPreconditionError(errors.Reason.INVALID_ARTIFACT, "broken"),
            grpc.StatusCode.UNAVAILABLE,
        ),
        (
            errors.InternalError(errors.Reason.INFERENCE_FAILED, "no"),
            grpc.StatusCode.INTERNAL,
        ),
    ):
        router.peers.inference.run.error = error
        for inputs in (GIVEN, few, many):
            found, _ = await refused(router, inputs)
            assert found is code


async def test_metadata_and_readiness(router: Any) -> None:
    """Proves that a route is described by what its versions have in common."""
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(router.to_router)
    found = await stub.ModelMetadata(pb.ModelMetadataRequest(name="flights"))
    assert [(each.name, each.datatype, list(each.shape)) for each in found.inputs] == [
        ("numbers", "FP32", [-1, 3]),
        ("origin", "BYTES", [-1, 1]),
    ]
    assert [(each.name, each.datatype) for each in found.outputs] == [("score", "FP64")]
    assert (found.platform, list(found.versions)) == ("setpoint_router", ["1"])
    assert not found.properties, "other stubs read another type from it"
    for name, version, is_ready in (
        ("flights", "", True),
        ("flights", "1", True),
        ("flights", "2", False),
        ("none", "", False),
    ):
        answer = await stub.ModelReady(pb.ModelReadyRequest(name=name, version=version))
        assert answer.ready is is_ready
    await router.peers.server.stop(0)
    async with asyncio.timeout(20):
        while (await stub.ModelReady(pb.ModelReadyRequest(name="flights"))).ready:
            await asyncio.sleep(0.01)
    server = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (server.name, list(server.extensions)) == ("setpoint-router", [])
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RepositoryIndex(pb.RepositoryIndexRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_refusals_at_the_door_are_made_once() -> None:
    """Proves that a full router refuses with a code of Triton's, without making an error each time."""
    full = errors.ResourceExhaustedError(errors.Reason.OVERLOADED, "full", retry_after_seconds=0.1)
    predictions: Any = SimpleNamespace(turned_away=lambda _: full)
    unused: Any = None
    made = oip_servicer.OipServicer(
        unused, predictions, unused, unused, oip_servicer.Readiness(unused, unused)
    )
    refusal = made.turned_away()
    assert isinstance(refusal, errors.UnavailableError)
    assert refusal.retry_after_seconds == 0.1
    assert made.turned_away() is refusal
    predictions.turned_away = lambda _: None
    assert made.turned_away() is None


async def test_infer_with_a_null_that_has_no_form(router: Any) -> None:
    """Proves that a null in a whole number is told by name, of one row and of many; others are answered."""
    await router.create("ranks", weights={testing.RANKING: 10_000})
    numbers = np.array([[0.5, 2, -1], [0.5, 2, 7]], "f4")
    for count in (1, 10):
        inputs = {
            "numbers": np.repeat(numbers, count, axis=0),
            "origin": np.repeat(ORIGIN, 2 * count),
        }
        code, error = await refused(router, inputs, model_name="ranks")
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert error.metadata["field"] == 'outputs["rank"][0]'
        found, _ = await infer(router, inputs, ("score",), model_name="ranks")
        assert len(found["score"]) == 2 * count
        fine = {name: each[count:] for name, each in inputs.items()}
        found, _ = await infer(router, fine, ("rank",), model_name="ranks")
        assert found["rank"] == [[7]] * count


@pytest.mark.parametrize("dtype", list(DataType))
def test_null_of_any_type(dtype: DataType) -> None:
    """Proves that a null is NaN in floats, and in no other type silently something else."""
    value = {DataType.BOOL: True, DataType.STRING: "a"}.get(dtype, 1)
    if dtype in FLOATS:
        assert np.isnan(oip._array("y", [value, None], dtype)).tolist() == [False, True]
        return
    with pytest.raises(errors.UnimplementedError, match=r'outputs\["y"\]\[1\]: is null'):
        oip._array("y", [value, None], dtype)


async def until_full(router: Any, calls: int) -> None:
    """Wait until so many calls are on their way and the router refuses before it reads."""
    labels = {"service": "inference.GRPCInferenceService", "method": "ModelInfer"}
    name = "setpoint_rpc_server_in_flight"
    async with asyncio.timeout(20):
        # A call that is about to begin takes a place from those behind it.
        while router.server.metrics_registry.get_sample_value(name, labels) != calls:
            await asyncio.sleep(0.005)
    stub: Any = router.to_router.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    async def turned_away() -> bool:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(b"\xff no message at all", timeout=20)
        return bool(caught.value.code() is grpc.StatusCode.UNAVAILABLE)

    async with asyncio.timeout(20):
        while not await turned_away():
            await asyncio.sleep(0.005)


async def test_infer_is_turned_away_whole(
    start_router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that a full router refuses before it reads, and lets the rows of a request in together."""
    async with start_router(waiting_predictions=4, calls_at_once=1) as router:
        await router.create()
        gate = router.peers.inference.gates.setdefault(1, asyncio.Event())
        three = {name: np.repeat(each, 3, axis=0) for name, each in GIVEN.items()}
        first = asyncio.create_task(infer(router, three))
        async with asyncio.timeout(20):
            while router.peers.inference.asked[1] < 3:
                await asyncio.sleep(0.005)
        # One place is left, and three rows come together.
        second = asyncio.create_task(infer(router, three))
        await until_full(router, 2)
        gate.set()
        for found, _ in (await first, await second):
            assert found == {"score": [[1e6 + 10.5]] * 3}


def served(version: int, name: str, dtype: DataType, *columns: str) -> ServedVersion:
    """Describe a version with one tensor in and one out."""
    return ServedVersion(
        version=version,
        inputs=tuple(Field(each, DataType.FLOAT32) for each in columns),
        outputs=(Field("p", dtype), Field(f"only {version}", dtype)),
        input_tensors=(ServedTensor(name, columns),),
    )


def test_versions_that_differ_have_columns_in_common() -> None:
    """Proves that tensors are advertised only where all versions have them, outputs likewise."""
    one = served(1, "X", DataType.FLOAT32, "a", "b")
    assert oip.sides([one, one]).inputs.specs == (Held("X", DataType.FLOAT32, ("a", "b")),)
    other = served(2, "X", DataType.FLOAT64, "a", "c")
    both = oip.sides([one, other])
    assert [each.name for each in both.inputs.specs] == ["a", "b", "c"]
    assert both.outputs.specs == (Held("p", DataType.FLOAT64, ("p",)),)


async def test_parameters_never_reach_a_mate(start_router: Any) -> None:
    """Proves that of requests which share a call each has its own key, time, id and outputs, and no other's
    (MLServer merges parameters of a batch, and the last request wins).
    """
    async with start_router(waiting_predictions=9, calls_at_once=1) as router:
        await router.create()
        inference = router.peers.inference
        gate = inference.gates.setdefault(1, asyncio.Event())
        first = asyncio.create_task(infer(router, GIVEN))
        async with asyncio.timeout(20):
            while not inference.asked[1]:
                await asyncio.sleep(0.005)
        asked = [
            {
                "setpoint_assignment_key": f"key {at}",
                "setpoint_event_time": 1_000_000 + at,
                "x_own": f"mine {at}",
            }
            if at % 2
            else {}
            for at in range(8)
        ]
        wanted = [("score", "setpoint_slot") if at % 3 else ("score",) for at in range(8)]
        mates = [
            asyncio.create_task(
                infer(
                    router,
                    GIVEN | {"numbers": np.array([[0.5, 2, at]], "f4")},
                    names,
                    given=given,
                    id=f"id {at}",
                )
            )
            for at, (given, names) in enumerate(zip(asked, wanted, strict=True))
        ]
        await until_full(router, 9)
        gate.set()
        await first
        for at, (outputs, message) in enumerate(await asyncio.gather(*mates)):
            assert tuple(outputs) == wanted[at]
            assert outputs["score"] == [[1e6 + 2.5 + at]]
            assert message.id == f"id {at}"
            assert not any("mine" in str(each) for each in message.parameters.values())
            told = parameters.read(message.parameters)
            await recorded(router, 9)
            row = router.peers.ingest.row(told["setpoint_prediction_id"])
            assert row["request_id"] == f"id {at}"
            if at % 2:
                assert (row["assignment_key"], row["event_time"]) == (f"key {at}", 1_000_000 + at)
                assert told["setpoint_slot"] == assignment.slot_of("flights", f"key {at}")
            else:
                assert row["assignment_key"] == row["prediction_id"]
                assert row["event_time"] == row["arrival_time"]
    assert inference.run.calls < 9
