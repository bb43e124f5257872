import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

import setpoint_telemetry
from setpoint_rpc import channel, testing
from setpoint_runtime import errors
from setpoint_telemetry import traces

_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_PARENT_ID = "b7ad6b7169203331"
_METADATA = (("traceparent", f"00-{_TRACE_ID}-{_PARENT_ID}-01"),)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps the spans it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def flushed(self) -> dict[str, Any]:
        """Ends the export; returns the spans by the last part of their names."""
        assert await asyncio.to_thread(setpoint_telemetry.shutdown)
        return {span.name.rpartition("/")[2]: span for span in self.spans}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    received = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        received, server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    assert traces.start("example", "1")
    yield received
    setpoint_telemetry.shutdown(0.1)
    server.stop(0).wait()


def _attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def test_span_hangs_below_caller(receiver: Receiver) -> None:
    """A served call is a span of its caller's trace, with method, caller and code."""
    async with testing.serve_and_connect(testing.unary("Echo", _echo)) as opened:
        await opened.unary_unary(testing.path("Echo"))(b"", metadata=_METADATA)

    span = (await receiver.flushed())["Echo"]
    assert span.trace_id.hex() == _TRACE_ID
    assert span.parent_span_id.hex() == _PARENT_ID
    assert span.kind == 2
    assert _attributes(span) == {
        "rpc.system": "grpc",
        "rpc.service": testing.SERVICE,
        "rpc.method": "Echo",
        "rpc.grpc.status_code": 0,
        "setpoint.caller": "tester",
    }


async def test_spans_of_two_hops_are_one_trace(receiver: Receiver) -> None:
    """The second service's span hangs below the first one's."""
    async with testing.serve_and_connect(testing.unary("Inner", _echo)) as to_inner:

        async def outer(request: bytes, _: Any) -> bytes:
            answer: bytes = await to_inner.unary_unary(testing.path("Inner"))(request)
            return answer

        async with testing.serve_and_connect(testing.unary("Outer", outer)) as opened:
            await opened.unary_unary(testing.path("Outer"))(b"")

    spans = await receiver.flushed()
    assert spans["Inner"].trace_id == spans["Outer"].trace_id
    assert spans["Inner"].parent_span_id == spans["Outer"].span_id
    assert spans["Outer"].parent_span_id == b""


async def test_untraced_method_makes_no_span(receiver: Receiver) -> None:
    """A method whose service builds its own spans costs nothing here; its trace is known still."""
    seen: list[bool] = []

    async def look(request: bytes, _: Any) -> bytes:
        seen.append(trace.get_current_span().get_span_context().is_valid)
        return request

    async with (
        testing.serve(testing.unary("Look", look), untraced_methods=frozenset({"Look"})) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        await opened.unary_unary(testing.path("Look"))(b"", metadata=_METADATA)

    assert await receiver.flushed() == {}
    assert seen == [False]


async def test_failures_mark_spans_that_are_ours(receiver: Receiver) -> None:
    """A defect marks its span as an error; a caller's mistake does not."""

    async def crash(request: bytes, _: Any) -> bytes:
        raise RuntimeError("secret")

    async def refuse(request: bytes, _: Any) -> bytes:
        raise errors.NotFoundError(errors.Reason.RUN_NOT_FOUND, "no run")

    made = {**testing.unary("Crash", crash), **testing.unary("Refuse", refuse)}
    async with testing.serve_and_connect(made) as opened:
        calls = [opened.unary_unary(testing.path(name))(b"") for name in made]
        await asyncio.gather(*calls, return_exceptions=True)

    spans = await receiver.flushed()
    assert spans["Crash"].status.code == 2
    assert spans["Crash"].status.message == "INTERNAL"
    assert spans["Refuse"].status.code == 0
    assert _attributes(spans["Refuse"])["rpc.grpc.status_code"] == 5
    assert "secret" not in str(spans)


async def test_stream_is_one_span(receiver: Receiver) -> None:
    """A stream's span is current in its handler and lasts until its end."""
    inside: list[int] = []

    async def stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            inside.append(trace.get_current_span().get_span_context().span_id)
            yield b"x"

    async with testing.serve_and_connect(testing.streaming("Stream", stream)) as opened:
        assert len([x async for x in opened.unary_stream(testing.path("Stream"))(b"")]) == 3

    span = (await receiver.flushed())["Stream"]
    assert inside == [int.from_bytes(span.span_id, "big")] * 3
