"""What a caller brings along: it is recorded, and it holds on every hop."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pydantic
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.protocol import open_inference_pb2, open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor, fill_request
from setpoint_router import config, testing
from setpoint_router.adapters import replicas
from setpoint_runtime import errors, ids

Value = value_pb2.Value
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}
ROWS = Columns.from_dict(
    {
        "share": (DataType.FLOAT64, [0.5, 1.5]),
        "delay": (DataType.FLOAT64, [2.0, 2.0]),
        "hour": (DataType.INT64, [8, 8]),
        "origin": (DataType.STRING, ["JFK", "LGA"]),
    }
)
HEADERS = (("x-request-id", "abc"), ("x-other", "not kept"))


async def row_of(router: Any, prediction_id: str) -> dict[str, Any]:
    """Return what monitoring has of a prediction, once it has it."""
    async with asyncio.timeout(20):
        while prediction_id not in router.peers.ingest.ids:
            await asyncio.sleep(0.005)
    return dict(router.peers.ingest.row(prediction_id))


def headers_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the kept metadata of every row of a record."""
    message = row["record"].headers
    return columns_proto.from_proto(message).to_rows() if message.columns else []


async def test_record_has_the_callers_id_and_headers(start_router: Any) -> None:
    """The caller's own id, and the metadata that the router was told to keep, are in the record."""
    async with start_router(recorded_headers=("x-request-id", "x-tenant")) as router:
        await router.create()
        request_id = ids.uuid7()
        answer = await router.predict(inputs=GIVEN, request_id=request_id, metadata=HEADERS)
        row = await row_of(router, answer.prediction_id)
        assert row["request_id"] == request_id
        assert headers_of(row) == [{"x-request-id": "abc"}]
        plain = await row_of(router, (await router.predict(inputs=GIVEN)).prediction_id)
        assert "request_id" not in plain
        assert headers_of(plain) == []


async def test_record_of_callers_who_share_a_call(start_router: Any) -> None:
    """Of requests that share a record each keeps its own id and headers, and others' none."""
    async with start_router(recorded_headers=("x-request-id",), calls_at_once=1) as router:
        await router.create()
        gate = router.peers.inference.gates.setdefault(1, asyncio.Event())
        first = asyncio.create_task(router.predict(inputs=GIVEN))
        async with asyncio.timeout(20):
            while not router.peers.inference.asked[1]:
                await asyncio.sleep(0.005)
        named = [ids.uuid7() if at % 2 else "" for at in range(6)]
        asks = [
            asyncio.create_task(
                router.predict(
                    inputs=GIVEN,
                    assignment_key=str(at),
                    request_id=name,
                    metadata=(("x-request-id", f"mine {at}"),) if at % 3 else None,
                )
            )
            for at, name in enumerate(named)
        ]
        gate.set()
        await first
        for at, answer in enumerate(await asyncio.gather(*asks)):
            row = await row_of(router, answer.prediction_id)
            assert (row.get("request_id") or "") == named[at]
            listed = columns_proto.from_proto(row["record"].predictions)["prediction_id"].to_list()
            kept = headers_of(row) or [{}] * len(listed)
            found = kept[listed.index(answer.prediction_id)].get("x-request-id")
            assert found == (f"mine {at}" if at % 3 else None)


async def test_record_of_other_protocol_has_the_callers_id(router: Any) -> None:
    """The id of a request of the Open Inference Protocol is the caller's own as well."""
    request = open_inference_pb2.ModelInferRequest(model_name="flights", id="their 1")
    tensors = [
        Tensor("numbers", DATATYPES["FP32"], np.array([[0.5, 2, 8]], "f4")),
        Tensor("origin", DATATYPES["BYTES"], np.array(["JFK"], object)),
    ]
    fill_request(request, tensors, is_raw=True)
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(router.to_router)
    answer = await stub.ModelInfer(request, timeout=20)
    named = answer.parameters["setpoint_prediction_id"].string_param
    assert (await row_of(router, named))["request_id"] == "their 1"


async def test_record_of_batch_has_the_callers_id(start_router: Any) -> None:
    """Each row of a batch is recorded with the id and headers of the call."""
    async with start_router(recorded_headers=("x-request-id",)) as router:
        await router.create()
        request_id = ids.uuid7()
        request = router_service_pb2.PredictBatchRequest(
            route="flights", rows=columns_proto.to_proto(ROWS), request_id=request_id
        )
        answer = await router.stub.PredictBatch(request, timeout=20, metadata=HEADERS)
        for each in columns_proto.from_proto(answer.results)["prediction_id"].to_list():
            row = await row_of(router, each)
            assert row["request_id"] == request_id
            assert headers_of(row) == [{"x-request-id": "abc"}] * 2


