"""The rules of RFC 9113, one by one, against frames that a client should not, or may, send."""

import asyncio
from typing import Any

import pytest

from setpoint_rpc.http2 import frames, headers, messages, testing
from setpoint_rpc.http2.frames import ErrorCode, Setting
from setpoint_rpc.http2.testing import Wire, fields, message

BLOCK = headers.block(fields())
WHOLE = frames.END_HEADERS | frames.END_STREAM


async def _echo(request: Any, _: Any) -> bytes:
    return bytes(request)


@pytest.fixture
async def wire() -> Wire:
    """A greeted connection to an echo."""
    return Wire(testing.listener(_echo))


async def _works(wire: Wire, stream: int = 101) -> bool:
    wire.ask(stream, b"still here")
    answer = await wire.answer(stream)
    return answer.messages == [b"still here"] and answer.status == 0


# The beginning.


async def test_greet_tells_limits_first() -> None:
    """The server's first frame is SETTINGS, sent before the client has said anything."""
    wire = Wire(testing.listener(_echo), is_greeting=False)

    first = wire.of(frames.SETTINGS)[0]

    values = dict(frames.settings_of(first.payload))
    assert wire.record.frames[0] is first
    assert values[Setting.MAX_CONCURRENT_STREAMS] == 1000
    assert values[Setting.INITIAL_WINDOW_SIZE] == messages.RECEIVE_WINDOW


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0",
        frames.PREFACE[:-1] + b"x",
        frames.PREFACE + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.PREFACE + frames.frame(frames.HEADERS, WHOLE, 1, BLOCK),
        frames.PREFACE + frames.frame(frames.DATA, 0, 1, b"x"),
        frames.PREFACE + frames.frame(0xBE, 0, 0),
    ],
    ids=["HTTP/1.1", "other protocol", "preface cut", "PING", "HEADERS", "DATA", "unknown"],
)
async def test_refuse_what_does_not_begin_as_http2(first: bytes) -> None:
    """A client speaks the preface and SETTINGS before anything else (sections 3.4 and 6.5)."""
    wire = Wire(testing.listener(_echo), is_greeting=False)

    wire.feed(first)

    assert wire.failure == ErrorCode.PROTOCOL_ERROR


async def test_acknowledge_settings(wire: Wire) -> None:
    """SETTINGS are acknowledged once each, acknowledgements are not (section 6.5.3)."""
    wire.set({Setting.MAX_HEADER_LIST_SIZE: 1})
    wire.frame(frames.SETTINGS, frames.ACK)

    acknowledged = [each for each in wire.of(frames.SETTINGS) if each.flags & frames.ACK]

    assert [each.payload for each in acknowledged] == [b"", b""]


async def test_answer_ping_with_its_content(wire: Wire) -> None:
    """A PING comes back with its content, its answer does not (section 6.7)."""
    wire.frame(frames.PING, 0, 0, b"12345678")
    wire.frame(frames.PING, frames.ACK, 0, b"87654321")

    assert [(each.flags, each.payload) for each in wire.of(frames.PING)] == [
        (frames.ACK, b"12345678")
    ]


# What ends a connection.

