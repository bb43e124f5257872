"""Connections that age, idle, fall silent, flood or never end: what becomes of them, and of their calls."""

import asyncio
from typing import Any

import pytest

from setpoint_rpc.http2 import connection, endpoints, frames, headers, testing
from setpoint_rpc.http2.frames import ErrorCode, Setting
from setpoint_rpc.http2.listener import Listener
from setpoint_rpc.http2.testing import PATH, WIDE, Wire, fields, message

WHOLE = frames.END_HEADERS | frames.END_STREAM
UNAVAILABLE = 14


async def _echo(request: Any, _: Any) -> bytes:
    return bytes(request)


class Held:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, request: Any, _: Any) -> bytes:
        await self.may_answer.wait()
        return bytes(request)


def aging(seconds: float, grace_seconds: float, handler: testing.Handler) -> Listener:
    """Make a listener whose connections get old."""
    endpoint = endpoints.Endpoint(handler, False, False, bytes, bytes)
    return Listener(
        lambda path, _: endpoint if path == PATH else None,
        maximum_message=1000,
        maximum_age_seconds=seconds,
        age_grace_seconds=grace_seconds,
    )


# Age.


async def test_serve_what_comes_before_the_client_knows() -> None:
    """A connection of age takes calls until its client has heard of it, and then ends in order."""
    held = Held()
    wire = Wire(aging(0.001, WIDE, held))
    wire.ask(1, b"before")
    await wire.until(lambda: bool(wire.of(frames.GOAWAY)))
    assert wire.record.last_streams() == [2**31 - 1]

    wire.ask(3, b"meanwhile")
    for ping in wire.of(frames.PING):
        wire.frame(frames.PING, frames.ACK, 0, ping.payload)
    assert wire.record.last_streams() == [2**31 - 1, 3]
    wire.ask(5, b"after")
    held.may_answer.set()

    assert (await wire.answer(1)).messages == [b"before"]
    assert (await wire.answer(3)).messages == [b"meanwhile"]
    await wire.until(lambda: wire.is_closed)
    assert 5 not in wire.answers
    assert wire.failure == ErrorCode.NO_ERROR


async def test_end_calls_that_outlive_the_grace_of_age() -> None:
    """Calls that go on beyond the grace are told so, and their handlers cancelled."""
    wire = Wire(aging(0.001, 0.001, Held()))
    wire.ask(1, b"x")

    answer = await wire.answer(1)

    assert answer.status == UNAVAILABLE
    await wire.until(lambda: wire.is_closed)
    await wire.nothing_left()


# An end in order.


async def test_let_calls_end_that_were_asked_too_late() -> None:
    """Calls that cross the word of the end are not served, and disturb none that are."""
    held = Held()
    wire = Wire(testing.listener(held))
    wire.ask(1, b"in time")
    wire.connection.refuse_calls()

    wire.ask(3, b"too late")
    wire.frame(frames.WINDOW_UPDATE, 0, 3, b"\0\0\0\x01")
    wire.frame(frames.RST_STREAM, 0, 3, bytes(4))
    held.may_answer.set()

    assert (await wire.answer(1)).messages == [b"in time"]
    await wire.until(lambda: wire.is_closed)
    assert wire.record.last_streams() == [1, 1]
    assert 3 not in wire.answers


async def test_answer_refused_calls_before_the_end() -> None:
    """A call that was refused and whose request has not come yet is answered before the end."""
    wire = Wire(testing.listener(_echo))
    block = headers.block(fields(path=b"/no.Service/Method"))
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, block)

    wire.connection.refuse_calls()

    assert wire.is_closed
    assert (await wire.answer(1)).status == 12


async def test_end_when_the_client_says_so() -> None:
    """A client that leaves gets its last answers."""
    held = Held()
    wire = Wire(testing.listener(held))
    wire.ask(1, b"last")
    wire.frame(frames.GOAWAY, 0, 0, bytes(8) + b"bye")
    assert not wire.is_closed
    held.may_answer.set()

    assert (await wire.answer(1)).messages == [b"last"]
    await wire.until(lambda: wire.is_closed)


