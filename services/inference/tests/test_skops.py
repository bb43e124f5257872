"""Estimators in sandboxed processes: their answers, what they may not do, and how they fail."""

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import psutil
import pytest
import skops.io
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import FunctionTransformer

from setpoint.inference.v1 import inference_service_pb2 as pb
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import refusal
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.dtypes import DataType
from setpoint_inference.adapters import skops_backend
from setpoint_inference.adapters.skops_backend import SkopsVersion
from setpoint_inference.domain import skops_types
from setpoint_inference.domain.version import Format, Manifest, VersionKey
from setpoint_inference.testing import Inference, floats, refused
from setpoint_runtime import errors
from setpoint_scoring.packing import AnyArray

Start = Callable[..., AbstractAsyncContextManager[Inference]]
F32 = DataType.FLOAT32
RANDOM = np.random.default_rng(5)
VALUES = RANDOM.normal(size=(120, 2)).astype(np.float32)
LABELS = np.array(["late", "on time – Ünï"])[(VALUES[:, 0] > 0).astype(int)]
FOREST = RandomForestClassifier(5, random_state=0).fit(VALUES, LABELS)
ARTIFACT = skops.io.dumps(FOREST)
OPTIONS = skops_backend.Options(skops_types.DEFAULT, 4 << 30, 30.0, is_sandbox_required=True)
INPUTS = (TensorSpec("X", F32, ("a", "b")),)
OUTPUTS = (
    TensorSpec("predict", DataType.STRING, ("label",)),
    TensorSpec("predict_proba", F32, ("p_late", "p_on_time")),
)


def manifest_of(outputs: Sequence[TensorSpec] = OUTPUTS) -> Manifest:
    return Manifest(VersionKey("late", 1), "", 0, INPUTS, tuple(outputs), format=Format.SKOPS)


async def opened(
    data: bytes, options: skops_backend.Options = OPTIONS, outputs: Sequence[TensorSpec] = OUTPUTS
) -> SkopsVersion:
    return await skops_backend.SkopsBackend(options).open(manifest_of(outputs), data)


@pytest.fixture(scope="module")
async def forest() -> AsyncIterator[SkopsVersion]:
    """A forest, whose process a test may end."""
    made = await opened(ARTIFACT)
    yield made
    await made.close()


@pytest.fixture
async def version(forest: SkopsVersion) -> SkopsVersion:
    """A forest in its process, the first one or another."""
    if forest.pid is None:
        await asked(forest)
    return forest


async def asked(version: SkopsVersion, rows: int = 3, seconds: float = 60.0) -> Sequence[AnyArray]:
    return await version.run({"X": VALUES[:rows]}, rows, seconds)


async def test_run_estimator(version: SkopsVersion) -> None:
    """Labels and probabilities are the estimator's own."""
    labels, probabilities = await asked(version, 120)
    assert labels[:, 0].tolist() == FOREST.predict(VALUES).tolist()
    np.testing.assert_allclose(probabilities, FOREST.predict_proba(VALUES), atol=1e-6)
    assert version.memory_bytes() > 10_000_000


async def test_run_at_once(version: SkopsVersion) -> None:
    """Callers at the same time get their own rows."""
    answers = await asyncio.gather(*(asked(version, rows) for rows in range(1, 20)))
    for rows, answer in enumerate(answers, 1):
        assert answer[0][:, 0].tolist() == FOREST.predict(VALUES[:rows]).tolist()


async def test_run_that_fails(version: SkopsVersion) -> None:
    """Rows that the estimator refuses are an error of that call; the process goes on."""
    process = version.pid
    with pytest.raises(errors.InternalError, match="ValueError") as caught:
        await version.run({"X": np.full((1, 2), np.inf, np.float32)}, 1, 60.0)
    assert caught.value.reason == errors.Reason.INFERENCE_FAILED
    await asked(version)
    assert version.pid == process


async def test_caller_that_leaves(version: SkopsVersion) -> None:
    """A caller that leaves, or runs out of time, costs no process, and its late answer is dropped."""
    process = version.pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    leaving = asyncio.create_task(asked(version))
    waiting = asyncio.create_task(asked(version, 2))
    with pytest.raises(errors.DeadlineExceededError):
        await asked(version, 1, seconds=0.05)
    leaving.cancel()
    os.kill(process, signal.SIGCONT)
    labels, _ = await waiting
    assert labels[:, 0].tolist() == FOREST.predict(VALUES[:2]).tolist()
    assert version.pid == process


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        ({"network": True, "files": True}, ""),
        ({"network": False, "files": True}, "of network,"),
        ("nonsense", "of network and files,"),
    ],
)
def test_missing_isolation_is_told(
    caplog: pytest.LogCaptureFixture, held: object, lacking: str
) -> None:
    """Where a setting allows an estimator without isolation each start of it says what is missing."""
    SkopsVersion(manifest_of(), b"", OPTIONS)._warn_of(held)
    assert [lacking in each for each in caplog.messages] == ([True] if lacking else [])


