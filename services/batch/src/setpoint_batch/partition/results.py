"""Errors of tasks on their way between processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from setpoint_runtime import errors


def failed(error: errors.SetpointError) -> dict[str, Any]:
    """Returns the answer of a task that failed."""
    kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
    told = {"kind": kind, "reason": error.reason.value, "message": error.message}
    return {"error": told}


def result_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a task made. Raises the SetpointError that it ended with."""
    if "error" in answer:
        told = answer["error"]
        kind: type[errors.SetpointError] = getattr(errors, told["kind"])
        raise kind(errors.Reason(told["reason"]), told["message"])
    return dict(answer["result"])
