"""Export of spans that are serialised already, through the SDK's own exporter and processor.

Loaded only where spans are exported: the SDK and its exporter take a quarter of a second.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.trace import SpanContext, TraceFlags

from setpoint_telemetry import encoding

# The processor asks a span for no more than whether it is sampled.
_SAMPLED = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


class EncodedSpans:
    """Some serialised spans on their way through the SDK's processor, for which they are one."""

    __slots__ = ("content", "scope")

    context = _SAMPLED

    def __init__(self, scope: str, content: bytes) -> None:
        self.scope = scope
        self.content = content


class EncodedSpanExporter(OTLPSpanExporter):
    """Exports what `EncodedSpans` hold.

    Args:
        resource: Attributes of the process; the spans started in the usual way have the same.
        settings: As of the SDK's exporter.
    """

    def __init__(self, resource: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._resource = Resource(
            attributes=[KeyValue(key=name, value=_any(value)) for name, value in resource.items()]
        )

    def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
        by_scope: defaultdict[str, list[bytes]] = defaultdict(list)
        for each in data:
            by_scope[each.scope].append(each.content)
        request = ExportTraceServiceRequest()
        found = request.resource_spans.add(resource=self._resource)
        parts = [encoding.scope_spans(scope, spans) for scope, spans in by_scope.items()]
        found.MergeFromString(b"".join(parts))
        return request


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))
