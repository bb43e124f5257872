import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.trace import SpanKind

import setpoint_telemetry
from setpoint_telemetry import names, traces

_TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
_SPAN_ID = 0xB7AD6B7169203331


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps what it gets."""

    requests: list[Any] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """Nothing is taken while it is not set."""
    port: int = 0

    def Export(self, request: Any, context: Any) -> Any:
        self.gate.wait(30)
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, str]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {each.key: each.value.string_value for each in attributes}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Runs an OTLP gRPC receiver on loopback and names it in the environment."""
    received = Receiver()
    received.gate.set()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        received, server
    )
    received.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{received.port}")
    yield received
    traces.stop(0.1)
    server.stop(0).wait()


@pytest.fixture(autouse=True)
def no_thread_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits for exporters that a test leaves behind: their retries would disturb later tests."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
    yield
    for thread in threading.enumerate():
        if thread.name == "flush-spans":
            thread.join()


def _attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def test_nothing_is_traced_without_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint there is no exporter, no thread, and spans do not record."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", " ")

    assert not traces.start("router", "1")

    assert not setpoint_telemetry.enabled()
    assert not setpoint_telemetry.tracer("x").start_span("y").is_recording()
    assert setpoint_telemetry.emit([_record()]) == 0
    assert setpoint_telemetry.shutdown()


def test_spans_arrive_with_resource(receiver: Receiver) -> None:
    """A span started in the usual way arrives, under the name of its service."""
    assert traces.start("router", "1.2.3")
    with setpoint_telemetry.tracer("x").start_as_current_span("work") as span:
        span.set_attribute(names.MODEL, "flights")

    assert setpoint_telemetry.shutdown()

    assert [span.name for span in receiver.spans] == ["work"]
    assert _attributes(receiver.spans[0]) == {names.MODEL: "flights"}
    assert receiver.resource["service.name"] == "setpoint-router"
    assert receiver.resource["service.version"] == "1.2.3"


def _record(**changes: Any) -> setpoint_telemetry.SpanRecord:
    values: dict[str, Any] = {
        "name": "predict",
        "trace_id": _TRACE_ID,
        "span_id": _SPAN_ID,
        "start_us": 1_700_000_000_000_000,
        "end_us": 1_700_000_000_001_500,
    }
    return setpoint_telemetry.SpanRecord(**(values | changes))


def test_emitted_record_arrives_with_its_ids(receiver: Receiver) -> None:
    """A span built from a record has the ids and times that were written down."""
    traces.start("router", "1")
    record = _record(
        parent_span_id=7, kind=SpanKind.SERVER, attributes={names.SLOT: 42, names.DEGRADED: True}
    )

    assert setpoint_telemetry.emit([record, _record(span_id=8, error="no features")]) == 2
    assert setpoint_telemetry.shutdown()

    first, second = receiver.spans
    assert first.trace_id == _TRACE_ID.to_bytes(16, "big")
    assert first.span_id == _SPAN_ID.to_bytes(8, "big")
    assert first.parent_span_id == (7).to_bytes(8, "big")
    assert first.start_time_unix_nano == 1_700_000_000_000_000_000
    assert first.end_time_unix_nano - first.start_time_unix_nano == 1_500_000
    assert _attributes(first) == {names.SLOT: 42, names.DEGRADED: True}
    assert second.parent_span_id == b""
    assert second.status.message == "no features"


def test_emitted_attributes_are_bounded(receiver: Receiver) -> None:
    """A long text or many features do not turn a span into a record."""
    traces.start("router", "1")
    attributes = {f"feature.{i}": "x" * 10_000 for i in range(500)}

    setpoint_telemetry.emit([_record(attributes=attributes)])
    setpoint_telemetry.shutdown()

    arrived = _attributes(receiver.spans[0])
    assert len(arrived) == 64
    assert {len(value) for value in arrived.values()} == {256}


def test_started_spans_are_bounded(receiver: Receiver) -> None:
    """The same limits hold for spans started in the usual way."""
    traces.start("router", "1")
    with setpoint_telemetry.tracer("x").start_as_current_span("work") as span:
        span.set_attributes({f"a{i}": "x" * 1_000 for i in range(100)})
    setpoint_telemetry.shutdown()

    arrived = _attributes(receiver.spans[0])
    assert len(arrived) == 64
    assert {len(value) for value in arrived.values()} == {256}


