"""Spans of records as OTLP's bytes.

One prediction is one span with some thirty attributes. Through the SDK's span and the exporter's
messages, an object for every attribute and two for its value, that costs more processor time than
the prediction itself; written straight into bytes it costs a tenth.

The layout is that of `opentelemetry/proto/trace/v1/trace.proto`. Fields are written by their tags;
a test compares every kind of them with what the SDK writes.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
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


def span(record: SpanRecord) -> bytes:
    """Return a serialised `opentelemetry.proto.trace.v1.Span`; its attributes are bounded."""
    parent = record.parent_span_id
    parts = [
        b"\x0a\x10",
        record.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        record.span_id.to_bytes(8, "big"),
        b"\x22\x08" + parent.to_bytes(8, "big") if parent else b"",
        _named(record.name, record.kind),
        _TIMES.pack(
            0x39,
            record.start_us * _NANOSECONDS_PER_MICROSECOND,
            0x41,
            record.end_us * _NANOSECONDS_PER_MICROSECOND,
        ),
    ]
    pairs = record.attributes.items()
    if len(pairs) > ATTRIBUTE_COUNT:
        parts += [_attribute(*pair) for pair in itertools.islice(pairs, ATTRIBUTE_COUNT)]
    else:
        parts += [_attribute(*pair) for pair in pairs]
    parts.append(record.encoded)
    parts += [_link(*each) for each in record.links]
    if record.error:
        parts.append(_field(b"\x7a", _text(b"\x12", record.error) + _ERROR_CODE))
    else:
        parts.append(_NO_STATUS)
    parts.append(_IS_REMOTE if parent else _IS_LOCAL)
    return b"".join(parts)


def _link(trace_id: int, span_id: int) -> bytes:
    return b"".join(
        (
            b"\x6a\x21\x0a\x10",
            trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            span_id.to_bytes(8, "big"),
            _LINK_TAIL,
        )
    )


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


def joined(records: Sequence[SpanRecord]) -> bytes:
    """Return serialised spans as fields of a `ScopeSpans`."""
    return b"".join([_field(b"\x12", span(record)) for record in records])


def scope_spans(scope: str, spans: Sequence[bytes]) -> bytes:
    """Return a serialised `ScopeSpans` of what `joined` returns, as a field of `ResourceSpans`."""
    return _field(b"\x12", b"".join([_field(b"\x0a", _text(b"\x0a", scope)), *spans]))


def _attribute(name: str, value: AttributeValue) -> bytes:
    """Return an attribute as a field of a span."""
    if value.__class__ is float:
        return _double_prefix(name) + _DOUBLE.pack(value)
    if isinstance(value, str):
        content = _text(b"\x0a", value[:ATTRIBUTE_LENGTH])
    elif isinstance(value, bool):
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
