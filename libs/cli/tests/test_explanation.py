"""What is told of a prediction."""

import io

from rich.console import Console

from setpoint.common.v1 import reference_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2, prediction_pb2
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
    shadows=[route_pb2.Shadow(version=3, basis_points=500)],
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


def test_show_tells_for_whom_the_fallback_stood_in() -> None:
    """Where another version was assigned it is named; where it is the same one nothing is said."""
    prediction = _prediction()
    prediction.status = 14
    prediction.chosen_version = 2
    assert "instead of version 2, which could not answer" in _told(prediction)
    prediction.chosen_version = 1
    assert "instead of" not in _told(prediction)


def test_show_tells_why_a_prediction_failed() -> None:
    """A failed prediction has a code, a reason, and no outputs."""
    prediction = _prediction()
    prediction.status = 3
    prediction.error = 'WRONG_TYPE: inputs["distance"] must be a number'
    told = _told(prediction)
    assert "INVALID_ARGUMENT: WRONG_TYPE" in told
    assert 'inputs["distance"]' in told
    assert "answered" not in told


def test_show_tells_shadows() -> None:
    """A primary tells what its shadows answered, and a shadow what it copies."""
    outputs = proto.to_proto(Columns.from_dict({"probability": (DataType.FLOAT64, [0.5])}))
    prediction = _prediction()
    prediction.outputs.CopyFrom(outputs)
    answered = prediction.shadows.add(prediction_id="s1", outputs=outputs)
    answered.model_version.version = 2
    failed = prediction.shadows.add(prediction_id="s2", status=13, error="INFERENCE_FAILED: no")
    failed.model_version.version = 3
    told = _told(prediction)
    assert "version 2: probability 0.5000 (s1)" in told
    assert "version 3: failed: INFERENCE_FAILED: no (s2)" in told
    shadow = _prediction()
    shadow.kind = prediction_pb2.PREDICTION_KIND_SHADOW
    shadow.primary_prediction_id = "p1"
    shadow.outputs.CopyFrom(outputs)
    shadow.assignment_reason = route_pb2.ASSIGNMENT_REASON_SHADOW
    told = _told(shadow)
    assert "SHADOW: key" in told
    assert "(shadow 3 5 %)" in told
    assert "copies     p1" in told


def test_show_tells_where_it_ran_and_what_the_caller_brought() -> None:
    """The replica that answered, the caller's own id and the kept headers are shown where they are."""
    prediction = _prediction()
    outputs = proto.to_proto(Columns.from_dict({"probability": (DataType.FLOAT64, [0.5])}))
    prediction.outputs.CopyFrom(outputs)
    told = _told(prediction)
    assert not any(f"\n{heading} " in told for heading in ("ran", "request", "header"))
    prediction.inference_replica = "10.0.0.1:7401"
    prediction.request_id = "mine"
    prediction.headers["x-tenant"] = "blue"
    address = "10.0.0.2:7401"
    prediction.members.add(version=2, weight=1, inference_replica=address, outputs=outputs)
    told = _told(prediction)
    assert "10.0.0.1:7401" in told
    assert "mine" in told
    assert "x-tenant: blue" in told
    assert "probability 0.5000 at 10.0.0.2:7401" in told


def test_versions_tells_shadows() -> None:
    """A route's line names who answers and who gets copies."""
    assert explanation.versions(ROUTE) == "v1 90 %, v2 10 %, shadow v3 5 %"


def test_versions_tells_layer() -> None:
    """A route that is for some keys alone says which, and who serves the others."""
    route = route_pb2.Route(
        weights=[route_pb2.VersionWeight(version=2, basis_points=10_000)],
        layer=route_pb2.Layer(name="prices", first_slot=0, end_slot=500, baseline_version=1),
    )
    assert explanation.versions(route) == "v2 100 %, in slots 0 to 499 of layer prices, else v1"


def test_shadow_facts_leave_out_what_is_unknown() -> None:
    """Nothing is said of scores and losses while there are none."""
    found = monitoring_service_pb2.CompareShadowResponse(shadow_failures=2)
    assert [heading for heading, _ in explanation.shadow_facts(found)] == [
        "pairs",
        "shadow failed on",
        "without a primary",
    ]
    found.scored, found.differing_share, found.differing_decision_share = 3, 0.25, 0.125
    found.labelled, found.shadow_loss, found.loss_difference_upper = 2, 0.5, 0.25
    found.loss_difference_lower = -0.125
    told = dict(explanation.shadow_facts(found))
    assert (told["answers differ"], told["decisions differ"]) == ("25.00%", "12.50%")
    assert told["loss"].startswith("0.5000")
    assert told["loss difference"].startswith("-0.1250 to +0.2500")


def test_show_tells_members() -> None:
    """An ensemble's answer comes with what each member said."""
    route = route_pb2.Route(name="late", revision=1)
    route.ensemble.combination = route_pb2.COMBINATION_WEIGHTED_MEAN
    route.ensemble.quorum = 1
    route.ensemble.members.add(version=1, weight=2)
    route.ensemble.members.add(version=4, weight=1)
    outputs = proto.to_proto(Columns.from_dict({"probability": (DataType.FLOAT64, [0.5])}))
    prediction = _prediction()
    prediction.model_version.version = 0
    prediction.assignment_reason = route_pb2.ASSIGNMENT_REASON_ENSEMBLE
    prediction.outputs.CopyFrom(outputs)
    prediction.members.add(version=1, weight=2, outputs=outputs)
    prediction.members.add(version=4, weight=1, error="INFERENCE_FAILED: no")
    written = io.StringIO()
    explanation.show(prediction, route, Console(file=written, width=200))
    told = written.getvalue()
    assert "late ensemble: probability 0.5000" in told
    assert "version 1, weight 2: probability 0.5000" in told
    assert "version 4, weight 1: INFERENCE_FAILED: no" in told
    assert "(weighted mean of v1×2 + v4×1, 1 must answer)" in told
    assert explanation.versions(route) == "weighted mean of v1×2 + v4×1, 1 must answer"
