"""Spans of predictions, as an OTLP receiver gets them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

import setpoint_telemetry
from setpoint.common.v1 import value_pb2
from setpoint_oip import tensors
from setpoint_oip.datatypes import DATATYPES
from setpoint_oip.protocol import open_inference_pb2, open_inference_pb2_grpc
from setpoint_oip.tensors import Tensor
from setpoint_router.adapters import traces
from setpoint_router.domain import work
from setpoint_telemetry import traces as telemetry_traces

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
GIVEN = {
    "share": value_pb2.Value(double_value=0.5),
    "delay": value_pb2.Value(double_value=2.0),
    "hour": value_pb2.Value(int_value=8),
    "origin": value_pb2.Value(string_value="JFK"),
}
TEXT = value_pb2.Value(string_value="much")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over OTLP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Keep spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    async def of_trace(self, trace_id: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """Returns the spans of a trace once there are enough."""
        found: list[Any] = []

        def are_enough() -> bool:
            found[:] = [each for each in self.spans if each.trace_id.hex() == trace_id]
            return enough(found)

        await until(are_enough)
        return found


async def until(is_so: Callable[[], bool]) -> None:
    """Waits until something has become so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def collector(monkeypatch: pytest.MonkeyPatch, peers: Any) -> AsyncIterator[Collector]:
    """An OTLP receiver, and a process that exports to it while the test lasts."""
    made = Collector()
    server = grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    assert telemetry_traces.start("router", "")
    yield made
    await asyncio.to_thread(setpoint_telemetry.shutdown, 1)
    await server.stop(0)


def attributes(span: Any) -> dict[str, Any]:
    """Returns the attributes of a span."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def named(spans: list[Any], name: str) -> list[Any]:
    """Returns the spans of a name."""
    return [each for each in spans if each.name == name]


async def test_trace_holds_prediction(collector: Collector, router: Any) -> None:
    """Shows that a caller's trace holds the prediction with its facts, and the calls behind it."""
    header = f"00-{TRACE}-{PARENT}-01"
    answer = await router.predict(metadata=(("traceparent", header),))
    spans = await collector.of_trace(TRACE, lambda found: len(found) >= 3)
    (root,) = named(spans, "setpoint.predict")
    assert root.parent_span_id.hex() == PARENT
    facts = attributes(root)
    assert facts["setpoint.prediction_id"] == answer.prediction_id
    assert facts["setpoint.model"] == "delays"
    assert facts["setpoint.model_version"] == 1
    assert facts["setpoint.route_revision"] == 1
    assert facts["setpoint.feature_set"] == "flight"
    assert facts["setpoint.slot"] == answer.assignment.slot
    assert facts["setpoint.feature.share"] == 2.0
    (features,) = named(spans, "setpoint.predict.features")
    (inference,) = named(spans, "setpoint.predict.inference")
    assert features.parent_span_id == inference.parent_span_id == root.span_id
    for behaviour, span in (
        (router.peers.features.online, features),
        (router.peers.inference.run, inference),
    ):
        assert behaviour.traceparents[-1] == f"00-{TRACE}-{span.span_id.hex()}-01"
    await until(lambda: answer.prediction_id in router.peers.ingest.ids)
    row = router.peers.ingest.row(answer.prediction_id)
    assert (row["trace_id"], row["span_id"]) == (TRACE, root.span_id.hex())


async def test_spans_that_cannot_be_built_stop_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Shows that a work whose spans a defect breaks costs its own spans alone, not the process."""
    emitted: asyncio.Queue[Any] = asyncio.Queue()
    works = [work.Work(None, rows, is_given=True) for rows in (1, 2)]  # type: ignore[arg-type]  # no plan
    for each in works:
        each.traces = [None] * each.rows

    def spans(self: traces.SpanBuilder, of: Any) -> list[bytes]:
        if of.work is works[0]:
            raise ZeroDivisionError("a defect")
        return [b"span"] * of.work.rows

    monkeypatch.setattr(setpoint_telemetry, "enabled", lambda: True)
    monkeypatch.setattr(setpoint_telemetry, "emit", lambda built, scope: emitted.put_nowait(built))
    monkeypatch.setattr(traces.SpanBuilder, "_spans", spans)
    builder = traces.SpanBuilder()
    for each in works:
        builder.answered(each)
    building = asyncio.create_task(builder.run())
    async with asyncio.timeout(20):
        assert await emitted.get() == [b"span"] * 2
    assert not building.done()
    building.cancel()
    assert "the spans of 1 predictions could not be built" in caplog.text


async def test_trace_links_shared_call(collector: Collector, router: Any) -> None:
    """Shows that of predictions which share a call each has its own trace, linked to the call."""
    router.peers.inference.run.delay_seconds = 0.02
    await asyncio.gather(*(router.predict(inputs=GIVEN) for _ in range(20)))
    await until(lambda: len(named(collector.spans, "setpoint.predict")) == 20)
    spans = named(collector.spans, "setpoint.predict")
    assert len({each.trace_id for each in spans}) == 20
    calls = {each.span_id: each for each in named(collector.spans, "setpoint.predict.inference")}
    assert len(calls) < 20
    for each in spans:
        inside = [call for call in calls.values() if call.trace_id == each.trace_id]
        linked = [calls[link.span_id] for link in each.links]
        assert len(inside) + len(linked) == 1


async def test_trace_of_tensors_has_a_span_for_each_row(collector: Collector, router: Any) -> None:
    """Shows that rows of the Open Inference Protocol hang below their call, in its caller's trace."""
    request = open_inference_pb2.ModelInferRequest(model_name="flights")
    numbers = Tensor("numbers", DATATYPES["FP32"], np.ones((2, 3), "f4"))
    origins = Tensor("origin", DATATYPES["BYTES"], np.array(["JFK", "EWR"], object))
    tensors.fill_request(request, [numbers, origins])
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(router.to_router)
    header = f"00-{TRACE}-{PARENT}-01"
    answer = await stub.ModelInfer(request, metadata=(("traceparent", header),), timeout=10)
    spans = await collector.of_trace(TRACE, lambda found: len(found) >= 4)
    (call,) = named(spans, "inference.GRPCInferenceService/ModelInfer")
    assert call.parent_span_id.hex() == PARENT
    rows = named(spans, "setpoint.predict")
    assert [each.parent_span_id for each in rows] == [call.span_id] * 2
    told = answer.parameters["setpoint_prediction_id"].string_param.split(",")
    assert {attributes(each)["setpoint.prediction_id"] for each in rows} == set(told)


