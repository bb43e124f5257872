"""Opening a version: what it costs, how much memory it takes, and whether it answers as recorded."""

import time
from collections.abc import Callable

from setpoint_artifacts import signature
from setpoint_inference.domain import cost, version
from setpoint_inference.domain.version import Manifest
from setpoint_runtime import errors
from setpoint_scoring import packing
from setpoint_scoring.runner import Engine, Runner, Stop


class Opening:
    """Opens a model and runs it, on another thread: what cannot run must not become ready."""

    def __init__(self, engine: Engine, allocated: Callable[[], int]) -> None:
        self._engine = engine
        self._allocated = allocated
        self._is_stopped = False
        self._stop: Stop | None = None

    def run(
        self, data: bytes, manifest: Manifest, found: signature.Signature
    ) -> tuple[Runner, cost.Cost, int]:
        """Return the opened model, what running it costs, and its bytes of memory; blocks."""
        before = self._allocated()
        runner = self._engine.open(data, found, [spec.name for spec in manifest.outputs])
        memory_bytes = self._allocated() - before
        stop = self._stop = runner.stop()
        examples = packing.example(manifest.inputs, manifest.examples, cost.EXAMPLE_ROWS)

        def warm_up(start: int, end: int) -> None:
            if self._is_stopped:
                raise version.not_ready(manifest.key, "its load was given up")
            columns = examples.slice(start, end)
            arrays = runner.run(packing.pack(columns, manifest.inputs), stop)
            packing.unpack(arrays, manifest.outputs, end - start)

        try:
            measured = cost.measure(warm_up, time.thread_time)
            _compare(runner, manifest, stop)
            return runner, measured, memory_bytes
        except errors.InternalError as error:
            reason = errors.Reason.INVALID_ARTIFACT
            message = f"it does not run: {error.message}"
            raise version.refused(manifest.key, reason, message) from error

    def stop(self) -> None:
        """End a warm-up that nobody waits for any more; a model may loop for ever."""
        self._is_stopped = True
        if self._stop is not None:
            self._stop.set()


def _compare(runner: Runner, manifest: Manifest, stop: Stop) -> None:
    """Refuse a version that answers its recorded rows differently."""
    samples = manifest.samples
    if samples is None:
        return
    try:
        feeds = packing.pack(samples.inputs, manifest.inputs)
    except errors.InvalidArgumentError as error:
        difference: str | None = f"a recorded row does not fit: {error.message}"
    else:
        outputs = packing.unpack(runner.run(feeds, stop), manifest.outputs, samples.inputs.rows)
        difference = samples.mismatch({each.name: each.values for each in outputs})
    if difference is not None:
        raise version.refused(manifest.key, errors.Reason.WARM_UP_MISMATCH, difference)
