"""Flow control both ways: whatever the windows are, messages arrive whole, and memory is bounded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_rpc.http2 import calling, frames, headers, messages, testing
from setpoint_rpc.http2.frames import ErrorCode, Setting
from setpoint_rpc.http2.testing import Answer, Wire, fields, message

MEGABYTE = 1024 * 1024
OK = 0


async def _echo(request: Any, _: Any) -> bytes:
    return bytes(request)


def grown(stream: int, more: int) -> bytes:
    """Return the frame by which a client opens a window."""
    return frames.window_update(stream, more)


def granted(wire: Wire, stream: int) -> int:
    """Return by how much the server has opened a window."""
    return sum(int.from_bytes(x.payload, "big") for x in wire.of(frames.WINDOW_UPDATE, stream))


async def _send(wire: Wire, stream: int, content: bytes) -> None:
    """Ask with a message, as the server's window allows."""
    wire.frame(frames.HEADERS, frames.END_HEADERS, stream, headers.block(fields()))
    sent = 0

    def room() -> int:
        return messages.RECEIVE_WINDOW + granted(wire, stream) - sent

    while sent < len(content):
        await wire.until(lambda: room() > 0)
        part = content[sent : sent + min(16_384, room())]
        sent += len(part)
        wire.frame(frames.DATA, frames.END_STREAM if sent == len(content) else 0, stream, part)


# Answers.


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_send_answer_through_a_tiny_window(size: int) -> None:
    """An answer goes out in as many pieces as the client asks for."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 0})
    wire.ask(1, b"0123456789")
    await wire.until(lambda: bool(wire.of(frames.HEADERS, 1)))

    for _ in range(0, 15, size):
        assert not wire.answers[1].is_ended
        wire.feed(grown(1, size))

    answer = await wire.answer(1)
    assert answer.messages == [b"0123456789"]
    assert max(len(each.payload) for each in wire.of(frames.DATA, 1)) <= size


async def test_send_megabytes_by_both_windows() -> None:
    """A long answer respects the stream's window, the connection's, and the longest frame."""
    wire = Wire(testing.listener(_echo))
    content = bytes(range(256)) * (4 * MEGABYTE // 256)
    await _send(wire, 1, message(content))
    of_stream = of_connection = frames.DEFAULT_WINDOW
    steps = [(1, 100_000), (0, 150_000)]
    while not (wire.of(frames.DATA, 1) and wire.answers[1].is_ended):
        got = len(wire.answers.get(1, Answer()).data)
        await wire.until(lambda: bool(wire.of(frames.DATA, 1)))
        assert got <= min(of_stream, of_connection)
        for stream, more in steps:
            wire.feed(grown(stream, more))
        of_stream, of_connection = of_stream + 100_000, of_connection + 150_000

    assert wire.answers[1].messages == [content]
    assert max(len(each.payload) for each in wire.of(frames.DATA, 1)) <= 16_384


async def test_send_nothing_while_a_window_is_negative() -> None:
    """Settings may take back what was allowed; the debt is paid before more is sent."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 10})
    wire.ask(1, b"x" * 20)
    await wire.until(lambda: bool(wire.of(frames.DATA, 1)))
    assert len(wire.answers[1].data) == 10

    wire.set({Setting.INITIAL_WINDOW_SIZE: 0})
    wire.feed(grown(1, 10))
    assert len(wire.of(frames.DATA, 1)) == 1
    wire.feed(grown(1, 1))
    assert len(wire.of(frames.DATA, 1)) == 2
    wire.set({Setting.INITIAL_WINDOW_SIZE: 100})

    assert (await wire.answer(1)).messages == [b"x" * 20]


