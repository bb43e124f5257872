import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from onnx import TensorProto

from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import testing as artifacts
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_inference.testing import FakeRegistry, Inference, answered, floats, predict_request
from setpoint_rpc import channel
from setpoint_runtime import errors

X = ("X", DataType.FLOAT32, ("a", "b"))
SCORE = ("score", DataType.FLOAT32, ("score",))
FOR_EVER = 1e15
ROW = floats({"a": [1.0], "b": [2.0]})


def add_linear(registry: FakeRegistry, version: int = 1, bias: float = 0.5) -> None:
    """Register `score = a + 2 b + bias`."""
    registry.add("linear", version, artifacts.linear(bias=bias), [X], [SCORE])


def add_counting(registry: FakeRegistry, warm_up: float = 0.0) -> None:
    """Register a model that counts to its input; warmed up by counting so far."""
    spec = [("X", DataType.FLOAT32, ("a",))]
    profile = model_pb2.FeatureProfile(column="a", edges=[warm_up])
    registry.add("counting", 1, artifacts.counting(), spec, [SCORE], [profile])


def counting_request(turns: float) -> pb.PredictRequest:
    return predict_request("counting", 1, floats({"a": [turns]}))


async def failing(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


async def test_predict_loads_on_demand(inference: Inference) -> None:
    """The first call loads the version; the answer has the manifest's columns."""
    add_linear(inference.registry)
    response = await inference.stub.Predict(predict_request("linear", 1, ROW), timeout=10)
    assert answered(response).to_rows() == [{"score": 5.5}]
    assert (response.model_version.model, response.model_version.version) == ("linear", 1)
    assert response.run_microseconds > 0
    assert inference.registry.downloads == 1


async def test_predict_many_rows(inference: Inference) -> None:
    """Ten thousand rows come back in order."""
    add_linear(inference.registry)
    values = np.arange(10_000.0)
    got = await inference.predict("linear", 1, floats({"a": values, "b": values / 4}))
    expected = (values + values / 2 + 0.5).astype(np.float32)
    np.testing.assert_allclose(got["score"].values, expected, rtol=1e-6)


async def test_predict_no_rows(inference: Inference) -> None:
    """No rows in, no rows out, but the columns are there."""
    add_linear(inference.registry)
    got = await inference.predict(
        "linear", 1, Columns.empty({"a": DataType.FLOAT64, "b": DataType.FLOAT64})
    )
    assert (got.rows, got.schema) == (0, {"score": DataType.FLOAT32})


async def test_predict_ignores_other_columns(inference: Inference) -> None:
    """Columns that the model does not need may be there, in any order."""
    add_linear(inference.registry)
    columns = Columns.from_dict(
        {
            "b": (DataType.FLOAT64, [2.0]),
            "carrier": (DataType.STRING, ["AA"]),
            "a": (DataType.FLOAT64, [1.0]),
        }
    )
    assert (await inference.predict("linear", 1, columns)).to_rows() == [{"score": 5.5}]


async def test_predict_nulls_are_nan(inference: Inference) -> None:
    """A null in a float input is NaN to the model."""
    add_linear(inference.registry)
    columns = Columns.from_dict(
        {"a": (DataType.FLOAT64, [1.0, None]), "b": (DataType.INT64, [2, 2])}
    )
    got = (await inference.predict("linear", 1, columns))["score"].values
    assert got[0] == 5.5
    assert np.isnan(got[1])


async def test_predict_missing_columns(inference: Inference) -> None:
    """Every missing column is named."""
    add_linear(inference.registry)
    request = predict_request("linear", 1, floats({"c": [1.0]}))
    code, error = await failing(inference.stub.Predict(request, timeout=10))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == errors.Reason.MISSING_FIELD
    assert [each.field for each in error.violations] == ["inputs.a", "inputs.b"]


async def test_predict_wrong_type(inference: Inference) -> None:
    """Text where a number is wanted is refused by name."""
    add_linear(inference.registry)
    columns = Columns.from_dict({"a": (DataType.STRING, ["1"]), "b": (DataType.FLOAT64, [2.0])})
    request = predict_request("linear", 1, columns)
    code, error = await failing(inference.stub.Predict(request, timeout=10))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == errors.Reason.WRONG_TYPE
    assert error.violations[0].field == "inputs.a"


async def test_predict_null_in_integers(inference: Inference) -> None:
    """A null where the model takes integers is refused, with column and row."""
    data = artifacts.identity(TensorProto.INT64)
    inference.registry.add(
        "whole", 1, data, [("X", DataType.INT64, ("n",))], [("Y", DataType.INT64, ("n",))]
    )
    columns = Columns.from_dict({"n": (DataType.INT64, [1, None])})
    code, error = await failing(
        inference.stub.Predict(predict_request("whole", 1, columns), timeout=10)
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == errors.Reason.NULL_REFUSED
    assert error.violations[0].field == "inputs.n[1]"


async def test_predict_malformed_batch(inference: Inference) -> None:
    """A buffer of the wrong length is refused by its path."""
    add_linear(inference.registry)
    request = predict_request("linear", 1, ROW)
    request.inputs.columns[1].values = b"123"
    code, error = await failing(inference.stub.Predict(request, timeout=10))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == errors.Reason.MALFORMED_COLUMNS
    assert error.violations[0].field == "inputs.columns[1].values"


@pytest.mark.parametrize(
    ("model", "version", "field"),
    [
        ("", 1, "model_version.model"),
        ("a/b", 1, "model_version.model"),
        ("a", 0, "model_version.version"),
    ],
)
async def test_predict_bad_reference(
    inference: Inference, model: str, version: int, field: str
) -> None:
    """A reference that can name nothing is refused before anybody is asked."""
    request = predict_request(model, version, ROW)
    code, error = await failing(inference.stub.Predict(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.violations[0].field == field
    assert inference.registry.lookups == 0


async def test_predict_unknown_version(inference: Inference) -> None:
    """A version that the registry does not have is not found, and not remembered."""
    code, error = await failing(inference.stub.Predict(predict_request("none", 1, ROW)))
    assert code == grpc.StatusCode.NOT_FOUND
    assert error.reason == errors.Reason.MODEL_VERSION_NOT_FOUND
    assert await inference.listed() == []


async def test_predict_two_versions_at_once(inference: Inference) -> None:
    """Two versions answer side by side, each with its own result."""
    add_linear(inference.registry, 1, bias=0.0)
    add_linear(inference.registry, 2, bias=100.0)
    got = await asyncio.gather(*(inference.predict("linear", 1 + i % 2, ROW) for i in range(40)))
    scores = [columns["score"].item(0) for columns in got]
    assert scores == [5.0, 105.0] * 20
    assert inference.registry.downloads == 2


async def test_predict_each_caller_own_rows(inference: Inference) -> None:
    """Callers at the same time get their own rows back, inline and from the pool."""
    add_linear(inference.registry)

    async def call(number: int) -> None:
        rows = 1 if number % 2 else 3_000
        values = np.full(rows, float(number))
        got = await inference.predict("linear", 1, floats({"a": values, "b": values}))
        np.testing.assert_array_equal(got["score"].values, np.float32(3 * number + 0.5))

    await asyncio.gather(*(call(number) for number in range(60)))


async def test_predict_expired_deadline(inference: Inference) -> None:
    """A call whose time is over is not begun."""
    add_linear(inference.registry)
    await inference.load("linear", 1)
    request = predict_request("linear", 1, ROW)
    code, _ = await failing(inference.stub.Predict(request, timeout=0.001))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_predict_refuses_what_cannot_finish(inference: Inference) -> None:
    """A call that will take longer than its deadline is refused at once, not at its end."""
    add_counting(inference.registry, warm_up=400_000)
    await inference.load("counting", 1)
    async with asyncio.timeout(20):
        # On a machine that pauses, time may be over before the server has said so.
        message = ""
        while "are left" not in message:
            call = inference.stub.Predict(counting_request(FOR_EVER), timeout=0.3)
            code, error = await failing(call)
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert error.reason == errors.Reason.DEADLINE_EXCEEDED
            message = error.message


async def test_predict_cancelled_run_stops(start: Any) -> None:
    """A call whose caller goes away, or whose time is over, stops running and frees its thread."""
    async with start(threads=1) as inference:
        add_counting(inference.registry)
        await inference.load("counting", 1)
        call = asyncio.ensure_future(inference.stub.Predict(counting_request(FOR_EVER), timeout=60))
        await inference.until_taken(1)
        call.cancel()
        late = inference.stub.Predict(counting_request(FOR_EVER), timeout=0.5)
        code, _ = await failing(late)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert answered(await inference.stub.Predict(counting_request(10), timeout=10)).rows == 1


async def test_predict_overloaded(start: Any) -> None:
    """More calls than places are refused quickly, with the time to come back."""
    async with start(threads=1, max_queued=2) as inference:
        add_counting(inference.registry)
        await inference.load("counting", 1)
        held = [
            asyncio.ensure_future(inference.stub.Predict(counting_request(FOR_EVER), timeout=60))
            for _ in range(3)
        ]
        await inference.until_taken(3)
        for _ in range(5):
            code, error = await failing(inference.stub.Predict(counting_request(1), timeout=20))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.reason == errors.Reason.OVERLOADED
            assert error.retry_after_seconds is not None
        for call in held:
            call.cancel()
        await inference.until_taken(0)
        assert answered(await inference.stub.Predict(counting_request(1), timeout=20)).rows == 1


async def test_predict_small_calls_pass_slow_ones(start: Any) -> None:
    """While every thread is busy, small calls are still answered."""
    async with start(threads=1) as inference:
        add_counting(inference.registry)
        add_linear(inference.registry)
        await inference.load("counting", 1)
        await inference.load("linear", 1)
        slow = asyncio.ensure_future(inference.stub.Predict(counting_request(FOR_EVER), timeout=60))
        await inference.until_taken(1)
        for _ in range(20):
            await inference.predict("linear", 1, ROW)
        assert not slow.done()
        slow.cancel()


async def test_list_models(inference: Inference) -> None:
    """The list tells the truth about each version, with its fields."""
    add_linear(inference.registry)
    bad = inference.registry.add("bad", 1, b"no model", [X], [SCORE])
    await inference.load("linear", 1)
    await failing(inference.load("bad", 1))
    failed, ready = await inference.listed()
    assert (failed.model_version.model, failed.state) == ("bad", pb.LOAD_STATE_FAILED)
    assert "INVALID_ARTIFACT" in failed.error
    assert failed.artifact_digest == bad.manifest.artifact_digest
    assert (ready.state, ready.error) == (pb.LOAD_STATE_READY, "")
    assert [each.name for each in ready.inputs] == ["a", "b"]
    assert [each.name for each in ready.outputs] == ["score"]
    assert ready.ready_time > 0


async def test_list_models_pages(inference: Inference) -> None:
    """Pages hold every version once."""
    for version in (1, 2, 10):
        add_linear(inference.registry, version)
        await inference.load("linear", version)
    found: list[int] = []
    token = ""
    while not found or token:
        request = pb.ListLoadedModelsRequest(page_size=2, page_token=token)
        answer = await inference.stub.ListLoadedModels(request)
        found += [each.model_version.version for each in answer.models]
        token = answer.next_page_token
    assert found == [1, 2, 10]
