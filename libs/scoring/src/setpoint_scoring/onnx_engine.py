"""Models in onnxruntime: each call runs on the thread that makes it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime

from setpoint_artifacts import refusal
from setpoint_artifacts.signature import Signature
from setpoint_runtime import errors
from setpoint_scoring.packing import AnyArray, Feeds
from setpoint_scoring.runner import Runner, Stop

_LOGGER = logging.getLogger(__name__)
CPU: Final = "CPUExecutionProvider"
_FATAL_ONLY = 4


@dataclass(frozen=True, slots=True)
class Options:
    """How onnxruntime runs models; the defaults suit many calls at once on few cores."""

    providers: tuple[str, ...] = (CPU,)
    """Execution providers, the preferred one first; the processor takes what the others leave."""
    intra_threads: int = 1
    """Threads inside an operator. Parallelism comes from calls; more only compete with them."""
    inter_threads: int = 1
    """Operators that run at once, of graphs with branches."""
    arena_bytes: int = 0
    """Most bytes of an arena that all sessions share; 0 for none. An arena keeps its peak for ever,
    and a run that needs more fails; without one memory comes from the heap and goes back."""

    @property
    def is_single_threaded(self) -> bool:
        """Whether a run stays on the thread that makes it."""
        return self.intra_threads == 1 and self.inter_threads == 1


DEFAULTS: Final = Options()


def check_providers(names: Sequence[str]) -> None:
    """Refuse execution providers that this onnxruntime does not bring.

    Raises:
        ValueError: Says which there are.
    """
    there = onnxruntime.get_available_providers()
    for name in names:
        if name not in there:
            raise ValueError(
                f"this onnxruntime has no execution provider {name!r}; it has {', '.join(there)}"
            )


class OnnxEngine:
    """Implements `Engine`."""

    def __init__(self, chosen: Options = DEFAULTS) -> None:
        """Prepare options.

        Raises:
            ValueError: There is no such execution provider.
        """
        check_providers(chosen.providers)
        self._providers = list(dict.fromkeys((*chosen.providers, CPU)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = chosen.intra_threads
        options.inter_op_num_threads = chosen.inter_threads
        mode = onnxruntime.ExecutionMode
        is_parallel = chosen.inter_threads != 1
        options.execution_mode = mode.ORT_PARALLEL if is_parallel else mode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False
        if chosen.arena_bytes:
            _share_arena(chosen.arena_bytes)
            options.add_session_config_entry("session.use_env_allocators", "1")
        # Only ONNX was inspected, so bytes of another kind must not be recognised.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Its errors are raised as well, and then logged as every line of ours is.
        options.log_severity_level = _FATAL_ONLY
        self._options = options

    def open(self, data: bytes, signature: Signature, outputs: Sequence[str]) -> Runner:
        """Open an inspected model; blocks."""
        try:
            session = onnxruntime.InferenceSession(data, self._options, providers=self._providers)
        except Exception as error:
            # Its text holds paths of the library's build and whatever the model put into names.
            _LOGGER.warning("onnxruntime refuses a model", exc_info=error)
            raise refusal.RefusedError(
                errors.Reason.INVALID_ARTIFACT,
                f"onnxruntime cannot open the model ({type(error).__name__})",
            ) from error
        # A provider whose libraries are missing is otherwise left out without a word.
        if session.get_providers() != self._providers:
            raise errors.UnavailableError(
                errors.Reason.MODEL_NOT_READY,
                f"of the execution providers {', '.join(self._providers)} onnxruntime could start"
                f" only {', '.join(session.get_providers())}",
            )
        flat = [tensor.name for tensor in signature.inputs if len(tensor.shape or (0, 0)) == 1]
        classes = {tensor.name: tensor.classes for tensor in signature.outputs}
        mapped = [(index, keys) for index, name in enumerate(outputs) if (keys := classes[name])]
        return OnnxRunner(session, flat, outputs, mapped)


def _share_arena(limit: int) -> None:
    """Let the sessions of this process share one arena; a later call replaces it for later ones."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Extended by what is asked for, not by doubling.
    settings = onnxruntime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, settings)


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
