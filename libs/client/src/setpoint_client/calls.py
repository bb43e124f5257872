"""What both clients share about calls: default deadlines and metadata."""

import sys
from typing import Final

PREDICT_SECONDS: Final = 2.0
"""Default deadline of one prediction, and of online features."""
CONTROL_SECONDS: Final = 5.0
"""Default deadline of small questions beside the serving path."""
BATCH_SECONDS: Final = 60.0
"""Default deadline of a whole frame, all its pieces together."""
STREAM_SECONDS: Final = 3600.0
"""Default deadline of a whole stream."""
PATIENCE_SECONDS: Final = 60.0
"""How long a stream of writes waits for a service that is away."""
HISTORY_SECONDS: Final = 600.0
"""Default deadline of a point-in-time join."""


def metadata(caller: str) -> tuple[tuple[str, str], ...]:
    """Returns what every call carries: the caller's name and, when there is one, the current trace.

    OpenTelemetry is asked only where the program has imported it; the client does not depend on it.
    """
    pairs = (("x-setpoint-caller", caller),)
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return pairs
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return pairs
    header = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return (*pairs, ("traceparent", header))
