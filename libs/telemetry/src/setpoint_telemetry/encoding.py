"""Spans of records as OTLP's bytes.

One prediction is one span with some thirty attributes. Through the SDK's span and the exporter's
messages, an object for every attribute and two for its value, that costs more processor time than
the prediction itself; written straight into bytes it costs a tenth.

The layout is that of `opentelemetry/proto/trace/v1/trace.proto`. Fields are written by their tags;
a test compares every kind of them with what the SDK writes.
"""

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from opentelemetry.trace import SpanKind

AttributeValue = str | bool | int | float

# Fields such as an input text or a vector must not turn a span into a record.
ATTRIBUTE_LENGTH = 256
ATTRIBUTE_COUNT = 64

_NANOSECONDS_PER_MICROSECOND = 1000
_INT64_MASK = (1 << 64) - 1
_SHORT = [bytes((number,)) for number in range(0x80)]
"""Numbers of one byte, which lengths mostly are."""

# A span context in a link or a parent: it is known whether it came from elsewhere, and it did.
_IS_LOCAL = struct.pack("<HI", 0x0185, 0x100)
_IS_REMOTE = struct.pack("<HI", 0x0185, 0x300)
_LINK_TAIL = struct.pack("<BI", 0x35, 0x300)
_TIMES = struct.Struct("<BQBQ")
_IDS = 0x0A10 << 208 | 0x1208 << 64
"""A trace id of 16 bytes and a span id of 8, each behind its tag and length."""

_DOUBLE = struct.Struct("<d")
_ERROR_CODE = b"\x18\x02"
_NO_STATUS = b"\x7a\x00"


@dataclass(slots=True, kw_only=True)
class SpanRecord:
    """A span that is over, as written down on the way; ids are those of W3C trace context."""

    name: str
    trace_id: int
    span_id: int
    parent_span_id: int | None = None
    start_us: int
    end_us: int
    kind: SpanKind = SpanKind.INTERNAL
    error: str | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    encoded: bytes = b""
    """Further attributes, as `attributes` and `Numbers` write them."""
    links: Sequence[tuple[int, int]] = ()
    """Trace and span ids of spans that this one shares work with."""


class Alike:
    """Writes spans that have name, kind and end in common, as those of shared work have.

    Args:
        name: Of the spans.
        kind: Of the spans.
        end_us: When all of them ended.
    """

    __slots__ = ("_end_ns", "_named")

    def __init__(self, name: str, kind: SpanKind, end_us: int) -> None:
        self._named = _named(name, kind)
        self._end_ns = end_us * _NANOSECONDS_PER_MICROSECOND

    def span(
        self,
        trace_id: int,
        span_id: int,
        parent_span_id: int | None,
        start_us: int,
        attributes: bytes,
        links: bytes = b"",
        error: str | None = None,
    ) -> bytes:
        """Return a serialised `opentelemetry.proto.trace.v1.Span`.

        Args:
            trace_id: As in W3C trace context, like the other ids.
            span_id: Of the span.
            parent_span_id: Of the span above it, None or 0 without one.
            start_us: When it began.
            attributes: As `attributes`, `text` and `Numbers` write them.
            links: As `links` writes them.
            error: What went wrong, if anything did.
        """
        parent = parent_span_id
        return b"".join(
            (
                (_IDS | trace_id << 80 | span_id).to_bytes(28, "big"),
                b"\x22\x08" + parent.to_bytes(8, "big") if parent else b"",
                self._named,
                _TIMES.pack(0x39, start_us * _NANOSECONDS_PER_MICROSECOND, 0x41, self._end_ns),
                attributes,
                links,
                _field(b"\x7a", _text(b"\x12", error) + _ERROR_CODE) if error else _NO_STATUS,
                _IS_REMOTE if parent else _IS_LOCAL,
            )
        )


def span(record: SpanRecord) -> bytes:
    """Return a serialised `opentelemetry.proto.trace.v1.Span`; its attributes are bounded."""
    pairs = itertools.islice(record.attributes.items(), ATTRIBUTE_COUNT)
    return Alike(record.name, record.kind, record.end_us).span(
        record.trace_id,
        record.span_id,
        record.parent_span_id,
        record.start_us,
        b"".join([*(_attribute(*pair) for pair in pairs), record.encoded]),
        links(record.links),
        record.error,
    )


