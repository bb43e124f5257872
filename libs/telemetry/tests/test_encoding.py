from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from setpoint_telemetry import encoding
from setpoint_telemetry.encoding import SpanRecord

SCOPE = "setpoint.test"
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
TEXTS = st.text(max_size=300)
SPAN_IDS = st.integers(1, 2**64 - 1)
TRACE_IDS = st.integers(1, 2**128 - 1)
TIMES = st.integers(0, 2**52)
VALUES = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
RECORDS = st.builds(
    SpanRecord,
    name=TEXTS,
    trace_id=TRACE_IDS,
    span_id=SPAN_IDS,
    parent_span_id=st.none() | SPAN_IDS,
    start_us=TIMES,
    end_us=TIMES,
    kind=st.sampled_from(SpanKind),
    error=st.none() | st.text(min_size=1, max_size=300),
    attributes=st.dictionaries(st.text(min_size=1, max_size=200), VALUES, max_size=70),
    links=st.lists(st.tuples(TRACE_IDS, SPAN_IDS), max_size=3),
)


def _by_the_sdk(record: SpanRecord) -> Any:
    """Makes what the SDK and its exporter make of the same span."""
    parent = None
    if record.parent_span_id:
        parent = SpanContext(record.trace_id, record.parent_span_id, True, SAMPLED)
    attributes = list(record.attributes.items())[: encoding.ATTRIBUTE_COUNT]
    span = ReadableSpan(
        record.name,
        context=SpanContext(record.trace_id, record.span_id, False, SAMPLED),
        parent=parent,
        attributes={
            name: value[: encoding.ATTRIBUTE_LENGTH] if isinstance(value, str) else value
            for name, value in attributes
        },
        links=[Link(SpanContext(*link, True, SAMPLED)) for link in record.links],
        kind=record.kind,
        status=Status(StatusCode.ERROR, record.error) if record.error else Status(),
        start_time=record.start_us * 1000,
        end_time=record.end_us * 1000,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )
    return encode_spans([span]).resource_spans[0].scope_spans


@given(RECORDS)
def test_span_equals_the_sdk(record: SpanRecord) -> None:
    """Whatever a record holds, the bytes are the span that the SDK would have exported."""
    found = trace_pb2.ResourceSpans.FromString(
        encoding.scope_spans(SCOPE, [encoding.joined([record])])
    )
    assert list(found.scope_spans) == list(_by_the_sdk(record))


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.floats(allow_nan=False), max_size=30),
    st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=5),
)
def test_encoded_attributes_equal_plain_ones(
    numbers: dict[str, float], others: dict[str, Any]
) -> None:
    """Attributes that are written ahead or all at once are those written one by one."""
    ids: dict[str, Any] = {"name": "a", "trace_id": 1, "span_id": 1, "start_us": 1, "end_us": 2}
    writer = encoding.Numbers(list(numbers))
    # A writer is used for span after span.
    writer.encode([0.0] * len(numbers))
    ahead = encoding.attributes(others) + writer.encode(list(numbers.values()))
    plain = encoding.attributes(others) + encoding.attributes(numbers)
    assert encoding.span(SpanRecord(**ids, encoded=ahead)) == encoding.span(
        SpanRecord(**ids, encoded=plain)
    )
    assert encoding.span(SpanRecord(**ids, encoded=encoding.attributes(others))) == encoding.span(
        SpanRecord(**ids, attributes=others)
    )


def test_span_replaces_what_is_no_character() -> None:
    """Half a surrogate pair in a text does not lose the span."""
    record = SpanRecord(
        name="predict", trace_id=1, span_id=1, start_us=1, end_us=2, attributes={"a": "x\ud800"}
    )
    found = trace_pb2.Span.FromString(encoding.span(record))
    assert found.attributes[0].value.string_value == "x?"


def test_scope_spans_keeps_order() -> None:
    """Spans of one scope follow each other as they were given."""
    records = [
        SpanRecord(name="a", trace_id=1, span_id=at, start_us=1, end_us=2) for at in range(1, 200)
    ]
    groups = [encoding.joined(records[:100]), encoding.joined(records[100:])]
    found = trace_pb2.ResourceSpans.FromString(encoding.scope_spans(SCOPE, groups))
    ids = [int.from_bytes(span.span_id, "big") for span in found.scope_spans[0].spans]
    assert ids == list(range(1, 200))
