"""Opening a version: what it costs, how much memory it takes, and whether it answers as recorded."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from setpoint_artifacts import signature
from setpoint_artifacts.samples import Samples
from setpoint_inference import ports
from setpoint_inference.domain import cost, version
from setpoint_inference.domain.version import Manifest
from setpoint_runtime import errors
from setpoint_scoring import packing
from setpoint_scoring.packing import AnyArray, Feeds
from setpoint_scoring.runner import Engine, Runner, Stop

_REMOTE_SECONDS: Final = 30.0
"""Longest time for one warm-up run outside this process."""


class Opening:
    """Opens a model and runs it, on another thread: what cannot run must not become ready."""

    def __init__(self, engine: Engine, memory: Callable[[], int]) -> None:
        self._engine = engine
        self._memory = memory
        self._is_stopped = False
        self._stop: Stop | None = None

    def run(
        self, data: bytes, manifest: Manifest, found: signature.Signature
    ) -> tuple[Runner, cost.Cost, int]:
        """Return the opened model, what running it costs, and its bytes of memory; blocks."""
        before = self._memory()
        runner = self._engine.open(data, found, [spec.name for spec in manifest.outputs])
        memory_bytes = self._memory() - before
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
    if manifest.samples is not None:
        feeds = _recorded(manifest, manifest.samples)
        _judge(manifest, manifest.samples, runner.run(feeds, stop))


def _recorded(manifest: Manifest, samples: Samples) -> Feeds:
    try:
        return packing.pack(samples.inputs, manifest.inputs)
    except errors.InvalidArgumentError as error:
        message = f"a recorded row does not fit: {error.message}"
        raise version.refused(manifest.key, errors.Reason.WARM_UP_MISMATCH, message) from error


def _judge(manifest: Manifest, samples: Samples, arrays: Sequence[AnyArray]) -> None:
    outputs = packing.unpack(arrays, manifest.outputs, samples.inputs.rows)
    difference = samples.mismatch({each.name: each.values for each in outputs})
    if difference is not None:
        raise version.refused(manifest.key, errors.Reason.WARM_UP_MISMATCH, difference)


async def open_remote(
    backend: ports.Backend, manifest: Manifest, data: bytes
) -> tuple[ports.Remote, cost.Cost]:
    """Return a version that runs outside this process, warmed up, and what running it costs."""
    remote = await backend.open(manifest, data)
    try:
        examples = packing.example(manifest.inputs, manifest.examples, cost.BATCH_ROWS)
        took = []
        for rows in (1, 1, cost.BATCH_ROWS):
            feeds = packing.pack(examples.slice(0, rows), manifest.inputs)
            started = time.perf_counter()
            packing.unpack(await remote.run(feeds, rows, _REMOTE_SECONDS), manifest.outputs, rows)
            took.append((time.perf_counter() - started) * 1e6)
        samples = manifest.samples
        if samples is not None:
            feeds = _recorded(manifest, samples)
            rows = samples.inputs.rows
            _judge(manifest, samples, await remote.run(feeds, rows, _REMOTE_SECONDS))
    except errors.InternalError as error:
        await remote.close()
        reason = errors.Reason.INVALID_ARTIFACT
        raise version.refused(manifest.key, reason, f"it does not run: {error.message}") from error
    except BaseException:
        await remote.close()
        raise
    return remote, cost.Cost(min(took[:2]), took[2])
