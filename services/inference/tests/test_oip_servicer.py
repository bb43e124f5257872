"""The Open Inference Protocol on inference, over the wire."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from onnx import TensorProto

from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_columns.dtypes import DataType
from setpoint_inference.testing import FakeRegistry, Inference, floats
from setpoint_oip import parameters, tensors
from setpoint_oip.conformance import suite
from setpoint_oip.conformance.subject import Subject
from setpoint_oip.datatypes import DATATYPES, AnyArray
from setpoint_oip.protocol import open_inference_pb2 as pb
from setpoint_oip.protocol import open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor
from setpoint_rpc import channel
from setpoint_runtime import errors

SCORE = ("score", DataType.FLOAT32, ("score",))
Stub = Any


def add_linear(registry: FakeRegistry, version: int = 1, bias: float = 0.5) -> None:
    """Register `score = a + 2 b + bias`."""
    x = ("X", DataType.FLOAT32, ("a", "b"))
    registry.add("linear", version, artifacts.linear(bias=bias), [x], [SCORE])


def add_same(registry: FakeRegistry, name: str, element: int, dtype: DataType) -> None:
    """Register a model that answers what it gets, in two columns of a type."""
    data = artifacts.identity(element, width=2)
    registry.add(name, 1, data, [("X", dtype, ("a", "b"))], [("Y", dtype, ("c", "d"))])


def stub_of(inference: Inference) -> Stub:
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(inference.channel)


@pytest.fixture
def stub(inference: Inference) -> Stub:
    """Inference with two versions of `linear` in the registry."""
    add_linear(inference.registry)
    add_linear(inference.registry, 2, bias=1.5)
    return stub_of(inference)


def question(
    inputs: dict[str, AnyArray],
    model: str = "linear",
    version: str = "1",
    *,
    is_raw: bool = True,
    outputs: tuple[str, ...] = (),
    **fields: Any,
) -> pb.ModelInferRequest:
    """Ask for an answer to arrays, sent as what they are."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, **fields)
    given = [Tensor(name, datatype_of(each), each) for name, each in inputs.items()]
    tensors.fill_request(request, given, is_raw=is_raw)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def datatype_of(array: AnyArray) -> Any:
    kinds = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP", "O": "BYTES"}
    name = kinds[array.dtype.kind]
    return DATATYPES[name if name in DATATYPES else f"{name}{array.dtype.itemsize * 8}"]


async def answer(stub: Stub, request: pb.ModelInferRequest) -> dict[str, AnyArray]:
    """Return the outputs of an answer."""
    response = await stub.ModelInfer(request, timeout=10)
    return {each.name: each.array for each in tensors.of_response(response)}