_FATAL = {
    "PING of a wrong size": (frames.PING, 0, 0, bytes(7), ErrorCode.FRAME_SIZE_ERROR),
    "PING of a stream": (frames.PING, 0, 1, bytes(8), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of a wrong size": (frames.SETTINGS, 0, 0, bytes(5), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frames.SETTINGS, 0, 1, b"", ErrorCode.PROTOCOL_ERROR),
    "ACK with content": (frames.SETTINGS, frames.ACK, 0, bytes(6), ErrorCode.FRAME_SIZE_ERROR),
    "DATA of the connection": (frames.DATA, 0, 0, b"x", ErrorCode.PROTOCOL_ERROR),
    "DATA of an idle stream": (frames.DATA, 0, 1, b"x", ErrorCode.PROTOCOL_ERROR),
    "HEADERS of the connection": (frames.HEADERS, WHOLE, 0, BLOCK, ErrorCode.PROTOCOL_ERROR),
    "HEADERS of an even stream": (frames.HEADERS, WHOLE, 2, BLOCK, ErrorCode.PROTOCOL_ERROR),
    "HEADERS all padding": (
        frames.HEADERS,
        WHOLE | frames.PADDED,
        1,
        b"\x09" + bytes(8),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PADDED without a length": (
        frames.HEADERS,
        WHOLE | frames.PADDED,
        1,
        b"",
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "RST_STREAM of an idle stream": (
        frames.RST_STREAM,
        0,
        1,
        bytes(4),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "RST_STREAM of the connection": (
        frames.RST_STREAM,
        0,
        0,
        bytes(4),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "RST_STREAM of a wrong size": (
        frames.RST_STREAM,
        0,
        1,
        bytes(3),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PRIORITY of a wrong size": (frames.PRIORITY, 0, 1, bytes(4), ErrorCode.FRAME_SIZE_ERROR),
    "PRIORITY of the connection": (frames.PRIORITY, 0, 0, bytes(5), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of an idle stream": (
        frames.WINDOW_UPDATE,
        0,
        1,
        b"\0\0\0\x01",
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE by nothing": (
        frames.WINDOW_UPDATE,
        0,
        0,
        bytes(4),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE too far": (
        frames.WINDOW_UPDATE,
        0,
        0,
        b"\x7f\xff\xff\xff",
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "WINDOW_UPDATE of a wrong size": (
        frames.WINDOW_UPDATE,
        0,
        0,
        bytes(3),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "PUSH_PROMISE": (
        frames.PUSH_PROMISE,
        frames.END_HEADERS,
        1,
        b"\0\0\0\x02" + BLOCK,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (
        frames.CONTINUATION,
        frames.END_HEADERS,
        1,
        BLOCK,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "GOAWAY of a stream": (frames.GOAWAY, 0, 1, bytes(8), ErrorCode.PROTOCOL_ERROR),
    "a header block that is none": (
        frames.HEADERS,
        WHOLE,
        1,
        b"\xff\xff\xff\xff\xff",
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a header of no table": (frames.HEADERS, WHOLE, 1, b"\xfe", ErrorCode.COMPRESSION_ERROR),
    "a table that was not agreed": (
        frames.HEADERS,
        WHOLE,
        1,
        b"\x3f\xff\xff\x01" + BLOCK,
        ErrorCode.COMPRESSION_ERROR,
    ),
}


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "payload", "code"), _FATAL.values(), ids=_FATAL.keys()
)
async def test_end_connection_that_breaks_a_rule(
    wire: Wire, kind: int, flags: int, stream: int, payload: bytes, code: ErrorCode
) -> None:
    """Errors of a connection end it with the code that RFC 9113 names."""
    wire.frame(kind, flags, stream, payload)

    assert wire.failure == code


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (Setting.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (Setting.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (Setting.MAX_FRAME_SIZE, 16_383, ErrorCode.PROTOCOL_ERROR),
        (Setting.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
async def test_end_connection_for_impossible_setting(
    wire: Wire, key: Setting, value: int, code: ErrorCode
) -> None:
    """Settings outside their range end the connection (section 6.5.2)."""
    wire.set({key: value})

    assert wire.failure == code


async def test_end_connection_for_a_frame_too_long(wire: Wire) -> None:
    """The header alone of a frame beyond the announced size is enough to end the connection."""
    wire.feed((256 * 1024 + 1).to_bytes(3, "big") + bytes((frames.DATA, 0, 0, 0, 0, 1)))

    assert wire.failure == ErrorCode.FRAME_SIZE_ERROR


async def test_end_connection_for_smaller_stream(wire: Wire) -> None:
    """New streams have greater numbers than all before them (section 5.1.1)."""
    wire.ask(7, b"x")
    await wire.answer(7)

    wire.ask(5, b"x")

    assert wire.failure == ErrorCode.PROTOCOL_ERROR


async def test_end_connection_for_stream_used_twice(wire: Wire) -> None:
    """A stream is used once."""
    wire.ask(7, b"x")
    await wire.answer(7)

    wire.ask(7, b"x")

    assert wire.failure == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "between",
    [
        frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.frame(frames.DATA, 0, 1, b"x"),
        frames.frame(frames.HEADERS, WHOLE, 3, BLOCK),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 3, BLOCK),
        frames.frame(0xBE, 0, 0),
    ],
    ids=["PING", "DATA", "HEADERS", "CONTINUATION of another", "unknown"],
)
async def test_end_connection_for_what_comes_within_headers(wire: Wire, between: bytes) -> None:
    """A header block in parts is not interrupted, not even by unknown frames (section 6.10)."""
    wire.frame(frames.HEADERS, frames.END_STREAM, 1, BLOCK[:10])

    wire.feed(between)

    assert wire.failure == ErrorCode.PROTOCOL_ERROR


# What ends a stream alone.

_MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "no method": fields(method=b""),
    "no scheme": fields(scheme=b""),
    "no path": fields(path=b""),
    "empty path": [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"")],
    "pseudo-header of answers": fields(status=b"200"),
    "unknown pseudo-header": fields(other=b"x"),
    "pseudo-header twice": [(b":path", b"/a"), *fields()],
    "pseudo-header after others": [*fields(method=b""), (b":method", b"POST")],
    "upper case": fields((b"X-Name", b"x")),
    "no name": fields((b"", b"x")),
    "name with a space": fields((b"a b", b"x")),
    "connection": fields((b"connection", b"close")),
    "keep-alive": fields((b"keep-alive", b"1")),
    "proxy-connection": fields((b"proxy-connection", b"x")),
    "transfer-encoding": fields((b"transfer-encoding", b"chunked")),
    "upgrade": fields((b"upgrade", b"h2c")),
    "te other than trailers": fields((b"te", b"gzip")),
    "line break in a value": fields((b"a", b"b\r\nc: d")),
    "zero byte in a value": fields((b"a", b"b\0")),
}


@pytest.mark.parametrize("pairs", _MALFORMED.values(), ids=_MALFORMED.keys())
async def test_reset_malformed_request(wire: Wire, pairs: list[tuple[bytes, bytes]]) -> None:
    """A malformed request costs its stream, not the connection (section 8.1.1)."""
    wire.frame(frames.HEADERS, WHOLE, 1, headers.block(pairs))

    assert (await wire.answer(1)).reset == ErrorCode.PROTOCOL_ERROR
    assert await _works(wire)


async def test_reset_stream_whose_window_overflows(wire: Wire) -> None:
    """A stream's window stays below two to the 31 (section 6.9.1)."""
    wire.ask(1, is_end=False)

    wire.frame(frames.WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")

    assert (await wire.answer(1)).reset == ErrorCode.FLOW_CONTROL_ERROR
    assert await _works(wire)


async def test_reset_stream_whose_window_grows_by_nothing(wire: Wire) -> None:
    """A window grows by one at least (section 6.9)."""
    wire.ask(1, is_end=False)

    wire.frame(frames.WINDOW_UPDATE, 0, 1, bytes(4))

    assert (await wire.answer(1)).reset == ErrorCode.PROTOCOL_ERROR
    assert await _works(wire)


async def test_end_connection_when_settings_overflow_a_window(wire: Wire) -> None:
    """Settings that overflow a stream's window end the connection (section 6.9.2)."""
    wire.ask(1, is_end=False)
    wire.frame(frames.WINDOW_UPDATE, 0, 1, (2**31 - 65_536).to_bytes(4, "big"))

    wire.set({Setting.INITIAL_WINDOW_SIZE: 65_536})

    assert wire.failure == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("kind", [frames.DATA, frames.HEADERS])
async def test_reset_stream_that_goes_on_after_its_end(kind: int) -> None:
    """Nothing comes on a stream after its client has ended it (section 5.1)."""
    is_asked = asyncio.Event()

    async def never(_: Any, __: Any) -> bytes:
        is_asked.set()
        return await asyncio.Future()

    wire = Wire(testing.listener(never))
    wire.ask(1, b"x")
    await is_asked.wait()

    payload = message(b"y") if kind == frames.DATA else headers.block([(b"a", b"b")])
    wire.frame(kind, WHOLE if kind == frames.HEADERS else 0, 1, payload)

    assert (await wire.answer(1)).reset == ErrorCode.STREAM_CLOSED
    await wire.nothing_left()


async def test_reset_stream_whose_trailers_do_not_end_it(wire: Wire) -> None:
    """A second header block of a request is its end (section 8.1)."""
    wire.ask(1, b"x", is_end=False)

    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, headers.block([(b"a", b"b")]))

    assert (await wire.answer(1)).reset == ErrorCode.PROTOCOL_ERROR
    assert await _works(wire)


async def test_reset_stream_with_pseudo_headers_at_its_end(wire: Wire) -> None:
    """Trailers have no pseudo-headers (section 8.1)."""
    wire.ask(1, b"x", is_end=False)

    wire.frame(frames.HEADERS, WHOLE, 1, BLOCK)

    assert (await wire.answer(1)).reset == ErrorCode.PROTOCOL_ERROR
    assert await _works(wire)


async def test_reset_stream_that_exceeds_its_window() -> None:
    """A client that sends more than it may costs its stream (section 6.9.1)."""
    wire = Wire(testing.listener(_echo, takes_stream=True))
    wire.ask(1, is_end=False)

    for _ in range(messages.RECEIVE_WINDOW // 16_384 + 1):
        wire.frame(frames.DATA, 0, 1, message(bytes(16_379)))

    assert (await wire.answer(1)).reset == ErrorCode.FLOW_CONTROL_ERROR


# What is let pass.


@pytest.mark.parametrize(
    "ignored",
    [
        frames.frame(0xBE, 0xFF, 0, b"anything"),
        frames.frame(0xBE, 0xFF, 9, b"anything"),
        frames.settings({}),
        frames.frame(frames.SETTINGS, 0, 0, b"\xff\xff" + bytes(4)),
        frames.frame(frames.PRIORITY, 0, 9, b"\0\0\0\x0b\0"),
        frames.frame(frames.PING, 0xFE, 0, bytes(8)),
    ],
    ids=["unknown", "unknown of a stream", "no settings", "unknown setting", "PRIORITY", "flags"],
)
async def test_let_pass_what_means_nothing(wire: Wire, ignored: bytes) -> None:
    """Unknown frames, flags and settings are ignored (sections 5.5 and 6.5.2)."""
    wire.feed(ignored)

    assert await _works(wire)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (frames.RST_STREAM, bytes(4)),
        (frames.WINDOW_UPDATE, b"\0\0\0\x01"),
        (frames.DATA, b"x"),
    ],
)
async def test_let_pass_what_comes_late(wire: Wire, kind: int, payload: bytes) -> None:
    """Frames that a client sent before it knew of the end of a stream do no harm."""
    wire.ask(1, b"x")
    await wire.answer(1)

    wire.frame(kind, 0, 1, payload)

    assert await _works(wire)


async def test_take_headers_with_padding_and_priority(wire: Wire) -> None:
    """Padding and priority are left out of what is read (sections 6.1 and 6.2)."""
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITIZED
    wire.frame(frames.HEADERS, flags, 1, b"\x07\x80\0\0\x09\xff" + BLOCK + bytes(7))
    flags = frames.END_STREAM | frames.PADDED
    wire.frame(frames.DATA, flags, 1, b"\xff" + message(b"padded") + bytes(255))

    assert (await wire.answer(1)).messages == [b"padded"]


async def test_take_headers_in_single_bytes(wire: Wire) -> None:
    """A header block may come in many parts, empty ones among them (section 6.10)."""
    parts = [BLOCK[at : at + 4] for at in range(0, len(BLOCK), 4)]
    assert len(parts) < 62
    wire.frame(frames.HEADERS, 0, 1, b"")
    for part in parts:
        wire.frame(frames.CONTINUATION, 0, 1, part)
    wire.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b"")
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"x"))

    assert (await wire.answer(1)).messages == [b"x"]


async def test_take_trailers(wire: Wire) -> None:
    """A request may end with a header block."""
    wire.ask(1, b"x", is_end=False)
    wire.frame(frames.HEADERS, WHOLE, 1, headers.block([(b"a", b"b")]))

    assert (await wire.answer(1)).messages == [b"x"]


async def test_let_streams_be_left_out(wire: Wire) -> None:
    """Numbers of streams need not be without gaps."""
    for stream in (1, 9, 2**31 - 1):
        assert await _works(wire, stream)