async def test_send_everything_before_the_end() -> None:
    """An answer that waits for its window is sent in whole before the connection ends."""
    wire = Wire(testing.listener(_echo))
    wire.set({Setting.INITIAL_WINDOW_SIZE: 1})
    wire.ask(1, b"slow")
    await wire.until(lambda: wire.connection.waiting > 0)
    wire.connection.refuse_calls()
    assert not wire.is_closed

    wire.feed(frames.window_update(1, 100))

    assert (await wire.answer(1)).messages == [b"slow"]
    await wire.until(lambda: wire.is_closed)


async def test_let_the_client_hang_up_first() -> None:
    """The server ends its own direction and reads on, so that nothing on its way is lost."""
    wire = Wire(testing.listener(_echo))
    wire.connection.refuse_calls()
    assert wire.transport.has_written_eof
    wire.feed(frames.frame(frames.PING, 0, 0, bytes(8)))
    now = wire.connection.loop.time()

    wire.connection.look(now + 1)
    assert not wire.transport.is_aborted
    wire.connection.look(now + 60)

    assert wire.transport.is_aborted


async def test_stop_serving_in_order() -> None:
    """A listener that stops waits for calls, also for answers that wait, and for handlers."""
    held = Held()
    listener = testing.listener(held)
    wires = [Wire(listener) for _ in range(3)]
    for wire in wires:
        wire.ask(1, b"x")
    stopping = asyncio.ensure_future(listener.stop(WIDE))
    await wires[0].until(lambda: bool(wires[0].of(frames.GOAWAY)))
    late = Wire(listener, is_greeting=False)
    assert late.transport.is_aborted
    held.may_answer.set()

    for wire in wires:
        assert (await wire.answer(1)).messages == [b"x"]
        await wire.until(lambda: wire.is_closed)  # noqa: B023  # waited for here
        wire.lose()
    await asyncio.wait_for(stopping, WIDE)


async def test_stop_calls_that_outlive_the_grace() -> None:
    """What does not end within the grace is told that the server stops."""
    listener = testing.listener(Held())
    wire = Wire(listener)
    wire.ask(1, b"x")
    stopping = asyncio.ensure_future(listener.stop(0))

    assert (await wire.answer(1)).status == UNAVAILABLE
    await wire.nothing_left()
    await wire.until(lambda: wire.is_closed)
    wire.lose()
    await asyncio.wait_for(stopping, WIDE)


# Silence.


async def test_end_idle_connection() -> None:
    """A connection without calls is ended after a while, one with calls is not."""
    held = Held()
    listener = testing.listener(held)
    idle, busy = Wire(listener), Wire(listener)
    busy.ask(1, b"x")
    now = idle.connection.loop.time()

    for wire in (idle, busy):
        wire.connection._heard = now + 899
        wire.connection.look(now + 901)

    assert idle.is_closed
    assert not busy.is_closed
    held.may_answer.set()
    assert (await busy.answer(1)).messages == [b"x"]


async def test_ask_silent_client_whether_it_is_there() -> None:
    """A silent client is asked, and given up when it does not answer."""
    wire = Wire(testing.listener(_echo))
    now = wire.connection.loop.time()
    wire.connection.look(now + 50)
    assert not wire.of(frames.PING)

    wire.connection.look(now + 61)
    wire.connection.look(now + 62)
    await wire.until(lambda: bool(wire.of(frames.PING)))
    assert len(wire.of(frames.PING)) == 1
    wire.connection.look(now + 81)

    assert wire.transport.is_aborted


async def test_keep_client_that_answers() -> None:
    """A client that is silent but there is asked again and again."""
    wire = Wire(testing.listener(_echo))
    now = wire.connection.loop.time()
    for turn in range(3):
        wire.connection.look(now + 61)
        await wire.until(lambda: len(wire.of(frames.PING)) == turn + 1)  # noqa: B023
        wire.frame(frames.PING, frames.ACK, 0, wire.of(frames.PING)[-1].payload)
        now = wire.connection.loop.time()

    assert not wire.is_closed