async def test_send_longer_frames_when_asked() -> None:
    """A client may take longer frames; the server's own bound keeps them fair."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.MAX_FRAME_SIZE: 2**24 - 1, Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    wire.feed(grown(0, 4 * MEGABYTE))
    await _send(wire, 1, message(bytes(MEGABYTE)))

    await wire.answer(1)

    longest = max(len(each.payload) for each in wire.of(frames.DATA, 1))
    assert longest == 256 * 1024


async def test_split_long_header_blocks() -> None:
    """Metadata longer than a frame goes on in further ones."""

    async def tell(_: Any, context: Any) -> bytes:
        context.set_trailing_metadata((("long", "v" * 40_000),))
        return b""

    wire = Wire(testing.listener(tell))
    wire.ask(1, b"")

    answer = await wire.answer(1)

    first = wire.of(frames.HEADERS, 1)[-1]
    rest = wire.of(frames.CONTINUATION, 1)
    assert first.flags == frames.END_STREAM
    assert [each.flags for each in rest] == [0, frames.END_HEADERS]
    assert answer.headers[b"long"] == b"v" * 40_000


async def test_let_others_answer_beside_a_blocked_stream() -> None:
    """A stream whose window is shut holds back nobody else."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 10})
    wire.ask(1, b"x" * 100)
    wire.ask(3, b"short")

    assert (await wire.answer(3)).messages == [b"short"]
    assert not wire.answers[1].is_ended


async def test_share_a_window_among_streams() -> None:
    """Where the connection's window is short, streams get it in turns."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await _send(wire, 1, message(bytes(frames.DEFAULT_WINDOW - 5)))
    await wire.answer(1)
    for stream in (3, 5, 7):
        wire.ask(stream, bytes(95))
    await wire.until(lambda: len(wire.connection.blocked) == 3)

    for _ in range(6):
        wire.feed(grown(0, 10))

    assert [len(wire.answers[stream].data) for stream in (3, 5, 7)] == [20, 20, 20]
    wire.feed(grown(0, 1000))
    for stream in (3, 5, 7):
        assert (await wire.answer(stream)).messages == [bytes(95)]


async def test_look_at_no_more_calls_than_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small window among many calls costs one of them a look, not all of them."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await _send(wire, 1, message(bytes(frames.DEFAULT_WINDOW - 5)))
    await wire.answer(1)
    for stream in range(3, 203, 2):
        wire.ask(stream, b"x")
    await wire.until(lambda: len(wire.connection.blocked) == 100)
    looks = 0
    pump = calling.Call.pump

    def counted(call: calling.Call) -> None:
        nonlocal looks
        looks += 1
        pump(call)

    monkeypatch.setattr(calling.Call, "pump", counted)
    for _ in range(50):
        wire.feed(grown(0, 1))

    assert looks == 50


async def test_let_others_answer_beside_an_endless_stream() -> None:
    """A generator that never waits by itself lets others have their turn."""

    async def serve(request: Any, _: Any) -> AsyncIterator[bytes]:
        yield bytes(request)
        while request == b"endless":
            yield b"more"

    wire = Wire(testing.listener(serve, yields=True))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    wire.feed(grown(0, 2**30))
    wire.ask(1, b"endless")
    wire.ask(3, b"short")

    assert (await wire.answer(3)).messages == [b"short"]
    wire.frame(frames.RST_STREAM, 0, 1, bytes(4))
    await wire.nothing_left()


async def test_hold_back_writers_while_the_client_does_not_read() -> None:
    """A generator is asked for no more than one message beyond what the client takes."""
    asked = 0

    async def serve(_: Any, __: Any) -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(995)

    wire = Wire(testing.listener(serve, yields=True))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 10_000})
    wire.ask(1, b"")
    await wire.until(lambda: wire.connection.waiting > 0)
    assert asked == 11

    wire.feed(grown(1, 5_000))
    await wire.until(lambda: len(wire.of(frames.DATA, 1)) >= 15 and asked == 16)

    assert wire.connection.waiting == 1000
    wire.lose()
    await wire.nothing_left()


async def test_hold_back_answers_while_the_connection_is_full() -> None:
    """Windows aside, nothing is written to a client that does not read its connection."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    wire.feed(grown(0, 2**30))
    wire.transport.is_stalled = True
    for stream in range(1, 21, 2):
        await _send(wire, stream, message(bytes(200_000)))
    await wire.until(lambda: bool(wire.connection.blocked) and not wire.listener.running)
    assert wire.transport.waiting < 2 * MEGABYTE

    wire.transport.read_on()

    for stream in range(1, 21, 2):
        assert (await wire.answer(stream)).messages == [bytes(200_000)]


