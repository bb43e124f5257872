import pydantic
import pytest

from setpoint_inference import config
from setpoint_inference.domain.batching import Batching, TimeoutAction
from setpoint_scoring.onnx_engine import Options


def test_defaults() -> None:
    """Without settings one thread on the processor runs a call, and nothing waits."""
    settings = config.InferenceSettings()
    assert settings.onnx() == Options()
    assert settings.batching() == Batching(64, max_queued=1024)


def test_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine and batching are set from the environment."""
    for name, value in {
        "ONNX_PROVIDERS": '["AzureExecutionProvider", "CPUExecutionProvider"]',
        "ONNX_INTRA_THREADS": "4",
        "ONNX_ARENA_BYTES": "1000000",
        "BATCH_MAX_ROWS": "32",
        "BATCH_PREFERRED_ROWS": "[8, 16]",
        "BATCH_MAX_QUEUED": "7",
        "BATCH_TIMEOUT_MICROSECONDS": "500",
        "BATCH_TIMEOUT_ACTION": "delay",
    }.items():
        monkeypatch.setenv(f"SETPOINT_INFERENCE_{name}", value)
    settings = config.InferenceSettings()
    providers = ("AzureExecutionProvider", "CPUExecutionProvider")
    assert settings.onnx() == Options(providers, 4, 1, 1_000_000)
    assert settings.batching() == Batching(
        32, (8, 16), max_queued=7, timeout_us=500, timeout_action=TimeoutAction.DELAY
    )


def test_unknown_provider_refused() -> None:
    """A provider that is not there is refused before anything starts, with those that are."""
    with pytest.raises(pydantic.ValidationError, match=r"it has .*CPUExecutionProvider"):
        config.InferenceSettings(onnx_providers=("TensorrtExecutionProvider",))