@pytest.mark.parametrize("key", ["authorization", "cookie", "x-bin", "X-Upper", "a b", ""])
def test_headers_that_no_record_may_keep(key: str) -> None:
    """Secrets, bytes and what is no key are refused at the start, by name."""
    with pytest.raises(pydantic.ValidationError, match=key or "''"):
        config.RouterSettings(recorded_headers=(key,))


async def test_record_names_the_replica(start_router: Any, peers: testing.Peers) -> None:
    """The record says which replica answered; of a row without an answer none."""
    async with start_router() as router:
        await router.create()
        answer = await router.predict(inputs=GIVEN)
        row = await row_of(router, answer.prediction_id)
        assert row["record"].inference_replica == peers.address
        before = set(peers.ingest.ids)
        with pytest.raises(grpc.aio.AioRpcError):
            await router.predict(inputs=GIVEN | {"hour": Value(string_value="?")})
        async with asyncio.timeout(20):
            while not set(peers.ingest.ids) - before:
                await asyncio.sleep(0.005)
        [failed] = set(peers.ingest.ids) - before
        assert (await row_of(router, failed))["record"].inference_replica == ""


async def test_record_names_each_replica_of_several(
    router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several replicas answered rows of one record each row names its own."""
    predict = replicas.ReplicatedInference.predict
    turns = iter(("a:1", "b:2"))

    halve = errors.InternalError(errors.Reason.INFERENCE_FAILED, "ask for halves")

    def poison(inputs: Columns) -> errors.SetpointError | None:
        return halve if inputs.rows > 1 else None

    async def elsewhere(*args: Any) -> Any:
        return (await predict(*args))._replace(replica=next(turns))

    router.peers.inference.poison = poison
    monkeypatch.setattr(replicas.ReplicatedInference, "predict", elsewhere)
    request = router_service_pb2.PredictBatchRequest(
        route="flights", rows=columns_proto.to_proto(ROWS)
    )
    answer = await router.stub.PredictBatch(request, timeout=20)
    found = columns_proto.from_proto(answer.results)["prediction_id"].to_list()
    told = [await row_of(router, each) for each in found]
    assert [each["inference_replica"] for each in told] == ["a:1", "b:2"]
    assert told[0]["record"].inference_replica == ""


async def test_record_names_the_replicas_of_members(router: Any) -> None:
    """Of an ensemble each member says where it ran."""
    members = [route_pb2.EnsembleMember(version=version) for version in (1, 2)]
    ensemble = route_pb2.Ensemble(members=members, combination=route_pb2.COMBINATION_MEAN)
    await router.create("both", weights={}, ensemble=ensemble)
    answer = await router.predict("both", inputs=GIVEN)
    record = (await row_of(router, answer.prediction_id))["record"]
    assert [each.inference_replica for each in record.members] == [router.peers.address] * 2
    assert record.inference_replica == ""


async def test_deadline_shrinks_on_every_hop(router: Any) -> None:
    """Each service has what is left of the caller's time, less what its caller needs to answer in."""
    await router.predict(timeout=4.0)
    [features], [inference] = (
        router.peers.features.online.seconds,
        router.peers.inference.run.seconds,
    )
    # gRPC rounds a time-out up to what it can write, by some thousandths.
    assert 0 < inference <= features <= 4.05
    assert inference <= 4.05 - 0.02


async def test_deadline_of_the_call_bounds_a_batch(router: Any) -> None:
    """Rows of a batch have the time of its call, on every hop."""
    rows = Columns.from_dict(
        {
            "carrier": (DataType.STRING, ["UA", "B6"]),
            "hour": (DataType.INT64, [8, 9]),
            "origin": (DataType.STRING, ["JFK", "JFK"]),
        }
    )
    request = router_service_pb2.PredictBatchRequest(
        route="flights", rows=columns_proto.to_proto(rows)
    )
    await router.stub.PredictBatch(request, timeout=4.0)
    for each in (router.peers.features.online, router.peers.inference.run):
        assert all(0 < seconds <= 4.05 for seconds in each.seconds)