async def failing(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


MATRIX = {"X": np.array([[1, 2], [3, 4]], "f4")}
FORMS = {
    "matrix": MATRIX,
    "columns": {"b": np.array([2, 4], "f4"), "a": np.array([1, 3], "f4")},
    "columns of one": {"a": np.array([[1], [3]], "f4"), "b": np.array([[2], [4]], "f4")},
    "wider": {"X": np.array([[1, 2], [3, 4]], "f8")},
    "narrower": {"a": np.array([1, 3], "i1"), "b": np.array([2, 4], "u2")},
    "half": {"X": np.array([[1, 2], [3, 4]], "f2")},
}


@pytest.mark.parametrize("is_raw", [True, False])
async def test_infer_understands_every_form(stub: Stub, is_raw: bool) -> None:
    """Proves that matrix and columns, in any datatype that holds the values, mean the same."""
    # There are no typed contents for FP16.
    for form in FORMS if is_raw else FORMS.keys() - {"half"}:
        request = question(FORMS[form], is_raw=is_raw, id="mine")
        response = await stub.ModelInfer(request, timeout=10)
        assert (response.model_name, response.model_version, response.id) == ("linear", "1", "mine")
        assert bool(response.raw_output_contents) is is_raw
        [output] = tensors.of_response(response)
        assert (output.name, output.datatype.name) == ("score", "FP32")
        assert output.array.tolist() == [[5.5], [11.5]], form


@pytest.mark.parametrize(
    ("element", "dtype", "array"),
    [
        (TensorProto.BOOL, DataType.BOOL, np.array([[True, False]])),
        (TensorProto.INT32, DataType.INT32, np.array([[-(2**31), 7]], "i4")),
        (TensorProto.INT64, DataType.INT64, np.array([[-(2**63), 7]], "i8")),
        (TensorProto.INT64, DataType.TIMESTAMP, np.array([[0, 1_357_034_400_000_000]], "i8")),
        (TensorProto.FLOAT, DataType.FLOAT32, np.array([[np.nan, -np.inf]], "f4")),
        (TensorProto.DOUBLE, DataType.FLOAT64, np.array([[0.1, 1e300]], "f8")),
        (TensorProto.STRING, DataType.STRING, np.array([["Zoë".encode(), b""]], object)),
    ],
)
@pytest.mark.parametrize("is_raw", [True, False])
async def test_infer_keeps_every_type(
    inference: Inference, element: int, dtype: DataType, array: AnyArray, is_raw: bool
) -> None:
    """Proves that values of every type of a model come through to the bit, raw and typed."""
    add_same(inference.registry, "same", element, dtype)
    request = question({"X": array}, "same", is_raw=is_raw)
    found = await answer(stub_of(inference), request)
    assert found["Y"].dtype == array.dtype
    np.testing.assert_array_equal(found["Y"], array)


async def test_infer_equals_predict(inference: Inference, stub: Stub) -> None:
    """Proves that both contracts give the same bits for a thousand rows."""
    values = np.random.default_rng(0).normal(size=(1_000, 2)).astype("f4")
    found = await answer(stub, question({"X": values}))
    columns = floats({"a": values[:, 0], "b": values[:, 1]})
    expected = await inference.predict("linear", 1, columns)
    np.testing.assert_array_equal(found["score"][:, 0], expected["score"].values)


async def test_infer_no_rows(stub: Stub) -> None:
    """Proves that no rows are a question too."""
    found = await answer(stub, question({"X": np.empty((0, 2), "f4")}))
    assert found["score"].shape == (0, 1)


async def test_inference_conforms(inference: Inference, stub: Stub) -> None:
    """Proves that the conformance suite finds nothing, with numbers and with text."""
    add_same(inference.registry, "texts", TensorProto.STRING, DataType.STRING)
    for model in ("linear", "texts"):
        load = pb.RepositoryModelLoadRequest(model_name=f"{model}/1")
        await stub.RepositoryModelLoad(load, timeout=10)
        results = await suite.run(Subject(inference.channel, model))
        assert suite.is_conformant(results, is_strict=True), suite.found(results)


async def test_infer_without_version_takes_the_newest_ready(stub: Stub) -> None:
    """Proves that the newest version that is ready answers, and is named."""
    code, error = await failing(stub.ModelInfer(question(MATRIX, version=""), timeout=10))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, errors.Reason.MODEL_NOT_FOUND)
    for version in ("2", "1"):
        await stub.ModelInfer(question(MATRIX, version=version), timeout=10)
        response = await stub.ModelInfer(question(MATRIX, version=""), timeout=10)
        assert response.model_version == "2"
        assert tensors.of_response(response)[0].array.tolist() == [[6.5], [12.5]]


async def test_infer_gives_the_outputs_that_each_caller_asks_for(inference: Inference) -> None:
    """Proves that requested outputs hold per caller, tensors and columns alike, in its order."""
    add_same(inference.registry, "same", TensorProto.FLOAT, DataType.FLOAT32)
    stub, rows = stub_of(inference), {"X": np.array([[1, 2]], "f4")}
    asked = [(), ("d",), ("c", "Y"), ("Y",), ("d", "c")]
    found = await asyncio.gather(
        *(answer(stub, question(rows, "same", outputs=names)) for names in asked * 5)
    )
    for names, outputs in zip(asked * 5, found, strict=True):
        assert tuple(outputs) == (names or ("Y",))
        held = {"Y": [[1.0, 2.0]], "c": [[1.0]], "d": [[2.0]]}
        assert all(outputs[name].tolist() == held[name] for name in outputs)


async def test_parallel_callers_get_their_own_rows(stub: Stub) -> None:
    """Proves that many callers at once each get exactly their own rows and id."""

    async def ask(number: int) -> None:
        rows = np.full((number % 7 + 1, 2), number, "f4")
        response = await stub.ModelInfer(question({"X": rows}, id=f"caller {number}"), timeout=20)
        assert response.id == f"caller {number}"
        [output] = tensors.of_response(response)
        assert output.array.tolist() == [[number * 3 + 0.5]] * len(rows)

    await asyncio.gather(*(ask(number) for number in range(60)))