async def test_trace_tells_what_was_wrong(collector: Collector, router: Any) -> None:
    """Shows that spans of predictions that failed, or that were not as they should be, say so."""
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    router.peers.features.history_views = ("delays",)
    await router.predict(metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError):
        await router.predict(inputs={**GIVEN, "share": TEXT}, metadata=metadata)
    spans = await collector.of_trace(
        TRACE, lambda found: len(named(found, "setpoint.predict")) == 2
    )
    degraded, failed = named(spans, "setpoint.predict")
    assert attributes(degraded)["setpoint.degraded"] == "FEATURES_FROM_HISTORY:delays"
    assert "setpoint.error_reason" not in attributes(degraded)
    assert degraded.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert attributes(failed)["setpoint.error_reason"] == "WRONG_TYPE"
    assert failed.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert "share" in failed.status.message


async def test_trace_honours_not_sampled(collector: Collector, router: Any) -> None:
    """Shows that a caller who does not sample gets no spans, while the record keeps the ids."""
    header = f"00-{TRACE}-{PARENT}-00"
    answer = await router.predict(metadata=(("traceparent", header),))
    other = await router.predict()

    def ids() -> set[Any]:
        return {attributes(each).get("setpoint.prediction_id") for each in collector.spans}

    await until(lambda: other.prediction_id in ids())
    assert answer.prediction_id not in ids()
    await until(lambda: answer.prediction_id in router.peers.ingest.ids)
    assert router.peers.ingest.row(answer.prediction_id)["trace_id"] == TRACE


async def test_trace_hides_sensitive(collector: Collector, router: Any) -> None:
    """Shows that a sensitive feature is in the record, named as such, and in no span."""
    router.peers.features.sensitive = {"share"}
    await router.create("secret")
    answer = await router.predict("secret", metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
    spans = await collector.of_trace(TRACE, lambda found: len(found) >= 3)
    facts = attributes(named(spans, "setpoint.predict")[0])
    assert "setpoint.feature.share" not in facts
    assert facts["setpoint.feature.delay"] == 150.0
    await until(lambda: answer.prediction_id in router.peers.ingest.ids)
    row = router.peers.ingest.row(answer.prediction_id)
    assert list(row["record"].sensitive_inputs) == ["share"]
    assert row["inputs"]["share"] == 2.0


async def test_trace_holds_batch(collector: Collector, router: Any) -> None:
    """Shows that a batch is one span of its call, with the calls behind it below."""
    from setpoint.router.v1 import router_service_pb2
    from setpoint_columns import Columns, DataType
    from setpoint_columns import proto as columns_proto

    rows = Columns.from_dict(
        {
            "carrier": (DataType.STRING, ["UA", "AA"]),
            "hour": (DataType.INT64, [1, 2]),
            "origin": (DataType.STRING, ["JFK", "EWR"]),
        }
    )
    await router.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(route="flights", rows=columns_proto.to_proto(rows)),
        timeout=5,
        metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),),
    )
    name = "setpoint.router.v1.RouterService/PredictBatch"
    spans = await collector.of_trace(TRACE, lambda found: len(found) >= 3)
    (root,) = named(spans, name)
    (features,) = named(spans, "setpoint.predict.features")
    assert features.parent_span_id == root.span_id
    assert attributes(features)["setpoint.batch_size"] == 2
    assert len({each.span_id for each in spans}) == len(spans)
