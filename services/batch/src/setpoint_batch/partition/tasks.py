"""What a worker process can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from setpoint_batch.partition import inputs, outputs, results
from setpoint_runtime import errors

Task = Mapping[str, Any]


def run(task: Task) -> dict[str, Any]:
    """Does a task and returns its result, or its error as `error`."""
    try:
        return {"result": _KINDS[task["kind"]](task)}
    except errors.SetpointError as error:
        return results.failed(error)


def _plan(task: Task) -> dict[str, Any]:
    outputs.Output(task).prepare()
    return inputs.look_through(task)


def _score(task: Task) -> dict[str, Any]:
    # Runtimes of models take a second to import; looking an input through does without.
    from setpoint_batch.partition import scoring

    return asyncio.run(scoring.score(task))


def _verify(task: Task) -> dict[str, Any]:
    return {"good": outputs.Output(task).good(task["parts"])}


def _committed(task: Task) -> dict[str, Any]:
    output = outputs.Output(task)
    return {"manifest_url": output.manifest_url if output.is_committed() else ""}


def _commit(task: Task) -> dict[str, Any]:
    output = outputs.Output(task)
    output.commit()
    return {"manifest_url": output.manifest_url}


def _discard(task: Task) -> dict[str, Any]:
    outputs.Output(task).discard()
    return {}


_KINDS: Mapping[str, Callable[[Task], dict[str, Any]]] = {
    "plan": _plan,
    "score": _score,
    "verify": _verify,
    "committed": _committed,
    "commit": _commit,
    "discard": _discard,
}
