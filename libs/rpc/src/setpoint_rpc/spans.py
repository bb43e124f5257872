"""A span around a served call, for the methods whose service does not build its own."""

from contextvars import Token
from typing import NamedTuple

import grpc
from opentelemetry import context as telemetry_context
from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from setpoint_rpc import context
from setpoint_telemetry import names

# Codes that are the server's fault, by the semantic conventions of OpenTelemetry; the others are
# the caller's and leave the span's status unset.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class ServerSpan(NamedTuple):
    """A span that is current in the task of a call."""

    span: trace.Span
    token: "Token[telemetry_context.Context]"


def start(tracer: trace.Tracer, service: str, method: str) -> ServerSpan:
    """Start a span for the call being served, under its caller's, and make it current."""
    attributes = {
        names.RPC_SYSTEM: "grpc",
        names.RPC_SERVICE: service,
        names.RPC_METHOD: method,
        names.CALLER: context.caller() or "",
    }
    span = tracer.start_span(
        f"{service}/{method}", _parent(), kind=SpanKind.SERVER, attributes=attributes
    )
    return ServerSpan(span, telemetry_context.attach(trace.set_span_in_context(span)))


def end(current: ServerSpan, code: grpc.StatusCode) -> None:
    """End the span with the code of the call."""
    current.span.set_attribute(names.RPC_STATUS_CODE, code.value[0])
    if code in _SERVER_FAULTS:
        current.span.set_status(StatusCode.ERROR, code.name)
    current.span.end()
    telemetry_context.detach(current.token)


def traceparent_of(span_context: SpanContext) -> str:
    """Return the W3C header that names a span."""
    flags = int(span_context.trace_flags)
    return f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{flags:02x}"


def _parent() -> telemetry_context.Context:
    """Return a context that holds the caller's span, an empty one when it named none."""
    header = context.traceparent()
    if header is None:
        return telemetry_context.Context()
    _, trace_id, span_id, flags = header.split("-")
    remote = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), telemetry_context.Context())
