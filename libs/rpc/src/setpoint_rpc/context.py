"""The call being served: who calls, how much time is left, which trace it belongs to.

The values are read from the call only when somebody asks, since most calls never do.
"""

import re
import time
from contextvars import ContextVar
from typing import Any

import grpc.aio

CALLER_KEY = "x-setpoint-caller"
TRACEPARENT_KEY = "traceparent"

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_CALLER_LENGTH = 64


class ServedCall:
    """What the server remembers of a call while it is served."""

    __slots__ = ("context", "deadline")

    def __init__(
        self, context: "grpc.aio.ServicerContext[Any, Any]", deadline: float | None
    ) -> None:
        """Remember the call; `deadline` is in seconds of `time.monotonic`."""
        self.context = context
        self.deadline = deadline


SERVED: ContextVar[ServedCall | None] = ContextVar("setpoint_served_call", default=None)


def caller() -> str | None:
    """Return the name that the caller gave itself, shortened; it proves nothing."""
    value = _metadata(CALLER_KEY)
    return None if value is None else value[:_CALLER_LENGTH]


def remaining_seconds() -> float | None:
    """Return the time left to answer, at least 0, or None outside a call or without a deadline."""
    served = SERVED.get()
    if served is None or served.deadline is None:
        return None
    return max(0.0, served.deadline - time.monotonic())


def traceparent() -> str | None:
    """Return the W3C trace context that came with the call, or None when none or a broken one."""
    value = _metadata(TRACEPARENT_KEY)
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None


def detach() -> None:
    """Forget the call being served in this task, when its work is no longer that call's alone.

    A task inherits the deadline and trace of the call that happened to start it; work shared by
    many calls, or done after the answer, must not end with that one.
    """
    SERVED.set(None)


def _metadata(key: str) -> str | None:
    served = SERVED.get()
    if served is None:
        return None
    for name, value in served.context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return None