def links(spans: Iterable[tuple[int, int]]) -> bytes:
    """Return links to spans, given by trace and span ids, for `Alike.span`."""
    return b"".join([_link(*each) for each in spans])


def _link(trace_id: int, span_id: int) -> bytes:
    ids = (_IDS | trace_id << 80 | span_id).to_bytes(28, "big")
    return b"\x6a\x21" + ids + _LINK_TAIL


def text(name: str, value: str) -> bytes:
    """Return an attribute that is a text, of which most are as long as those before."""
    content = value[:ATTRIBUTE_LENGTH].encode("utf-8", "replace")
    return _text_prefix(name, len(content)) + content


def attributes(values: Mapping[str, AttributeValue]) -> bytes:
    """Return attributes for `SpanRecord.encoded`, for what many spans have in common."""
    return b"".join([_attribute(*pair) for pair in values.items()])


class Numbers:
    """Writes the same float attributes for many spans, all of a span at once.

    Args:
        names: Of the attributes, in the order in which their values are given.
    """

    __slots__ = ("_parts", "_struct")

    def __init__(self, names: Sequence[str]) -> None:
        prefixes = [_double_prefix(name) for name in names]
        self._struct = struct.Struct("<" + "".join(f"{len(prefix)}sd" for prefix in prefixes))
        self._parts: list[bytes | float] = [part for each in prefixes for part in (each, 0.0)]

    def encode(self, values: Sequence[float]) -> bytes:
        """Return the attributes of one span, for `SpanRecord.encoded`."""
        parts = self._parts
        parts[1::2] = values
        return self._struct.pack(*parts)


def joined(spans: Iterable[SpanRecord | bytes]) -> bytes:
    """Return spans, serialised already or not, as fields of a `ScopeSpans`."""
    return b"".join(
        [_field(b"\x12", each if isinstance(each, bytes) else span(each)) for each in spans]
    )


def scope_spans(scope: str, spans: Sequence[bytes]) -> bytes:
    """Return a serialised `ScopeSpans` of what `joined` returns, as a field of `ResourceSpans`."""
    return _field(b"\x12", b"".join([_field(b"\x0a", _text(b"\x0a", scope)), *spans]))


def _attribute(name: str, value: AttributeValue) -> bytes:
    """Return an attribute as a field of a span."""
    if value.__class__ is float:
        return _double_prefix(name) + _DOUBLE.pack(value)
    if isinstance(value, str):
        return text(name, value)
    if isinstance(value, bool):
        content = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        content = b"\x18" + _varint(value & _INT64_MASK)
    else:
        content = b"\x21" + _DOUBLE.pack(value)
    return _field(b"\x4a", _key(name) + _field(b"\x12", content))


@lru_cache(maxsize=4096)
def _key(name: str) -> bytes:
    return _text(b"\x0a", name)


@lru_cache(maxsize=4096)
def _double_prefix(name: str) -> bytes:
    """Return everything of an attribute before the eight bytes of its number."""
    key = _key(name)
    return b"\x4a" + _varint(len(key) + 11) + key + b"\x12\x09\x21"


@lru_cache(maxsize=4096)
def _text_prefix(name: str, length: int) -> bytes:
    """Return everything of an attribute before the bytes of its text."""
    key, value = _key(name), b"\x0a" + _varint(length)
    inner = key + b"\x12" + _varint(len(value) + length) + value
    return b"\x4a" + _varint(len(inner) + length) + inner


@lru_cache(maxsize=256)
def _named(name: str, kind: SpanKind) -> bytes:
    """Return name and kind, whose numbers are one higher than the SDK's."""
    return _text(b"\x2a", name) + b"\x30" + _varint(kind.value + 1)


def _text(tag: bytes, text: str) -> bytes:
    # Half a surrogate pair, which Python's texts may hold, is no character.
    return _field(tag, text.encode("utf-8", "replace"))


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
