"""The whole story of one prediction, for people."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from setpoint.feature.v1 import definition_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import proto

_STATUSES: dict[int, str] = {
    number: name.removeprefix("FEATURE_STATUS_").lower()
    for name, number in definition_pb2.FeatureStatus.items()
}


def show(
    prediction: prediction_pb2.Prediction,
    assignment: router_service_pb2.ExplainAssignmentResponse,
    console: Console,
) -> None:
    """Prints what was asked, what the model saw, which version answered and why, and what happened."""
    console.rule(f"[bold]Prediction {prediction.prediction_id}")
    console.print(
        f"asked      {_moment(prediction.event_time)} by {prediction.caller or 'unknown'}"
    )
    version = prediction.model_version
    console.print(f"answered   {version.model} version {version.version}: {_outputs(prediction)}")
    console.print(f"why        {assignment.explanation}")
    if prediction.feature_set.name:
        console.print(
            f"features   {prediction.feature_set.name} {prediction.feature_set.version[:12]}…"
        )
    console.print(_inputs(prediction))
    stages = ", ".join(
        f"{name} {value / 1e3:.2f} ms"
        for name, value in sorted(prediction.stage_microseconds.items())
    )
    console.print(f"stages     {stages}")
    console.print(f"trace      {prediction.trace_id or 'not traced'}")
    for degradation in prediction.degradations:
        console.print(f"[yellow]degraded[/]   {degradation}")
    for outcome in prediction.outcomes:
        console.print(f"happened   {outcome.label:g}, known {_moment(outcome.arrival_time)}")
    if not prediction.outcomes:
        console.print("happened   not known yet")


def _inputs(prediction: prediction_pb2.Prediction) -> Table:
    values = proto.from_proto(prediction.inputs).row(0)
    provenance = {each.input: each for each in prediction.provenance}
    table = Table(show_edge=False)
    for heading in ("input", "value", "from", "true since"):
        table.add_column(heading)
    for name, value in values.items():
        origin = provenance.get(name)
        status = _STATUSES.get(origin.status, "") if origin else ""
        known = origin is not None and origin.HasField("event_time")
        table.add_row(
            name,
            "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value),
            status,
            _moment(origin.event_time) if origin is not None and known else "",
        )
    return table


def _outputs(prediction: prediction_pb2.Prediction) -> str:
    values = proto.from_proto(prediction.outputs).row(0)
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _moment(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M} UTC"
