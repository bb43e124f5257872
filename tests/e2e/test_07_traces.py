"""Story 7: one trace shows one prediction in every service that had a part in it."""

import secrets

import pytest
from tests.support import otlp, parcels, waiting
from tests.support import world as worlds

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_telemetry import names

pytestmark = pytest.mark.timeout(300)

SERVICES = {"setpoint-router", "setpoint-feature", "setpoint-inference"}
PREDICTION = "setpoint.predict"


def _request(world: worlds.World) -> router_service_pb2.PredictRequest:
    return router_service_pb2.PredictRequest(
        route=parcels.ROUTE,
        entities={
            "depot": value_pb2.Value(string_value=parcels.DEPOTS[0]),
            "crew": value_pb2.Value(string_value=parcels.CREWS[0]),
        },
        inputs={
            "distance": value_pb2.Value(double_value=120.0),
            "kind": value_pb2.Value(string_value="box"),
            "hour": value_pb2.Value(int_value=3),
        },
        event_time=parcels.midnight(world.days),
    )


async def _whole_trace(spans: otlp.Receiver, trace_id: str) -> list[otlp.Span]:
    """Waits until each service has sent its part of a trace."""

    async def ask() -> list[otlp.Span]:
        return spans.trace(trace_id)

    return await waiting.until(ask, lambda found: {each.service for each in found} >= SERVICES)


def _prediction(found: list[otlp.Span], prediction_id: str) -> otlp.Span:
    [span] = [each for each in found if each.attributes.get(names.PREDICTION_ID) == prediction_id]
    assert (span.name, span.service) == (PREDICTION, "setpoint-router")
    return span


def _is_below(span: otlp.Span, top: otlp.Span, found: list[otlp.Span]) -> bool:
    """Says whether a span hangs below another one, through any number of others."""
    by_id = {each.span_id: each for each in found}
    while span.parent_span_id in by_id:
        if span.parent_span_id == top.span_id:
            return True
        span = by_id[span.parent_span_id]
    return False


async def test_trace_holds_the_spans_of_a_prediction(
    world: worlds.World, spans: otlp.Receiver
) -> None:
    """Proves that a caller's trace goes on in router, feature and inference, with what was decided."""
    trace_id, caller_span = secrets.token_hex(16), secrets.token_hex(8)
    answer = await world.services.router.Predict(
        _request(world),
        timeout=worlds.CALL_SECONDS,
        metadata=(("traceparent", f"00-{trace_id}-{caller_span}-01"),),
    )
    found = await _whole_trace(spans, trace_id)
    prediction = _prediction(found, answer.prediction_id)
    assert prediction.parent_span_id == caller_span
    version = answer.assignment.model_version
    expected = {
        names.MODEL: version.model,
        names.MODEL_VERSION: version.version,
        names.ROUTE: parcels.ROUTE,
        names.ROUTE_REVISION: answer.assignment.route_revision,
        names.SLOT: answer.assignment.slot,
        names.FEATURE_SET: answer.feature_set.name,
        names.FEATURE_SET_VERSION: answer.feature_set.version,
        names.RPC_STATUS_CODE: 0,
    }
    assert prediction.attributes.items() >= expected.items()
    for service in SERVICES - {prediction.service}:
        [span] = [each for each in found if each.service == service]
        assert _is_below(span, prediction, found), span
    await world.wait_for_records([answer.prediction_id])
    story = await world.client.get_prediction(answer.prediction_id, timeout=worlds.CALL_SECONDS)
    assert story.trace_id == trace_id
    assert story.message.span_id == prediction.span_id


async def test_trace_begins_at_the_router_without_a_caller(
    world: worlds.World, spans: otlp.Receiver
) -> None:
    """Proves that a prediction without a trace gets one, which its record names."""
    answer = await world.services.router.Predict(_request(world), timeout=worlds.CALL_SECONDS)
    await world.wait_for_records([answer.prediction_id])
    story = await world.client.get_prediction(answer.prediction_id, timeout=worlds.CALL_SECONDS)
    assert story.trace_id
    found = await _whole_trace(spans, story.trace_id)
    assert _prediction(found, answer.prediction_id).parent_span_id == ""


async def test_trace_shows_no_sensitive_value(world: worlds.World, spans: otlp.Receiver) -> None:
    """Proves that values of inputs appear in spans, but not of those marked as sensitive."""
    trace_id = secrets.token_hex(16)
    await world.services.router.Predict(
        _request(world),
        timeout=worlds.CALL_SECONDS,
        metadata=(("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),),
    )
    found = await _whole_trace(spans, trace_id)
    shown = {key for each in found for key in each.attributes}
    assert f"{names.FEATURE_VALUE_PREFIX}queue" in shown
    assert not [key for key in shown if "sick_share" in key]