def spoiled(change: Callable[[pb.ModelInferRequest], None], **fields: Any) -> pb.ModelInferRequest:
    request = question(MATRIX, **fields)
    change(request)
    return request


def one_byte_less(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


REFUSED: list[tuple[pb.ModelInferRequest, str, str]] = [
    (spoiled(one_byte_less), "MALFORMED_COLUMNS", "'15 bytes' must be 16"),
    (
        spoiled(lambda request: request.inputs[0].contents.fp32_contents.append(1)),
        "MALFORMED_COLUMNS",
        "contents: 'fp32_contents' must be empty",
    ),
    (
        question({"a": np.ones(2, "f4"), "b": np.ones(3, "f4")}),
        "MALFORMED_COLUMNS",
        'inputs["b"].shape: [3] must have 2 rows',
    ),
    (question({"X": np.ones((2, 3), "f4")}), "MALFORMED_COLUMNS", "[2, 3] must be [rows, 2]"),
    (question({"Z": np.ones(2, "f4")}), "UNKNOWN_FIELD", "'Z' is not known"),
    (question({"a": np.ones(2, "f4")}), "MISSING_FIELD", "the model needs 'b'"),
    (
        question({"X": np.array([[b"1", b"2"]], object)}),
        "WRONG_TYPE",
        "inputs.a: 'STRING' must be FLOAT32",
    ),
    (question({"X": np.array([[1e300, 1]], "f8")}), "WRONG_TYPE", "1e+300"),
    (question(MATRIX, outputs=("probability",)), "UNKNOWN_FIELD", "'probability' is not known"),
    (spoiled(lambda request: request.ClearField("inputs")), "MISSING_FIELD", "must hold"),
    (question(MATRIX, version="one"), "INVALID_FIELD", "'one' must be a whole number"),
    (
        spoiled(
            lambda request: parameters.fill(request.parameters, {"setpoint_assignment_key": ""})
        ),
        "UNKNOWN_FIELD",
        "'setpoint_assignment_key' is not known",
    ),
]


async def test_infer_refuses_by_name(stub: Stub) -> None:
    """Proves that what is wrong is INVALID_ARGUMENT with tensor, value, rule and reason."""
    for request, reason, said in REFUSED:
        code, error = await failing(stub.ModelInfer(request, timeout=10))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, error
        assert error.reason == errors.Reason(reason), error
        assert said in error.message


async def test_infer_refuses_what_it_would_have_to_answer_otherwise(stub: Stub) -> None:
    """Proves that a wish of another server's extension is UNIMPLEMENTED, not ignored."""
    request = question(MATRIX, outputs=("score",))
    request.outputs[0].parameters["classification"].int64_param = 1
    code, _ = await failing(stub.ModelInfer(request, timeout=10))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_infer_leaves_parameters_of_others_alone(stub: Stub) -> None:
    """Proves that parameters without our prefix do no harm."""
    request = question(MATRIX)
    parameters.fill(request.parameters, {"priority": 1, "content_type": "np"})
    request.inputs[0].parameters["content_type"].string_param = "np"
    assert (await answer(stub, request))["score"].tolist() == [[5.5], [11.5]]


async def test_infer_uses_the_declared_missing_values(inference: Inference) -> None:
    """Proves that NaN in a matrix is replaced as the manifest says."""
    rule = model_pb2.MissingValue(column="a")
    rule.substitute.double_value = 10
    x = ("X", DataType.FLOAT32, ("a", "b"))
    inference.registry.add("linear", 1, artifacts.linear(bias=0.5), [x], [SCORE], missing=[rule])
    found = await answer(stub_of(inference), question({"X": np.array([[np.nan, 1]], "f4")}))
    assert found["score"].tolist() == [[12.5]]


async def test_errors_have_the_codes_of_triton(inference: Inference, stub: Stub) -> None:
    """Proves that a version that is refused or unknown is UNAVAILABLE or NOT_FOUND."""
    code, error = await failing(stub.ModelInfer(question(MATRIX, version="9"), timeout=10))
    assert code is grpc.StatusCode.NOT_FOUND
    assert error.reason is errors.Reason.MODEL_VERSION_NOT_FOUND
    rejected = inference.registry.versions["linear", 2]
    rejected.approval_state = model_pb2.APPROVAL_STATE_REJECTED
    code, error = await failing(stub.ModelInfer(question(MATRIX, version="2"), timeout=10))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert error.reason is errors.Reason.NOT_APPROVED


async def test_metadata_describes_server_and_model(stub: Stub) -> None:
    """Proves that names, versions and tensors are told, and field 6 is left empty."""
    server = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (server.name, list(server.extensions)) == ("setpoint-inference", ["model_repository"])
    assert server.version
    request = pb.ModelMetadataRequest(name="linear", version="1")
    found = await stub.ModelMetadata(request, timeout=10)
    assert (found.name, list(found.versions), found.platform) == (
        "linear",
        ["1"],
        "onnxruntime_onnx",
    )
    [x], [score] = found.inputs, found.outputs
    assert (x.name, x.datatype, list(x.shape)) == ("X", "FP32", [-1, 2])
    assert (score.name, score.datatype, list(score.shape)) == ("score", "FP32", [-1, 1])
    assert not found.properties, "other stubs read another type from it"
    code, _ = await failing(stub.ModelMetadata(pb.ModelMetadataRequest(name="none")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_readiness_is_that_of_the_version(stub: Stub) -> None:
    """Proves that a version is ready once it is loaded, and an unknown model never."""

    async def is_ready(name: str, version: str) -> bool:
        answered = await stub.ModelReady(pb.ModelReadyRequest(name=name, version=version))
        return bool(answered.ready)

    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert not await is_ready("linear", "")
    await stub.ModelInfer(question(MATRIX), timeout=10)
    assert await is_ready("linear", "")
    assert await is_ready("linear", "1")
    assert not await is_ready("linear", "2")
    assert not await is_ready("none", "1")


async def test_repository_loads_lists_and_unloads(inference: Inference, stub: Stub) -> None:
    """Proves that the repository extension moves versions in and out, and tells the truth."""

    async def listed(**fields: Any) -> list[tuple[str, str, str]]:
        index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(**fields))
        return [(each.name, each.version, each.state) for each in index.models]

    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="linear/1"), timeout=10)
    second = pb.RepositoryModelLoadRequest(model_name="linear")
    second.parameters["setpoint_version"].int64_param = 2
    await stub.RepositoryModelLoad(second, timeout=10)
    inference.registry.versions["linear", 3] = model_pb2.ModelVersion(model="linear", version=3)
    third = pb.RepositoryModelLoadRequest(model_name="linear/3")
    code, _ = await failing(stub.RepositoryModelLoad(third, timeout=10))
    assert code is grpc.StatusCode.UNAVAILABLE
    ready = [("linear", "1", "READY"), ("linear", "2", "READY")]
    assert await listed() == [*ready, ("linear", "3", "UNAVAILABLE")]
    assert await listed(ready=True) == ready
    unload = stub.RepositoryModelUnload
    await unload(pb.RepositoryModelUnloadRequest(model_name="linear/1"), timeout=10)
    assert await listed(ready=True) == ready[1:]
    await unload(pb.RepositoryModelUnloadRequest(model_name="linear"), timeout=10)
    assert await listed(ready=True) == []
    code, _ = await failing(unload(pb.RepositoryModelUnloadRequest(model_name="linear")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_repository_takes_no_model_from_callers(stub: Stub) -> None:
    """Proves that models come from the registry alone, and from one repository."""
    sent = pb.RepositoryModelLoadRequest(model_name="linear")
    sent.parameters["file:1/model.onnx"].bytes_param = b"onnx"
    named = pb.RepositoryModelLoadRequest(model_name="linear", repository_name="mine")
    for request in (sent, named):
        code, _ = await failing(stub.RepositoryModelLoad(request))
        assert code is grpc.StatusCode.UNIMPLEMENTED
    doubled = pb.RepositoryModelLoadRequest(model_name="linear/1")
    doubled.parameters["setpoint_version"].int64_param = 1
    code, _ = await failing(stub.RepositoryModelLoad(doubled))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
