"""skops artifacts, each in a sandboxed process of its own.

The process is started anew when it dies, and killed when a run takes too long; the calls that it had
fail, and nobody else's. A caller that leaves does neither: its run ends, and its answer is dropped.
"""

import asyncio
import contextlib
import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry import trace

import setpoint_telemetry
from setpoint_artifacts import refusal, skops_archive
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.dtypes import NUMPY_TYPES, DataType
from setpoint_inference.adapters import frames
from setpoint_inference.domain.version import Manifest
from setpoint_runtime import errors
from setpoint_scoring.packing import AnyArray, Feeds
from setpoint_telemetry import names

_LOGGER = logging.getLogger(__name__)

METHODS: Final = ("predict", "predict_proba", "decision_function", "transform")
"""Methods of an estimator that outputs may be named for."""
SPAN: Final = "setpoint.inference.skops"
"""Of a run in a process, in the trace of the call that it is for."""
START_SECONDS: Final = 60.0
"""scikit-learn takes seconds to import on a busy machine."""
_MAX_QUEUED: Final = 64
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    # One call runs at a time, and threads could not be started in the sandbox.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the platform allows."""

    trusted_types: tuple[str, ...]
    """Types that an artifact may name beside those that skops itself trusts."""
    memory_bytes: int
    call_seconds: float
    is_sandbox_required: bool


class SkopsBackend:
    """Implements `ports.Backend`."""

    def __init__(self, options: Options) -> None:
        """Take what is allowed."""
        self._options = options

    async def open(self, manifest: Manifest, data: bytes) -> "SkopsVersion":
        """Return a version whose process has loaded its artifact."""
        await asyncio.to_thread(skops_archive.inspect, data)
        for spec in manifest.outputs:
            if spec.name not in METHODS:
                raise refusal.RefusedError(
                    errors.Reason.SIGNATURE_MISMATCH,
                    f"output tensor {spec.name!r} is no method: there are {', '.join(METHODS)}",
                )
        made = SkopsVersion(manifest, data, self._options)
        await made.start()
        return made


class _LostError(Exception):
    """The process is gone, or says what it must not."""


