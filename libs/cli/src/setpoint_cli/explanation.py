"""The whole story of one prediction, for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from google.rpc import code_pb2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from setpoint.common.v1 import column_pb2
from setpoint.feature.v1 import definition_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2, prediction_pb2
from setpoint.router.v1 import route_pb2
from setpoint_columns import proto

_STATUSES: dict[int, str] = {
    number: name.removeprefix("FEATURE_STATUS_").lower()
    for name, number in definition_pb2.FeatureStatus.items()
}


def show(prediction: prediction_pb2.Prediction, route: route_pb2.Route, console: Console) -> None:
    """Prints what was asked, what the model saw, which version answered and why, and what happened.

    Args:
        prediction: The story as monitoring tells it.
        route: The revision of the route that the prediction was answered by.
        console: Where to print.
    """
    console.rule(f"[bold]Prediction {prediction.prediction_id}")
    for heading, text in _facts(prediction, route):
        console.print(f"{heading:<10} {text}", markup=False, highlight=False)
    if prediction.inputs.columns:
        console.print(_inputs(prediction))
    for heading, text in _circumstances(prediction):
        console.print(f"{heading:<10} {text}", markup=False, highlight=False)


def versions(route: route_pb2.Route) -> str:
    """Returns which versions a revision of a route answers with, and which get copies."""
    told = [f"v{each.version} {each.basis_points / 100:g} %" for each in route.weights]
    if route.HasField("ensemble"):
        told.append(_ensemble(route.ensemble))
    if route.HasField("layer"):
        told.append(_layer(route.layer))
    told += [f"shadow v{each.version} {each.basis_points / 100:g} %" for each in route.shadows]
    return ", ".join(told)


def _layer(layer: route_pb2.Layer) -> str:
    part = f"slots {layer.first_slot} to {layer.end_slot - 1} of layer {layer.name}"
    return f"in {part}, else v{layer.baseline_version}"


def _ensemble(ensemble: route_pb2.Ensemble) -> str:
    kind = route_pb2.Combination.Name(ensemble.combination).removeprefix("COMBINATION_")
    members = " + ".join(f"v{each.version}×{each.weight}" for each in ensemble.members)
    return f"{kind.lower().replace('_', ' ')} of {members}, {ensemble.quorum} must answer"


def shadow_facts(
    found: monitoring_service_pb2.CompareShadowResponse,
) -> Iterator[tuple[str, str]]:
    """Returns what can be said of a shadow, as headings and texts."""
    yield "pairs", f"{found.pairs:,}"
    yield "shadow failed on", f"{found.shadow_failures:,}"
    yield "without a primary", f"{found.unpaired:,}"
    if found.scored:
        yield "answers differ", f"{found.differing_share:.2%}"
        if found.HasField("differing_decision_share"):
            yield "decisions differ", f"{found.differing_decision_share:.2%}"
        mean, largest = found.mean_absolute_difference, found.largest_difference
        yield "scores differ by", f"{mean:.4f} on average, {largest:.4f} at most"
    if found.labelled:
        losses = f"{found.shadow_loss:.4f}, of callers' answers {found.primary_loss:.4f}"
        yield "loss", f"{losses}, on {found.labelled:,} pairs with an outcome"
    if found.HasField("loss_difference_lower"):
        low, high = found.loss_difference_lower, found.loss_difference_upper
        yield "loss difference", f"{low:+.4f} to {high:+.4f}, whenever one looks"


def _facts(
    prediction: prediction_pb2.Prediction, route: route_pb2.Route
) -> Iterator[tuple[str, str]]:
    version = prediction.model_version
    asked_by = prediction.caller or "unknown"
    yield "asked", f"{_moment(prediction.event_time)} by {asked_by}"
    if prediction.status:
        code = code_pb2.Code.Name(code_pb2.Code.ValueType(prediction.status))
        yield "failed", f"{code}: {prediction.error}"
        yield "meant for", f"{version.model} {_who(prediction)}"
    else:
        yield "answered", f"{version.model} {_who(prediction)}: {_outputs(prediction)}"
    if prediction.chosen_version not in (0, version.version):
        yield "instead of", f"version {prediction.chosen_version}, which could not answer"
    for member in prediction.members:
        answer = member.error or f"{_row(member.outputs)}{_at(member.inference_replica)}"
        yield "member", f"version {member.version}, weight {member.weight}: {answer}"
    yield "why", _why(prediction, route)
    if prediction.feature_set.name:
        yield (
            "features",
            f"{prediction.feature_set.name} {prediction.feature_set.version[:12]}…",
        )


def _why(prediction: prediction_pb2.Prediction, route: route_pb2.Route) -> str:
    reason = route_pb2.AssignmentReason.Name(
        route_pb2.AssignmentReason.ValueType(prediction.assignment_reason)
    ).removeprefix("ASSIGNMENT_REASON_")
    weights = ", ".join(
        f"version {each.version} {each.basis_points / 100:g} %" for each in route.weights
    )
    if route.HasField("ensemble"):
        weights = _ensemble(route.ensemble)
    if prediction.kind == prediction_pb2.PREDICTION_KIND_SHADOW:
        weights = ", ".join(
            f"shadow {each.version} {each.basis_points / 100:g} %" for each in route.shadows
        )
    if route.HasField("layer"):
        weights = f"{weights}, {_layer(route.layer)}"
    return (
        f"{reason}: key {prediction.assignment_key!r} has slot {prediction.slot}; revision "
        f"{route.revision} of route {route.name} ({weights}) is in force since "
        f"{_moment(route.valid_from)}: {route.reason}"
    )


def _circumstances(prediction: prediction_pb2.Prediction) -> Iterator[tuple[str, str]]:
    yield (
        "stages",
        ", ".join(
            f"{name} {value / 1e3:.2f} ms"
            for name, value in sorted(prediction.stage_microseconds.items())
        ),
    )
    if prediction.inference_replica:
        yield "ran", prediction.inference_replica
    yield "trace", prediction.trace_id or "not traced"
    if prediction.request_id:
        yield "request", prediction.request_id
    for key, value in sorted(prediction.headers.items()):
        yield "header", f"{key}: {value}"
    for degradation in prediction.degradations:
        yield "degraded", degradation
    if prediction.primary_prediction_id:
        yield "copies", prediction.primary_prediction_id
    for shadow in prediction.shadows:
        yield "shadow", _shadow(shadow)
    for outcome in prediction.outcomes:
        yield "happened", f"{outcome.label:g}, known {_moment(outcome.arrival_time)}"
    if not prediction.outcomes:
        yield "happened", "not known yet"


def _at(replica: str) -> str:
    return f" at {replica}" if replica else ""


def _shadow(prediction: prediction_pb2.Prediction) -> str:
    answer = f"failed: {prediction.error}" if prediction.status else _outputs(prediction)
    return f"version {prediction.model_version.version}: {answer} ({prediction.prediction_id})"


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
            _value(value),
            status,
            _moment(origin.event_time) if origin is not None and known else "",
        )
    return table


def _who(prediction: prediction_pb2.Prediction) -> str:
    version = prediction.model_version.version
    return f"version {version}" if version else "ensemble"


def _outputs(prediction: prediction_pb2.Prediction) -> str:
    return _row(prediction.outputs)


def _row(outputs: column_pb2.ColumnBatch) -> str:
    values = proto.from_proto(outputs).row(0)
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _value(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _moment(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M} UTC"
