from collections.abc import Mapping

import pytest

import setpoint_artifacts.proto as artifact_messages
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns import DataType
from setpoint_retraining import ports
from setpoint_retraining.adapters import registry


def package_of(samples: Mapping[str, object]) -> ports.Package:
    return ports.Package(
        feature_set=ports.FeatureSetKey("flights", "abc"),
        numbers=("x",),
        texts=("colour",),
        score_column="score",
        threshold=0.5,
        snapshot={},
        metrics={},
        metric_rows=0,
        profiles=(),
        parity={},
        samples=samples,
        environment={},
        code_version="1",
        parent=None,
    )


def test_samples_fit_the_manifest() -> None:
    """What a training recorded is read back by whoever loads the version, with its tolerance."""
    recorded = {
        "numbers": {"x": [1.5, None]},
        "texts": {"colour": ["red", ""]},
        "scores": [0.25, 0.75],
    }
    message = registry._samples(package_of(recorded))
    assert message is not None
    inputs = [
        TensorSpec("numbers", DataType.FLOAT32, ("x",)),
        TensorSpec("texts", DataType.STRING, ("colour",)),
    ]
    outputs = [TensorSpec("probabilities", DataType.FLOAT32, ("not_score", "score"))]
    found = artifact_messages.samples_from_proto(message, inputs, outputs, "samples")
    assert found.inputs.to_rows() == [{"x": 1.5, "colour": "red"}, {"x": None, "colour": ""}]
    assert found.outputs["score"].to_list() == [0.25, 0.75]
    assert found.absolute_tolerance == registry.SAMPLE_TOLERANCE


def test_samples_of_an_older_run() -> None:
    """A run that trained before rows were recorded registers without."""
    assert registry._samples(package_of({})) is None


@pytest.mark.parametrize(("width", "rows"), [(10, 16), (3_000, 8), (20_000, 0)])
def test_samples_of_wide_models(width: int, rows: int) -> None:
    """A manifest stays within its size: wide models record fewer rows, or none."""
    recorded = {
        "numbers": {f"x{index}": [0.5] * 16 for index in range(width)},
        "texts": {},
        "scores": [0.5] * 16,
    }
    message = registry._samples(package_of(recorded))
    assert (message.inputs.rows if message else 0) == rows
    assert message is None or message.outputs.rows == rows
