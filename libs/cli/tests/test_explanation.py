"""What is told of a prediction."""

import io

from rich.console import Console

from setpoint.common.v1 import reference_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import route_pb2
from setpoint_cli import explanation
from setpoint_columns import Columns, DataType, proto

ROUTE = route_pb2.Route(
    name="late",
    revision=3,
    reason="version 2 to 10 %",
    weights=[
        route_pb2.VersionWeight(version=1, basis_points=9_000),
        route_pb2.VersionWeight(version=2, basis_points=1_000),
    ],
)


def _told(prediction: prediction_pb2.Prediction) -> str:
    written = io.StringIO()
    explanation.show(prediction, ROUTE, Console(file=written, width=200))
    return written.getvalue()


def _prediction() -> prediction_pb2.Prediction:
    return prediction_pb2.Prediction(
        prediction_id="01a206e4-6ed5-7654-9698-ed3d31af634b",
        assignment_key="[/x]",
        slot=42,
        assignment_reason=route_pb2.ASSIGNMENT_REASON_FALLBACK,
        model_version=reference_pb2.ModelVersionReference(model="late", version=1),
    )


def test_show_tells_the_records_own_reason() -> None:
    """The reason is the one that was recorded, and text that looks like markup is only text."""
    prediction = _prediction()
    values = Columns.from_dict({"carrier": (DataType.STRING, ["[red]UA"])})
    prediction.inputs.CopyFrom(proto.to_proto(values))
    prediction.outputs.CopyFrom(
        proto.to_proto(Columns.from_dict({"probability": (DataType.FLOAT64, [0.25])}))
    )
    told = _told(prediction)
    assert "FALLBACK: key '[/x]' has slot 42" in told
    assert "version 1 90 %, version 2 10 %" in told
    assert "probability 0.2500" in told
    assert "[red]UA" in told


def test_show_tells_why_a_prediction_failed() -> None:
    """A failed prediction has a code, a reason, and no outputs."""
    prediction = _prediction()
    prediction.status = 3
    prediction.error = 'WRONG_TYPE: inputs["distance"] must be a number'
    told = _told(prediction)
    assert "INVALID_ARGUMENT: WRONG_TYPE" in told
    assert 'inputs["distance"]' in told
    assert "answered" not in told