async def test_refuse_calls_while_too_many_answers_wait() -> None:
    """A client that asks and takes no answers is told to wait itself."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 0})
    content = message(bytes(4 * MEGABYTE - 5))
    for stream in range(1, 35, 2):
        await _send(wire, stream, content)
        await wire.until(lambda: not wire.listener.running)

    wire.ask(35, b"x")

    assert (await wire.answer(35)).reset == ErrorCode.REFUSED_STREAM
    wire.frame(frames.RST_STREAM, 0, 1, bytes(4))
    wire.ask(37, b"")
    await wire.until(lambda: bool(wire.of(frames.HEADERS, 37)))
    wire.lose()
    assert wire.connection.waiting == 0


# Requests.


@pytest.mark.parametrize("takes_stream", [False, True])
async def test_take_megabytes_of_one_message(takes_stream: bool) -> None:
    """A message longer than the window gets what it takes, and no more."""

    async def length(request: Any, _: Any) -> bytes:
        whole = [each async for each in request] if takes_stream else [request]
        return b",".join(b"%d" % len(each) for each in whole)

    wire = Wire(testing.listener(length, takes_stream=takes_stream))
    content = message(bytes(4 * MEGABYTE))
    await _send(wire, 1, content)

    assert (await wire.answer(1)).messages == [b"%d" % (4 * MEGABYTE)]
    assert granted(wire, 1) <= len(content) + messages.RECEIVE_WINDOW
    assert granted(wire, 0) >= 2 * MEGABYTE


@pytest.mark.parametrize("size", [1000, messages.RECEIVE_WINDOW + 1, MEGABYTE])
async def test_take_no_more_than_the_handler_reads(size: int) -> None:
    """A client that sends faster than the handler reads is held back, however long messages are."""
    may_read = asyncio.Event()

    async def slow(requests: Any, _: Any) -> bytes:
        await may_read.wait()
        return b"%d" % sum([len(each) async for each in requests])

    wire = Wire(testing.listener(slow, takes_stream=True))
    wire.ask(1, is_end=False)
    count = 5 * MEGABYTE // size + 1
    content, sent = message(bytes(size)) * count, 0

    def room() -> int:
        return messages.RECEIVE_WINDOW + granted(wire, 1) - sent

    while sent < len(content):
        if room() == 0:
            if not may_read.is_set():
                # One message that is coming, and a window of what came before.
                assert sent <= size + 5 + messages.RECEIVE_WINDOW
                may_read.set()
            await wire.until(lambda: room() > 0)
        part = content[sent : sent + min(16_384, room())]
        sent += len(part)
        wire.frame(frames.DATA, frames.END_STREAM if sent == len(content) else 0, 1, part)

    assert may_read.is_set()
    assert (await wire.answer(1)).messages == [b"%d" % (size * count)]


async def test_refuse_second_long_message_before_it_has_come() -> None:
    """A request of one message gets no window for another."""
    wire = Wire(testing.listener(_echo))
    wire.ask(1, b"first", is_end=False)
    before = granted(wire, 1)

    wire.frame(frames.DATA, 0, 1, message(bytes(MEGABYTE))[:10])

    answer = await wire.answer(1)
    assert answer.status == 12
    assert granted(wire, 1) == before


async def test_count_padding_for_windows() -> None:
    """Padding uses up windows, and is given back like what it pads."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def keep(requests: Any, _: Any) -> bytes:
        async for each in requests:
            received.put_nowait(each)
        return b""

    wire = Wire(testing.listener(keep, takes_stream=True))
    wire.ask(1, is_end=False)
    for _ in range(2 * messages.RECEIVE_WINDOW // 257):
        padded = b"\xff" + message(b"") + bytes(255)
        wire.frame(frames.DATA, frames.PADDED, 1, padded)
        await received.get()
    wire.frame(frames.DATA, frames.END_STREAM, 1)

    assert (await wire.answer(1)).status == OK


# Any cut of what a client sends.


def _session() -> bytes:
    """Return what a client with several calls sends."""
    block = headers.block(fields((b"grpc-encoding", b"gzip")))
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITIZED
    return b"".join(
        (
            frames.PREFACE,
            frames.settings({Setting.INITIAL_WINDOW_SIZE: 100_000}),
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block),
            frames.frame(frames.HEADERS, flags, 3, b"\x03\0\0\0\0\xff" + block + bytes(3)),
            frames.frame(frames.DATA, 0, 1, message(b"first")[:4]),
            frames.frame(frames.PING, 0, 0, b"12345678"),
            frames.frame(frames.DATA, frames.PADDED, 3, b"\x02" + message(b"second") + bytes(2)),
            frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"first")[4:]),
            frames.frame(frames.HEADERS, frames.END_STREAM, 5, block[:30]),
            frames.frame(frames.CONTINUATION, 0, 5, block[30:31]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 5, block[31:]),
            frames.frame(0xBE, 7, 3, b"unknown"),
            frames.frame(frames.DATA, frames.END_STREAM, 3),
            frames.frame(frames.HEADERS, frames.END_HEADERS, 7, block),
            frames.frame(frames.RST_STREAM, 0, 7, bytes(4)),
        )
    )


