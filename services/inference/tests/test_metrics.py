from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from setpoint_artifacts import testing as artifacts
from setpoint_columns.dtypes import DataType
from setpoint_inference import config, testing, wiring
from setpoint_rpc import channel
from setpoint_testkit.serving import Serve


async def test_metrics_count(
    serve: Serve, fake_registry: tuple[testing.FakeRegistry, str], tmp_path: Any
) -> None:
    """Calls are counted by where they ran, rows by version, versions by state."""
    fake, address = fake_registry
    spec = [("X", DataType.FLOAT32, ("a", "b"))]
    score = [("score", DataType.FLOAT32, ("score",))]
    fake.add("linear", 1, artifacts.linear(), spec, score)
    settings = config.InferenceSettings(
        registry_address=address, cache_directory=str(tmp_path), inline_microseconds=5000
    )
    async with (
        serve(wiring.build, settings) as server,
        channel.connect(server.address, client="test") as opened,
    ):
        stub = testing.stub_of(opened)
        for rows in (1, 2, 1_000_000 // 8):
            values = np.ones(rows)
            request = testing.predict_request(
                "linear", 1, testing.floats({"a": values, "b": values})
            )
            await stub.Predict(request, timeout=10)
        value = reader(server.metrics_registry)
        one = {"model": "linear", "version": "1"}
        assert value("setpoint_inference_calls_total", place="loop", **one) >= 2
        assert value("setpoint_inference_rows_total", **one) == 125_003
        assert value("setpoint_inference_run_seconds_total", **one) > 0
        assert value("setpoint_inference_versions", state="ready") == 1
        assert value("setpoint_inference_versions", state="failed") == 0
        assert value("setpoint_inference_loaded_bytes") >= len(artifacts.linear())
        assert value("setpoint_inference_loads_total", result="ready") == 1
        assert value("setpoint_inference_loads_total", result="failed") == 0
        assert value("setpoint_inference_evictions_total", loaded_by="call") == 0
        assert value("setpoint_inference_evictions_total", loaded_by="name") == 0
        assert value("setpoint_inference_pool_taken") == 0


def reader(registry: CollectorRegistry) -> Callable[..., float]:
    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(name, labels)
        if found is None:
            pytest.fail(f"there is no {name}{labels}")
        return found

    return value
