import numpy as np
import onnxruntime
import pytest

from setpoint_artifacts import onnx_model, testing
from setpoint_runtime import errors
from setpoint_scoring import onnx_engine
from setpoint_scoring.onnx_engine import Options
from setpoint_scoring.runner import Runner

DATA = testing.linear()
AZURE = "AzureExecutionProvider"


def opened(options: Options) -> Runner:
    return onnx_engine.OnnxEngine(options).open(DATA, onnx_model.inspect(DATA), ["score"])


def feeds(rows: int) -> dict[str, np.ndarray]:
    return {"X": np.ones((rows, 2), np.float32)}


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(providers=(AZURE,)),
        Options(intra_threads=2, inter_threads=2),
        Options(intra_threads=0),
    ],
    ids=repr,
)
def test_open_runs(options: Options) -> None:
    """Whatever the providers and threads, the answer is the same."""
    [score] = opened(options).run(feeds(3))
    assert score.tolist() == [[3.5]] * 3


def test_open_arena_bounded() -> None:
    """A shared arena has its limit; a run beyond it fails alone."""
    runner = opened(Options(arena_bytes=2 << 20))
    assert runner.run(feeds(3))[0].tolist() == [[3.5]] * 3
    with pytest.raises(errors.InternalError) as caught:
        runner.run(feeds(1_000_000))
    assert caught.value.reason == errors.Reason.INFERENCE_FAILED
    assert runner.run(feeds(3))[0].tolist() == [[3.5]] * 3


def test_unknown_provider() -> None:
    """A provider that onnxruntime does not bring is refused with those that it does."""
    with pytest.raises(ValueError, match=r"no execution provider 'GPU'; it has .*CPUExecution"):
        onnx_engine.OnnxEngine(Options(providers=("GPU",)))


def test_provider_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is there but cannot start fails the load instead of running on another."""
    there = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    engine = onnx_engine.OnnxEngine(Options(providers=("CUDAExecutionProvider",)))
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(errors.UnavailableError, match="could start only CPUExecutionProvider"),
    ):
        engine.open(DATA, onnx_model.inspect(DATA), ["score"])