SESSION = _session()


async def _answers(cuts: list[int]) -> list[tuple[int, Answer]]:
    wire = Wire(testing.listener(_echo), is_greeting=False)
    begin = 0
    for end in [*sorted(set(cuts)), len(SESSION)]:
        wire.feed(SESSION[begin:end])
        begin = end
    for stream in (1, 3, 5):
        await wire.answer(stream)
    await wire.nothing_left()
    assert wire.of(frames.PING)[0].payload == b"12345678"
    assert not wire.is_closed
    return sorted(wire.answers.items())


EXPECTED = [(1, [b"first"], 0), (3, [b"second"], 0), (5, [], 12)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, len(SESSION) - 1), max_size=40))
def test_answer_alike_however_bytes_are_cut(cuts: list[int]) -> None:
    """The network cuts where it likes; the answers are the same."""
    answers = asyncio.run(_answers(cuts))

    assert [(stream, each.messages, each.status) for stream, each in answers] == EXPECTED


async def test_answer_alike_byte_by_byte() -> None:
    """Every byte may come alone."""
    answers = await _answers(list(range(1, len(SESSION))))

    assert [(stream, each.messages, each.status) for stream, each in answers] == EXPECTED


# Any frames at all.

KINDS = st.integers(0, 10)
STREAMS = st.sampled_from([0, 1, 1, 3, 3, 5, 2, 2**31 - 1])
PAYLOADS = st.one_of(
    st.sampled_from(
        [
            b"",
            bytes(4),
            bytes(5),
            bytes(8),
            b"\0\0\0\x10",
            b"\x7f\xff\xff\xff",
            b"\0\x04\0\0\0\x05",
            b"\0\x04\x7f\xff\xff\xff",
            message(b"whole"),
            message(b"half")[:6],
            headers.block(fields()),
            headers.block(fields((b"grpc-timeout", b"1n"))),
            headers.block([(b"a", b"b")]),
        ]
    ),
    st.binary(max_size=20),
)
FRAMES = st.tuples(KINDS, st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF]), STREAMS, PAYLOADS)
TURN = st.just(None)


@settings(deadline=None, max_examples=100)
@given(
    sent=st.lists(st.one_of(FRAMES, FRAMES, FRAMES, TURN), max_size=40),
    takes_stream=st.booleans(),
)
def test_answer_or_close_whatever_comes(
    sent: list[tuple[int, int, int, bytes] | None], takes_stream: bool
) -> None:
    """No sequence of frames makes the connection fail, break rules itself, or leave anything."""

    async def serve(request: Any, _: Any) -> bytes:
        if not takes_stream:
            return bytes(request)
        return b"".join([each async for each in request])

    async def run() -> None:
        failed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        wire = Wire(testing.listener(serve, takes_stream=takes_stream))
        for each in sent:
            if each is None:
                await asyncio.sleep(0)
            else:
                wire.frame(*each)
        assert wire.failure != ErrorCode.INTERNAL_ERROR
        if not wire.is_closed:
            wire.lose()
        await wire.nothing_left()
        wire.of(frames.DATA)
        assert not failed
        assert wire.connection.waiting == 0
        assert not wire.connection.blocked

    asyncio.run(run())
