"""Spans: started in the usual way, or built afterwards from a record of what happened."""

import ipaddress
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import trace

from setpoint_telemetry import encoding
from setpoint_telemetry.encoding import SpanRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

# A burst of 8,192 spans fits; more is dropped, oldest first, and is in the records anyway.
_QUEUE_SIZE = 8192
_BATCH_SIZE = 512
_GROUP_SIZE = 32
"""Emitted spans that go through the SDK's processor as one, whose locks and wake-ups cost more than
a span does."""
# Spans made in the last second are what a kill can lose.
_SCHEDULE_DELAY_MILLISECONDS = 1000
_EXPORT_TIMEOUT_SECONDS = 5
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(slots=True)
class _Pipeline:
    provider: "SDKTracerProvider"
    make_emitted: "Callable[[], SpanProcessor]"
    emitted: "SpanProcessor | None" = None
    """For emitted spans, once there are any."""

    def shutdown(self) -> None:
        """Export what is queued and stop."""
        self.provider.shutdown()
        if self.emitted is not None:
            self.emitted.shutdown()


class _State:
    """The pipeline of this process; None while nothing is exported."""

    pipeline: _Pipeline | None = None


def endpoint() -> str | None:
    """Return the OTLP endpoint that the environment names, or None."""
    for variable in _ENDPOINT_VARIABLES:
        if value := os.environ.get(variable, "").strip():
            return value
    return None


def enabled() -> bool:
    """Say whether spans go anywhere; when not, do no work for them."""
    return _State.pipeline is not None


def tracer(name: str) -> trace.Tracer:
    """Return a tracer; without an exporter its spans do nothing."""
    pipeline = _State.pipeline
    return trace.NoOpTracer() if pipeline is None else pipeline.provider.get_tracer(name)


def start(service_name: str, version: str) -> bool:
    """Begin to export spans when the environment names an endpoint; say whether it does."""
    target = endpoint()
    if target is None or _State.pipeline is not None:
        return _State.pipeline is not None
    # The SDK and its exporter take a quarter of a second to load and are needed only here.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    from setpoint_telemetry.exporter import EncodedSpanExporter

    resource = Resource.create(
        {"service.name": f"setpoint-{service_name}", "service.version": version}
    )
    settings: dict[str, Any] = {
        "endpoint": target,
        # Without a scheme the exporter would want TLS, which no collector on loopback offers.
        "insecure": True if _is_plaintext(target) else None,
        "timeout": _from_environment("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_TIMEOUT_SECONDS),
        # A collector belongs to the inside; a proxy meant for the outside would capture its calls.
        "channel_options": (("grpc.enable_http_proxy", 0),),
    }
    provider = TracerProvider(
        resource=resource,
        span_limits=SpanLimits(
            max_span_attributes=encoding.ATTRIBUTE_COUNT,
            max_span_attribute_length=encoding.ATTRIBUTE_LENGTH,
        ),
        # The SDK's own exit hook may wait 30 seconds for a collector that is down.
        shutdown_on_exit=False,
    )
    provider.add_span_processor(_processor(OTLPSpanExporter(**settings), 1))
    _State.pipeline = _Pipeline(
        provider,
        lambda: _processor(EncodedSpanExporter(resource.attributes, **settings), _GROUP_SIZE),
    )
    return True


def _processor(exporter: "SpanExporter", group_size: int) -> "SpanProcessor":
    """Return a queue of groups of spans and the thread that exports them."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    queued = _from_environment("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SIZE)
    exported = _from_environment("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _BATCH_SIZE)
    return BatchSpanProcessor(
        exporter,
        max_queue_size=max(1, queued // group_size),
        max_export_batch_size=max(1, exported // group_size),
        schedule_delay_millis=_from_environment(
            "OTEL_BSP_SCHEDULE_DELAY", _SCHEDULE_DELAY_MILLISECONDS
        ),
    )


def emit(records: Iterable[SpanRecord | bytes], *, scope: str = "setpoint") -> int:
    """Queue finished spans for export; return how many, which is 0 when nothing is exported.

    A span may be serialised already, as `encoding.Alike` does for many that have much in common.

    Building a span object while a request waits costs more than many requests do themselves, so
    the serving path writes down what happened and this is called later, for many at once. It never
    blocks; when the queue is full the oldest spans are lost and counted by the SDK.
    """
    pipeline = _State.pipeline
    if pipeline is None:
        return 0
    from setpoint_telemetry.exporter import EncodedSpans

    if pipeline.emitted is None:
        pipeline.emitted = pipeline.make_emitted()
    count = 0
    left = iter(records)
    while group := list(itertools.islice(left, _GROUP_SIZE)):
        encoded = EncodedSpans(scope, encoding.joined(group))
        # The processor keeps what it is given for the exporter, which is ours.
        pipeline.emitted.on_end(encoded)  # type: ignore[arg-type]
        count += len(group)
    return count


def stop(timeout_seconds: float) -> bool:
    """Export what is queued and stop; say whether that ended in time.

    The SDK ignores time-outs here and may wait 30 seconds for a collector that is down, so it
    works in a daemon thread that is left behind when the time is over.
    """
    pipeline, _State.pipeline = _State.pipeline, None
    if pipeline is None:
        return True
    flush = threading.Thread(target=pipeline.shutdown, name="flush-spans", daemon=True)
    flush.start()
    flush.join(timeout_seconds)
    return not flush.is_alive()


def _is_plaintext(target: str) -> bool:
    """Say whether an endpoint without a scheme is on this machine, or its scheme is http."""
    if "://" in target:
        return target.startswith("http://")
    host = urlsplit(f"//{target}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_environment(variable: str, default: int) -> int:
    """Return a number from the environment; a value that is none is ignored, as the SDK does."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else default