def test_unsampled_parent_is_honoured(receiver: Receiver) -> None:
    """A caller that decided against a trace gets none from us."""
    traces.start("router", "1")
    parent = trace.SpanContext(_TRACE_ID, _SPAN_ID, True, trace.TraceFlags(0))
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    setpoint_telemetry.tracer("x").start_span("work", context).end()
    setpoint_telemetry.shutdown()

    assert receiver.spans == []


def test_second_start_changes_nothing(receiver: Receiver) -> None:
    """Two services in one process share one exporter."""
    traces.start("router", "1")
    pipeline = traces._State.pipeline

    assert traces.start("feature", "1")
    assert traces._State.pipeline is pipeline


def test_bursts_are_exported_in_batches(receiver: Receiver) -> None:
    """Thousands of spans at once arrive whole."""
    traces.start("router", "1")

    assert setpoint_telemetry.emit(_record(span_id=i + 1) for i in range(5_000)) == 5_000
    assert setpoint_telemetry.shutdown()

    assert len({span.span_id for span in receiver.spans}) == 5_000
    assert (
        max(len(request.resource_spans[0].scope_spans[0].spans) for request in receiver.requests)
        <= 512
    )


def test_shutdown_does_not_wait_for_slow_collector(receiver: Receiver) -> None:
    """A collector that hangs delays the end by the given time, not by its own."""
    receiver.gate.clear()
    traces.start("router", "1")
    setpoint_telemetry.emit([_record()])

    started = time.monotonic()
    assert not setpoint_telemetry.shutdown(0.3)
    assert time.monotonic() - started < 20
    receiver.gate.set()


def test_emit_does_not_wait_for_dead_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody listens, spans are queued and lost without holding up anything."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    traces.start("router", "1")

    started = time.monotonic()
    setpoint_telemetry.emit(_record(span_id=i + 1) for i in range(1_000))
    setpoint_telemetry.shutdown(0.2)
    # Waiting would be for each span, or for as long as the exporter tries.
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://collector:4317", True),
        ("https://collector:4317", False),
        ("127.0.0.1:4317", True),
        ("localhost:4317", True),
        ("[::1]:4317", True),
        ("collector:4317", False),
        ("127.evil.example:4317", False),
    ],
)
def test_only_loopback_is_plaintext_without_scheme(target: str, expected: bool) -> None:
    """Spans leave this machine in the clear only when the address says http."""
    assert traces._is_plaintext(target) is expected


def test_endpoint_without_scheme_reaches_loopback(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`127.0.0.1:4317` is a usual way to write it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"127.0.0.1:{receiver.port}")
    traces.start("router", "1")
    setpoint_telemetry.emit([_record()])
    assert setpoint_telemetry.shutdown()

    assert len(receiver.spans) == 1


def test_spans_of_both_kinds_share_their_process(receiver: Receiver) -> None:
    """Emitted spans and started ones arrive under one resource, each in its own scope."""
    traces.start("router", "1.2.3")
    setpoint_telemetry.tracer("usual").start_span("work").end()
    setpoint_telemetry.emit([_record()], scope="emitted")
    setpoint_telemetry.shutdown()

    assert {span.name for span in receiver.spans} == {"work", "predict"}
    resources = [each for request in receiver.requests for each in request.resource_spans]
    assert len({each.resource.SerializeToString(deterministic=True) for each in resources}) == 1
    scopes = {scope.scope.name for each in resources for scope in each.scope_spans}
    assert scopes == {"usual", "emitted"}


def test_emitted_spans_alone_name_their_process(receiver: Receiver) -> None:
    """A request without a usual span has the resource too."""
    traces.start("router", "1.2.3")
    setpoint_telemetry.emit([_record()])
    setpoint_telemetry.shutdown()

    assert receiver.resource["service.name"] == "setpoint-router"
    assert receiver.resource["telemetry.sdk.language"] == "python"
