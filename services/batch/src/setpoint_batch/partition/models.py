"""A model ready to run, kept between the partitions of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from setpoint_artifacts import formats, onnx_model, refusal, signature
from setpoint_batch.partition import forms, peers
from setpoint_scoring.onnx_engine import OnnxEngine
from setpoint_scoring.runner import Runner

_opened: dict[str, Runner] = {}


async def opened(task: Mapping[str, Any], model: forms.Model) -> Runner:
    """Returns a runner of the model whose digest and signature are what the manifest says.

    Raises:
        FailedPreconditionError: They are not.
        UnavailableError: The registry does not answer.
    """
    found = _opened.get(model.digest)
    if found is not None:
        return found
    data = await peers.artifact(task, model)
    try:
        formats.refuse_unserved(data)
        graph = onnx_model.inspect(data)
        signature.check(graph, model.inputs, model.outputs)
        runner = OnnxEngine().open(data, graph, [spec.name for spec in model.outputs])
    except refusal.RefusedError as error:
        raise peers.refused(model, error.reason, error.message) from error
    # One job at a time has one model; the one before would only take memory.
    _opened.clear()
    _opened[model.digest] = runner
    return runner