@pytest.mark.parametrize("said", [b"", frames.PREFACE[:10], frames.PREFACE, frames.PREFACE + b"\0"])
async def test_end_client_that_never_greets(said: bytes) -> None:
    """Whoever connects and says nothing, or says it slowly, is put out."""
    wire = Wire(testing.listener(_echo), is_greeting=False)
    if said:
        wire.feed(said)
    now = wire.connection.loop.time()
    wire.connection.look(now + 9)
    assert not wire.transport.is_aborted

    wire.connection.look(now + 11)

    assert wire.transport.is_aborted


async def test_cancel_timers_of_lost_connection() -> None:
    """Nothing remembers a connection that is gone."""
    wire = Wire(aging(0.001, WIDE, _echo))
    await wire.until(lambda: bool(wire.of(frames.GOAWAY)))
    wire.frame(
        frames.HEADERS, frames.END_HEADERS, 1, headers.block(fields(path=b"/no.Service/Method"))
    )
    timers: list[Any] = [
        wire.connection._age,
        wire.connection._leaving,
        wire.connection._refused._timer,
    ]
    wire.lose()

    assert all(timer.cancelled() for timer in timers)
    assert wire.connection not in wire.listener._connections


# Floods.


async def _others_are_served(listener: Listener) -> bool:
    other = Wire(listener)
    other.ask(1, b"still here")
    return (await other.answer(1)).messages == [b"still here"]


_FLOODS = {
    "PING": frames.frame(frames.PING, 0, 0, bytes(8)),
    "PING answers": frames.frame(frames.PING, frames.ACK, 0, bytes(8)),
    "SETTINGS": frames.settings({Setting.INITIAL_WINDOW_SIZE: 5}),
    "PRIORITY": frames.frame(frames.PRIORITY, 0, 9, bytes(5)),
    "unknown": frames.frame(0xBE, 0, 0),
    "empty DATA": frames.frame(frames.DATA, 0, 1),
    "padded DATA": frames.frame(frames.DATA, frames.PADDED, 1, bytes(1)),
}


@pytest.mark.parametrize("frame", _FLOODS.values(), ids=_FLOODS.keys())
async def test_end_flood_of_frames_without_work(frame: bytes) -> None:
    """Frames that cost and carry nothing are too many at some point (CVE-2019-9512 and others)."""
    listener = testing.listener(_echo)
    wire = Wire(listener)
    wire.ask(1, is_end=False)
    wire.feed(frame * 90)
    assert not wire.is_closed

    wire.feed(frame * 10_000)

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM
    await wire.nothing_left()
    assert await _others_are_served(listener)


async def test_forget_a_flood_that_was_none() -> None:
    """The count begins anew with each look, a second apart."""
    wire = Wire(testing.listener(_echo))
    for _ in range(3):
        wire.feed(frames.frame(frames.PING, 0, 0, bytes(8)) * 9000)
        wire.connection.look(wire.connection.loop.time())

    assert not wire.is_closed


async def test_end_settings_without_end() -> None:
    """One frame does not change settings a thousand times."""
    wire = Wire(testing.listener(_echo))
    wire.frame(frames.SETTINGS, 0, 0, b"\0\x04\0\0\0\x05" * 33)

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM


async def test_end_headers_without_end() -> None:
    """Parts of a header block come to an end, empty ones as well (CVE-2024-27316)."""
    wire = Wire(testing.listener(_echo))
    wire.frame(frames.HEADERS, 0, 1, b"")
    for _ in range(100):
        wire.frame(frames.CONTINUATION, 0, 1, b"")

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("is_whole", [False, True])
async def test_end_headers_that_are_too_long(is_whole: bool) -> None:
    """A header block is bounded before it is read."""
    wire = Wire(testing.listener(_echo))
    flags = frames.END_HEADERS if is_whole else 0
    wire.frame(frames.HEADERS, flags, 1, b"\x82" * (headers.MAXIMUM_BLOCK_BYTES + 1))

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM


