"""Runs one training: ``python -m setpoint_retraining.training TASK RESULT``, both JSON files.

Standard input is held open by the process that asked: when it closes, that process is gone and
nobody waits for the result.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from setpoint_retraining.training import fit
from setpoint_runtime import errors

GAVE_UP = 3


def main() -> None:
    """Reads the task, trains, and writes the result or the error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task, result = (Path(argument) for argument in sys.argv[1:3])
    given = json.loads(task.read_text(encoding="utf-8"))
    for name in ("snapshot", "model", "scores"):
        given[name] = Path(given[name])
    answer: dict[str, Any]
    try:
        answer = {"result": fit.train(fit.Task(**{**given, "inputs": tuple(given["inputs"])}))}
    except errors.SetpointError as error:
        answer = {
            "error": {
                "kind": type(error).__name__,
                "reason": error.reason.value,
                "message": error.message,
            }
        }
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.replace(result)


def _end_with_parent() -> None:
    # Not sys.stdin: the interpreter could not close it at its end while this thread reads from it.
    while os.read(0, 1):
        pass
    os._exit(GAVE_UP)


if __name__ == "__main__":
    main()
