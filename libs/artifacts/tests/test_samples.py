import numpy as np
import pytest

import setpoint_columns.proto as column_messages
from setpoint.registry.v1 import model_pb2
from setpoint_artifacts import proto
from setpoint_artifacts.samples import Samples
from setpoint_artifacts.signature import TensorSpec
from setpoint_columns.columns import Columns
from setpoint_columns.dtypes import DataType
from setpoint_runtime import errors

F32, F64 = DataType.FLOAT32, DataType.FLOAT64
INPUTS = (TensorSpec("X", F32, ("a", "b")),)
OUTPUTS = (TensorSpec("p", F32, ("no", "yes")), TensorSpec("l", DataType.STRING, ("label",)))
GIVEN = Columns.from_dict({"a": (F64, [1.0, None]), "b": (F64, [2.0, 3.0])})
EXPECTED = Columns.from_dict(
    {"yes": (F32, [0.5, float("nan")]), "label": (DataType.STRING, ["x", "ü"])}
)
ANSWERS = {
    "yes": np.array([0.5, np.nan], np.float32),
    "no": np.zeros(2, np.float32),
    "label": np.array(["x", "ü"], object),
}


def test_mismatch_none() -> None:
    """Equal answers do not differ; NaN is equal to NaN, and what was not recorded does not count."""
    assert Samples(GIVEN, EXPECTED).mismatch(ANSWERS) is None


@pytest.mark.parametrize(
    ("column", "value", "absolute", "relative"),
    [
        ("yes", 0.5001, 1e-5, 0.0),
        ("yes", 0.5001, 0.0, 1e-5),
        ("yes", float("nan"), 1.0, 1.0),
        ("yes", float("inf"), 1.0, 1.0),
        ("label", "y", 1.0, 1.0),
    ],
)
def test_mismatch_names_row(column: str, value: object, absolute: float, relative: float) -> None:
    """An answer beyond the tolerance is named by column and row, with both values."""
    changed = ANSWERS[column].copy()
    changed[0] = value
    said = Samples(GIVEN, EXPECTED, absolute, relative).mismatch({**ANSWERS, column: changed})
    assert said is not None
    assert f"{column!r} of recorded row 0" in said
    assert "1 of 2 rows differ" in said


@pytest.mark.parametrize(("absolute", "relative"), [(2e-4, 0.0), (0.0, 3e-4), (1e-4, 1e-4)])
def test_mismatch_within_tolerance(absolute: float, relative: float) -> None:
    """The two tolerances add up."""
    changed = ANSWERS["yes"].copy()
    changed[0] = 0.50014
    samples = Samples(GIVEN, EXPECTED, absolute, relative)
    assert samples.mismatch({**ANSWERS, "yes": changed}) is None


def message(
    given: Columns = GIVEN, expected: Columns = EXPECTED, **tolerances: float
) -> model_pb2.Samples:
    return model_pb2.Samples(
        inputs=column_messages.to_proto(given),
        outputs=column_messages.to_proto(expected),
        **tolerances,
    )


def test_samples_from_proto() -> None:
    """Rows come as they were recorded."""
    found = proto.samples_from_proto(message(absolute_tolerance=0.25), INPUTS, OUTPUTS, "samples")
    assert found.inputs.to_rows() == GIVEN.to_rows()
    assert found.outputs.schema == EXPECTED.schema
    assert (found.absolute_tolerance, found.relative_tolerance) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("samples", "field"),
    [
        (message(GIVEN.slice(0, 0), EXPECTED.slice(0, 0)), "samples.inputs.rows"),
        (message(GIVEN, EXPECTED.slice(0, 1)), "samples.outputs.rows"),
        (message(GIVEN.select(["a"])), "samples.inputs.b"),
        (message(GIVEN, EXPECTED.select([])), "samples.outputs.columns"),
        (message(GIVEN, GIVEN.select(["b"])), "samples.outputs.b"),
        (message(GIVEN, Columns.from_dict({"yes": (F64, [0.0, 1.0])})), "samples.outputs.yes"),
        (message(GIVEN, Columns.from_dict({"yes": (F32, [0.0, None])})), "samples.outputs.yes"),
        (message(absolute_tolerance=-1.0), "samples.absolute_tolerance"),
        (message(relative_tolerance=float("nan")), "samples.relative_tolerance"),
    ],
)
def test_samples_refused(samples: model_pb2.Samples, field: str) -> None:
    """Rows that do not fit their manifest are refused by their path."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        proto.samples_from_proto(samples, INPUTS, OUTPUTS, "samples")
    assert caught.value.violations[0].field == field
