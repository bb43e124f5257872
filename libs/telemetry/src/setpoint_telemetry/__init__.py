"""Traces and logs of a Setpoint process.

Without `OTEL_EXPORTER_OTLP_ENDPOINT` nothing of the OpenTelemetry SDK is loaded, spans cost next to
nothing and go nowhere. Spans are for looking; what must not be lost goes into records.
"""

from setpoint_telemetry import encoding, names
from setpoint_telemetry.encoding import SpanRecord
from setpoint_telemetry.lifecycle import setup, shutdown
from setpoint_telemetry.logs import add_trace_source, get_logger
from setpoint_telemetry.traces import emit, enabled, tracer

__all__ = [
    "SpanRecord",
    "add_trace_source",
    "emit",
    "enabled",
    "encoding",
    "get_logger",
    "names",
    "setup",
    "shutdown",
    "tracer",
]
