"""Beginning and end of a process's telemetry."""

from setpoint_telemetry import logs, traces

_DEFAULT_FLUSH_SECONDS = 3.0


def setup(
    service_name: str,
    *,
    log_level: str = "INFO",
    log_format: logs.LogFormat = "json",
    version: str = "",
) -> None:
    """Configure logs, and traces when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

    Call it once at the start of a process, after a possible fork; later calls change the log level
    alone.

    Args:
        service_name: Short name such as `router`; traces show it as `setpoint-router`.
        log_level: Least level that is logged.
        log_format: `json` for machines, `console` for people.
        version: Version of the running code.
    """
    logs.configure(service_name, log_level, log_format, version)
    traces.start(service_name, version)


def shutdown(timeout_seconds: float = _DEFAULT_FLUSH_SECONDS) -> bool:
    """Flush spans for at most `timeout_seconds`; say whether all could be handed over in time."""
    return traces.stop(timeout_seconds)