class _Process:
    """A worker that runs; one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._stdin = cast("asyncio.StreamWriter", process.stdin)
        self._stdout = cast("asyncio.StreamReader", process.stdout)

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def ask(self, question: bytes) -> tuple[dict[str, Any], bytes]:
        """Return what the worker says.

        Raises:
            _LostError: It says nothing any more, or nonsense.
        """
        try:
            self._stdin.write(question)
            await self._stdin.drain()
            head = await self._stdout.readexactly(frames.LENGTHS.size)
            header, body = frames.lengths(head)
            return (
                frames.header_of(await self._stdout.readexactly(header)),
                await self._stdout.readexactly(body),
            )
        except (OSError, asyncio.IncompleteReadError, frames.MalformedError) as error:
            raise _LostError(str(error)) from error

    async def kill(self) -> None:
        # It leads a session of its own, so whatever it may have started goes too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


class SkopsVersion:
    """Implements `ports.Remote`."""

    def __init__(self, manifest: Manifest, data: bytes, options: Options) -> None:
        """Keep what starts a process; nothing runs yet."""
        self._key = manifest.key
        self._data = data
        self._options = options
        self._inputs = manifest.inputs
        self._outputs = manifest.outputs
        self._process: _Process | None = None
        self._turn = asyncio.Lock()
        self._runs: set[asyncio.Task[Sequence[AnyArray]]] = set()
        self._tracer = setpoint_telemetry.tracer(__name__)
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return None if self._process is None else self._process.process.pid

    def memory_bytes(self) -> int:
        """Return what the process has in memory."""
        try:
            pages = pathlib.Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def start(self) -> _Process:
        """Start a process and let it load the artifact.

        Raises:
            RefusedError: EXECUTABLE_ARTIFACT, naming types that are not trusted; INVALID_ARTIFACT.
            UnavailableError: It does not start, or the system cannot isolate it.
        """
        self.starts += 1
        process = _Process(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "setpoint_inference.adapters.skops_worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        )
        options = self._options
        header = {
            "trusted": options.trusted_types,
            "memory_bytes": options.memory_bytes,
            "is_sandbox_required": options.is_sandbox_required,
            "methods": [spec.name for spec in self._outputs],
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                hello, _ = await process.ask(frames.encode(header, body=self._data))
            _check_hello(hello)
            self._warn_of(hello["ready"])
        except (TimeoutError, _LostError) as error:
            await process.kill()
            raise errors.UnavailableError(
                errors.Reason.MODEL_NOT_READY,
                "its process does not start; is skops installed, and the memory enough?",
                retry_after_seconds=1.0,
            ) from error
        except BaseException:
            await process.kill()
            raise
        self._process = process
        return process

    def _warn_of(self, held: Any) -> None:
        """Say loudly what the system lets the process do, where that was allowed by setting."""
        told = held if isinstance(held, dict) else {}
        lacking = [name for name in ("network", "files") if told.get(name) is not True]
        if lacking:
            _LOGGER.warning(
                "the estimator of version %s runs WITHOUT isolation of %s, as "
                "skops_sandbox_required=false allows: its artifact must be trusted like code",
                self._key,
                " and ".join(lacking),
            )

    async def run(self, feeds: Feeds, rows: int, timeout_seconds: float) -> Sequence[AnyArray]:
        """Run rows in the process, after those before them."""
        if len(self._runs) >= _MAX_QUEUED:
            raise errors.ResourceExhaustedError(
                errors.Reason.OVERLOADED,
                f"{len(self._runs)} calls wait for version {self._key}",
                retry_after_seconds=0.1,
            )
        gone = asyncio.Event()
        run = asyncio.create_task(
            self._in_turn(feeds, rows, gone, time.monotonic()), name=f"skops {self._key}"
        )
        self._runs.add(run)
        run.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(run)
        except TimeoutError:
            raise errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED, "the run takes longer than the time left"
            ) from None
        finally:
            gone.set()

    def _ended(self, run: asyncio.Task[Sequence[AnyArray]]) -> None:
        self._runs.discard(run)
        if not run.cancelled():
            # Its caller may have left; then nobody else asks for the error.
            run.exception()

    async def _in_turn(
        self, feeds: Feeds, rows: int, gone: asyncio.Event, queued: float
    ) -> Sequence[AnyArray]:
        async with self._turn:
            if gone.is_set():
                return ()
            # The process reaches no collector, so what it did is told for it, below the call's span.
            with self._tracer.start_as_current_span(SPAN) as span:
                facts: dict[str, str | int | float] = {
                    names.MODEL: self._key.model,
                    names.MODEL_VERSION: self._key.version,
                    names.ROWS: rows,
                    names.QUEUE_SECONDS: time.monotonic() - queued,
                }
                span.set_attributes(facts)
                return await self._run(feeds, rows, span)

    async def _run(self, feeds: Feeds, rows: int, span: trace.Span) -> Sequence[AnyArray]:
        process = self._process
        if process is None or not process.is_alive:
            process = await self.start()
        span.set_attribute(names.WORKER_PID, process.process.pid)
        try:
            async with asyncio.timeout(self._options.call_seconds):
                header, body = await process.ask(self._question(feeds))
            span.set_attribute(names.RUN_SECONDS, _seconds(header))
            if "error" in header:
                raise _failed(f"the estimator fails on these rows ({header['error']!s:.80})")
            return frames.arrays_of(header, body, self._expected(rows))
        except TimeoutError:
            await self._lose()
            raise _failed(
                f"the run took more than {self._options.call_seconds} s and was stopped"
            ) from None
        except (_LostError, frames.MalformedError):
            await self._lose()
            raise _failed("the process of the estimator was lost") from None

    async def _lose(self) -> None:
        if self._process is not None:
            await self._process.kill()
            self._process = None

    def _question(self, feeds: Feeds) -> bytes:
        tensors = [feeds[spec.name] for spec in self._inputs]
        header = {
            "inputs": [
                (_kind(spec), array.shape)
                for spec, array in zip(self._inputs, tensors, strict=True)
            ],
            "outputs": [(spec.name, _kind(spec)) for spec in self._outputs],
        }
        return frames.encode(header, tensors)

    def _expected(self, rows: int) -> list[frames.Expected]:
        return [frames.Expected(_kind(spec), (rows, len(spec.columns))) for spec in self._outputs]

    async def close(self) -> None:
        """End the process."""
        for run in self._runs:
            run.cancel()
        await self._lose()


def _seconds(header: dict[str, Any]) -> float:
    """Return how long the process says that it ran, 0 where it says nonsense."""
    told = header.get("seconds")
    return told if isinstance(told, float) and math.isfinite(told) else 0.0


def _kind(spec: TensorSpec) -> str:
    return frames.TEXT if spec.dtype is DataType.STRING else NUMPY_TYPES[spec.dtype].str


def _check_hello(hello: dict[str, Any]) -> None:
    if "ready" in hello:
        return
    if "untrusted" in hello:
        types = ", ".join(f"{each!s:.100}" for each in hello["untrusted"])
        raise refusal.RefusedError(
            errors.Reason.EXECUTABLE_ARTIFACT,
            f"the artifact names types that this platform does not trust: {types}",
        )
    if "missing" in hello:
        names = ", ".join(f"{each!s:.100}" for each in hello["missing"])
        raise refusal.RefusedError(
            errors.Reason.SIGNATURE_MISMATCH, f"the estimator has no method {names}"
        )
    if "unavailable" in hello:
        raise errors.UnavailableError(
            errors.Reason.MODEL_NOT_READY, f"skops: {hello['unavailable']!s:.200}"
        )
    raise refusal.RefusedError(
        errors.Reason.INVALID_ARTIFACT,
        f"skops cannot load the artifact ({hello.get('invalid', 'without a reason')!s:.80})",
    )


def _failed(what: str) -> errors.InternalError:
    return errors.InternalError(errors.Reason.INFERENCE_FAILED, what)
