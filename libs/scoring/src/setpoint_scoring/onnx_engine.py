"""Models in onnxruntime: each call runs on the thread that makes it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from setpoint_artifacts import refusal
from setpoint_artifacts.signature import Signature
from setpoint_runtime import errors
from setpoint_scoring.packing import AnyArray, Feeds
from setpoint_scoring.runner import Runner, Stop

_LOGGER = logging.getLogger(__name__)
_PROVIDERS = ["CPUExecutionProvider"]
_FATAL_ONLY = 4


class OnnxEngine:
    """Implements `Engine`."""

    def __init__(self) -> None:
        """Prepare options that suit many calls at once on few cores."""
        options = onnxruntime.SessionOptions()
        # Parallelism comes from calls; a pool inside each would only compete with the others.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # The arena keeps the peak of the largest batch for ever and gains nothing measurable here.
        options.enable_cpu_mem_arena = False
        # Only ONNX was inspected, so bytes of another kind must not be recognised.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Its errors are raised as well, and then logged as every line of ours is.
        options.log_severity_level = _FATAL_ONLY
        self._options = options

    def open(self, data: bytes, signature: Signature, outputs: Sequence[str]) -> Runner:
        """Open an inspected model; blocks."""
        try:
            session = onnxruntime.InferenceSession(data, self._options, providers=_PROVIDERS)
        except Exception as error:
            # Its text holds paths of the library's build and whatever the model put into names.
            _LOGGER.warning("onnxruntime refuses a model", exc_info=error)
            raise refusal.RefusedError(
                errors.Reason.INVALID_ARTIFACT,
                f"onnxruntime cannot open the model ({type(error).__name__})",
            ) from error
        flat = [tensor.name for tensor in signature.inputs if len(tensor.shape or (0, 0)) == 1]
        classes = {tensor.name: tensor.classes for tensor in signature.outputs}
        mapped = [(index, keys) for index, name in enumerate(outputs) if (keys := classes[name])]
        return OnnxRunner(session, flat, outputs, mapped)


class _Stop:
    """Implements `runner.Stop`: onnxruntime looks at its options before each operator."""

    __slots__ = ("options",)

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = _FATAL_ONLY

    def set(self) -> None:
        """End the run."""
        self.options.terminate = True


class OnnxRunner:
    """Implements `runner.Runner`; sessions may run in several threads at once."""

    __slots__ = ("_flat", "_mapped", "_outputs", "_run")

    def __init__(
        self,
        session: Any,
        flat: Sequence[str],
        outputs: Sequence[str],
        mapped: Sequence[tuple[int, Sequence[int | str]]] = (),
    ) -> None:
        """Keep a session.

        Args:
            session: Of onnxruntime.
            flat: Inputs with the shape [rows] instead of [rows, 1].
            outputs: What is served, in order.
            mapped: Positions of outputs that hold a map for each row, with the keys in order.
        """
        self._run = session.run
        self._flat = tuple(flat)
        self._outputs = list(outputs)
        self._mapped = tuple(mapped)

    def stop(self) -> _Stop:
        """Return a handle that can end one run."""
        return _Stop()

    def run(self, feeds: Feeds, stop: Stop | None = None) -> Sequence[AnyArray]:
        """Return the served outputs, in order."""
        for name in self._flat:
            feeds[name] = feeds[name].reshape(-1)
        options = stop.options if isinstance(stop, _Stop) else None
        try:
            arrays: list[Any] = self._run(self._outputs, feeds, options)
        except Exception as error:
            # Its text holds paths of the library's build; callers get a reason, the log the rest.
            raise errors.InternalError(
                errors.Reason.INFERENCE_FAILED,
                f"onnxruntime failed to run the model on these rows ({type(error).__name__})",
            ) from error
        for index, keys in self._mapped:
            arrays[index] = _of_maps(arrays[index], keys)
        return arrays


def _of_maps(rows: Sequence[Mapping[int | str, float]], keys: Sequence[int | str]) -> AnyArray:
    values = [row[key] for row in rows for key in keys]
    return np.array(values, np.float32).reshape(len(rows), len(keys))
