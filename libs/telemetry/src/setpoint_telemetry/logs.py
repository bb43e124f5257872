"""Structured logs: one line an event, with the trace it belongs to.

Both `structlog` loggers and the standard library's end in the same handler, so that a library's
warning has the same form and fields as our own lines.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, Literal

import structlog
from opentelemetry import trace

LogFormat = Literal["console", "json"]
TraceSource = Callable[[], str | None]

_TRACEPARENT_PARTS = 4


class _State:
    """What the one configuration of this process has set up."""

    is_configured = False
    service: str | None = None
    version = ""
    source: TraceSource | None = None


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; its lines carry the trace and span that are current when it is used."""
    return structlog.stdlib.get_logger(name)


def add_trace_source(source: TraceSource) -> None:
    """Tell where to find the `traceparent` of the call being served when no span is current."""
    _State.source = source


def configure(service_name: str, level: str, log_format: LogFormat, version: str) -> None:
    """Set up logging once for this process; later calls only change the level.

    Replacing handlers while grpc.aio objects are being finalised can deadlock, so nothing is ever
    configured twice.
    """
    root = logging.getLogger()
    root.setLevel(level)
    if _State.is_configured:
        return
    _State.is_configured = True
    _State.service, _State.version = service_name, version
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(log_format))
    root.addHandler(handler)


def _formatter(log_format: LogFormat) -> structlog.stdlib.ProcessorFormatter:
    final: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if log_format == "json":
        final += [
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The prettier ones print local variables, and those hold secrets.
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=final)


def _add_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add trace_id and span_id of the current span, or of the call being served."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace_id"] = f"{current.trace_id:032x}"
        event["span_id"] = f"{current.span_id:016x}"
    elif _State.source is not None and (traceparent := _State.source()):
        parts = traceparent.split("-")
        if len(parts) >= _TRACEPARENT_PARTS:
            event["trace_id"], event["span_id"] = parts[1], parts[2]
    return event


def _add_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the service and its version, once they are known."""
    if _State.service is not None:
        event["service"] = _State.service
    if _State.version:
        event["version"] = _State.version
    return event


_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _add_service,
    _add_trace,
)

# On import, so that a logger used before setup(), as in tests, goes to the standard library too.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