async def test_survive_calls_that_are_reset_at_once() -> None:
    """Calls that are asked and reset cost no more than the handlers that still end (CVE-2023-44487)."""
    may_end = asyncio.Event()

    async def slow_to_end(_: Any, __: Any) -> bytes:
        try:
            await asyncio.Future()
        finally:
            await may_end.wait()
        raise AssertionError

    listener = testing.listener(slow_to_end)
    wire = Wire(listener)
    block = headers.block(fields())
    for stream in range(1, 5001, 2):
        wire.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        wire.frame(frames.DATA, frames.END_STREAM, stream, message(b""))
        await asyncio.sleep(0)
        wire.frame(frames.RST_STREAM, 0, stream, bytes(4))
    assert len(listener.running) <= 2001

    wire.ask(5001, b"")
    assert (await wire.answer(5001)).reset == ErrorCode.REFUSED_STREAM
    may_end.set()
    await wire.nothing_left()


async def test_end_resets_without_end() -> None:
    """A client that asks only to reset is put out, however fast its handlers end."""
    listener = testing.listener(_echo)
    wire = Wire(listener)
    block = headers.block(fields())
    for stream in range(1, 20_101, 2):
        wire.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        wire.frame(frames.RST_STREAM, 0, stream, bytes(4))

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM
    assert await _others_are_served(listener)


async def test_end_provoked_resets_without_end() -> None:
    """A client that makes the server reset its calls is put out as well (CVE-2025-8671)."""
    wire = Wire(testing.listener(_echo))
    block = headers.block(fields())
    for stream in range(1, 20_101, 2):
        wire.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        wire.frame(frames.WINDOW_UPDATE, 0, stream, bytes(4))

    assert wire.failure == ErrorCode.ENHANCE_YOUR_CALM


async def test_refuse_more_calls_than_were_announced() -> None:
    """Calls beyond the limit are refused one by one, and those before go on."""
    held = Held()
    wire = Wire(testing.listener(held))
    last = 2 * connection.MAXIMUM_CALLS + 1
    for stream in range(1, last + 2, 2):
        wire.ask(stream, b"x")

    assert (await wire.answer(last)).reset == ErrorCode.REFUSED_STREAM
    held.may_answer.set()
    assert (await wire.answer(last - 2)).messages == [b"x"]
    await wire.nothing_left()


async def test_give_up_client_that_asks_and_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left for a client that does not read is bounded; then it is put out."""
    monkeypatch.setattr(connection, "_LARGEST_BACKLOG", 2 * 1024 * 1024)
    wire = Wire(testing.listener(_echo))
    wire.transport.is_stalled = True
    ping = frames.frame(frames.PING, 0, 0, bytes(8)) * 9000
    while not wire.is_closed:
        wire.feed(ping)
        wire.connection.look(wire.connection.loop.time())
        assert wire.transport.waiting < 4 * 1024 * 1024

    assert wire.transport.is_aborted


async def test_break_a_rule_after_being_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is given up in the middle of what it sends is not spoken to any more."""
    monkeypatch.setattr(connection, "_LARGEST_BACKLOG", 2 * 1024 * 1024)
    monkeypatch.setattr(connection, "_MAXIMUM_IDLE_FRAMES", 1_000_000)
    wire = Wire(testing.listener(_echo))
    wire.transport.is_stalled = True

    wire.feed(frames.frame(frames.PING, 0, 0, bytes(8)) * 300_000 + frames.settings({}) * 9)
    wire.frame(frames.PUSH_PROMISE)

    assert wire.transport.is_aborted
    assert not wire.of(frames.GOAWAY)


async def test_refuse_connection_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond the limit are closed at once; one that ends makes room."""
    monkeypatch.setattr("setpoint_rpc.http2.listener.MAXIMUM_CONNECTIONS", 2)
    listener = testing.listener(_echo)
    first, _ = Wire(listener), Wire(listener)
    refused = Wire(listener, is_greeting=False)
    assert refused.transport.is_aborted
    refused.connection.connection_lost(None)

    first.lose()

    assert await _others_are_served(listener)


async def test_survive_defect_in_the_search() -> None:
    """A service that fails when asked whether it takes a call costs that call."""

    def find(_: str, beginning: int) -> endpoints.Endpoint:
        raise RuntimeError("door")

    wire = Wire(Listener(find, maximum_message=1, maximum_age_seconds=WIDE, age_grace_seconds=WIDE))
    wire.ask(1, b"")

    assert (await wire.answer(1)).reset == ErrorCode.INTERNAL_ERROR
    assert not wire.is_closed