async def test_trace_survives_the_process(
    version: SkopsVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is a span in its caller's trace, with what the process says of it, failed ones too."""
    told, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(version, "_tracer", tracer)
    with tracer.start_as_current_span("call") as call:
        await asked(version)
        with pytest.raises(errors.InternalError):
            await version.run({"X": np.full((1, 2), np.inf, np.float32)}, 1, 60.0)
    provider.force_flush()
    spans = [each for each in told.get_finished_spans() if each.name == skops_backend.SPAN]
    assert [each.status.is_ok for each in spans] == [True, False]
    for span, rows in zip(spans, (3, 1), strict=True):
        facts = dict(span.attributes or {})
        assert span.parent is not None
        assert span.parent.span_id == call.get_span_context().span_id
        assert span.context.trace_id == call.get_span_context().trace_id
        assert facts["setpoint.worker_pid"] == version.pid
        assert (facts["setpoint.model"], facts["setpoint.rows"]) == ("late", rows)
        assert facts["setpoint.run_seconds"] > 0  # type: ignore[operator]  # it is a float
        assert facts["setpoint.queue_seconds"] >= 0  # type: ignore[operator]  # it is a float


async def test_process_is_bare(version: SkopsVersion) -> None:
    """The process has no secrets of ours, no sockets, and limits."""
    process = psutil.Process(version.pid)
    assert set(process.environ()) <= {*skops_backend._ENVIRONMENT, "LC_CTYPE"}
    folder = Path(f"/proc/{process.pid}")
    targets = {str(each.readlink()) for each in (folder / "fd").iterdir()}
    assert not any(each.startswith("socket:") for each in targets)
    assert process.rlimit(psutil.RLIMIT_AS)[0] == OPTIONS.memory_bytes
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)


async def test_crash_fails_its_calls_alone(version: SkopsVersion) -> None:
    """When the process dies its call fails, and the next one has a new process."""
    process = version.pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    dying = asyncio.create_task(asked(version))
    next_one = asyncio.create_task(asked(version, 4))
    await asyncio.sleep(0)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(errors.InternalError, match="lost"):
        await dying
    labels, _ = await next_one
    assert labels[:, 0].tolist() == FOREST.predict(VALUES[:4]).tolist()
    assert version.pid != process


async def test_hang_is_killed(version: SkopsVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that takes too long is stopped with its process, not waited for."""
    process = version.pid
    assert process is not None
    patient = version._options
    hasty = skops_backend.Options((), 0, 0.05, is_sandbox_required=True)
    monkeypatch.setattr(version, "_options", hasty)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(errors.InternalError, match=r"more than 0.05 s"):
        await asked(version)
    assert version.pid is None
    assert not psutil.pid_exists(process)
    monkeypatch.setattr(version, "_options", patient)


async def test_open_untrusted_type(tmp_path: Path) -> None:
    """An artifact that names a type nobody trusts is refused by that name and never loaded."""
    trace = tmp_path / "executed"
    evil = FunctionTransformer(functools.partial(os.system, f"touch {trace}"))
    outputs = [TensorSpec("transform", F32, ("y",))]
    with pytest.raises(refusal.RefusedError, match=r"posix\.system") as caught:
        await opened(skops.io.dumps(evil), outputs=outputs)
    assert caught.value.reason == errors.Reason.EXECUTABLE_ARTIFACT
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"PK", b"", ARTIFACT[:-100]], ids=["head", "empty", "cut"])
async def test_open_broken_archive(data: bytes) -> None:
    """What is no whole archive is refused before a process is started."""
    with pytest.raises(refusal.RefusedError) as caught:
        await opened(data)
    assert caught.value.reason == errors.Reason.INVALID_ARTIFACT


async def test_open_unknown_method() -> None:
    """Only methods that answer for rows can be outputs."""
    with pytest.raises(refusal.RefusedError, match="'fit' is no method") as caught:
        await opened(ARTIFACT, outputs=[TensorSpec("fit", F32, ("y",))])
    assert caught.value.reason == errors.Reason.SIGNATURE_MISMATCH


async def test_predict_over_the_wire(start: Start) -> None:
    """A registered skops version is served where that is enabled, and its process goes with it."""
    inputs = [("X", F32, ("a", "b"))]
    outputs = [(spec.name, spec.dtype, spec.columns) for spec in OUTPUTS]
    format = model_pb2.ARTIFACT_FORMAT_SKOPS
    rows = floats({"a": VALUES[:5, 0], "b": VALUES[:5, 1]})
    async with start() as inference:
        inference.registry.add("late", 1, ARTIFACT, inputs, outputs, format=format)
        error = await refused(inference.load("late", 1))
        assert error.reason == errors.Reason.EXECUTABLE_ARTIFACT
        assert "SKOPS is not served here" in error.message
    own = psutil.Process()
    before = {*own.children()}
    async with start(skops_enabled=True) as inference:
        loaded = await inference.load("late", 1)
        assert loaded.state == pb.LOAD_STATE_READY
        assert loaded.memory_bytes > 10_000_000
        got = await inference.predict("late", 1, rows)
        assert got["label"].to_list() == FOREST.predict(VALUES[:5]).tolist()
        [worker] = {*own.children()} - before
        await inference.unload("late", 1)
        assert not worker.is_running()
