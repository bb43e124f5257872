"""Calls of the four shapes, and all that can be wrong with a request or end a call early."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint_rpc.http2 import frames, headers, testing
from setpoint_rpc.http2.frames import ErrorCode
from setpoint_rpc.http2.testing import Wire, fields, message

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
WHOLE = frames.END_HEADERS | frames.END_STREAM


async def _echo(request: Any, _: Any) -> bytes:
    return bytes(request)


async def _joined(requests: Any, _: Any) -> bytes:
    return b",".join([each async for each in requests])


async def _letters(request: Any, _: Any) -> AsyncIterator[bytes]:
    for each in request:
        yield bytes((each,))


async def _one_by_one(requests: Any, _: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each


def connect(handler: testing.Handler, **shape: Any) -> Wire:
    """Connect to a server of one method."""
    return Wire(testing.listener(handler, **shape))


# Shapes.


async def test_answer_one_message_with_one() -> None:
    """The block that begins an answer, the message, and the block that ends it."""
    wire = connect(_echo)
    wire.ask(1, b"hello")

    answer = await wire.answer(1)

    assert answer.messages == [b"hello"]
    assert answer.headers == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"0",
    }
    assert not wire.connection.calls


async def test_answer_many_messages_with_one() -> None:
    """A stream of requests ends with its half-close."""
    wire = connect(_joined, takes_stream=True)
    wire.ask(1, b"a", b"", b"c", is_end=False)
    wire.frame(frames.DATA, frames.END_STREAM, 1)

    assert (await wire.answer(1)).messages == [b"a,,c"]


async def test_answer_one_message_with_many() -> None:
    """What a generator yields is sent one by one."""
    wire = connect(_letters, yields=True)
    wire.ask(1, b"abc")

    answer = await wire.answer(1)

    assert answer.messages == [b"a", b"b", b"c"]
    assert answer.status == OK


async def test_answer_each_message_of_a_conversation() -> None:
    """Answers come while requests still do."""
    wire = connect(_one_by_one, takes_stream=True, yields=True)
    wire.ask(1, b"a", is_end=False)
    await wire.until(lambda: bool(wire.of(frames.DATA, 1)))
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"b"))

    assert (await wire.answer(1)).messages == [b"a", b"b"]


async def test_answer_many_messages_with_none() -> None:
    """A conversation may be empty."""
    wire = connect(_one_by_one, takes_stream=True, yields=True)
    wire.frame(frames.HEADERS, WHOLE, 1, headers.block(fields()))

    answer = await wire.answer(1)

    assert (answer.messages, answer.status) == ([], OK)


async def test_answer_with_metadata_at_both_ends() -> None:
    """Metadata of a handler comes before its messages and after them."""

    async def tell(_: Any, context: Any) -> bytes:
        await context.send_initial_metadata((("first", "1"), ("raw-bin", b"\0\xff")))
        context.set_trailing_metadata((("last", "2"),))
        assert dict(context.invocation_metadata()) == {"asked-bin": b"\1", "plain": "x y"}
        return b"told"

    wire = connect(tell)
    wire.ask(1, b"", more=[(b"asked-bin", b"AQ"), (b"plain", b"x y")])

    answer = await wire.answer(1)

    assert answer.status == OK
    assert answer.headers[b"first"] == b"1"
    assert answer.headers[b"raw-bin"] == b"AP8"
    assert answer.headers[b"last"] == b"2"


# What is wrong with a request.


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", UNIMPLEMENTED),
        (message(b"a") + message(b"b"), UNIMPLEMENTED),
        (message(b"a") + b"\0", UNIMPLEMENTED),
        (message(b"abc")[:-1], INVALID_ARGUMENT),
        (b"\0\0\0", INVALID_ARGUMENT),
        (message(b"a", flag=1), INVALID_ARGUMENT),
        (message(b"a", flag=7), INVALID_ARGUMENT),
        (b"\0\x7f\xff\xff\xff", RESOURCE_EXHAUSTED),
        (message(bytes(1001)), RESOURCE_EXHAUSTED),
    ],
    ids=[
        "none",
        "two",
        "one and a half",
        "cut off",
        "half a header",
        "packed without saying how",
        "unknown flag",
        "said to be too large",
        "too large",
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
async def test_refuse_what_is_not_one_message(content: bytes, status: int, is_split: bool) -> None:
    """A request of one message is exactly that; the call is refused, its connection goes on."""
    wire = connect(_echo, maximum_message=1000)
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, headers.block(fields()))
    if is_split:
        for each in content:
            if wire.connection.calls:
                wire.frame(frames.DATA, 0, 1, bytes((each,)))
        if wire.connection.calls:
            wire.frame(frames.DATA, frames.END_STREAM, 1)
    else:
        wire.frame(frames.DATA, frames.END_STREAM, 1, content)

    answer = await wire.answer(1)

    assert answer.status == status
    assert not wire.listener.running
    wire.ask(3, b"next")
    assert (await wire.answer(3)).messages == [b"next"]


async def test_answer_message_of_just_the_size() -> None:
    """The limit itself is within the limit, both ways."""
    wire = connect(_echo, maximum_message=1000)
    wire.ask(1, bytes(1000))

    assert (await wire.answer(1)).messages == [bytes(1000)]


@pytest.mark.parametrize("size", [1001, 300_000])
async def test_refuse_answer_that_is_too_large(size: int) -> None:
    """A handler cannot send more than clients are told they may get."""

    async def much(_: Any, __: Any) -> bytes:
        return bytes(size)

    wire = connect(much, maximum_message=1000)
    wire.ask(1, b"")

    answer = await wire.answer(1)

    assert (answer.status, answer.messages) == (RESOURCE_EXHAUSTED, [])


@pytest.mark.parametrize(
    ("pairs", "http_status"),
    [
        (fields(method=b"GET"), b"405"),
        ([*fields()[:4], (b"content-type", b"application/json")], b"415"),
        ([*fields()[:4], (b"content-type", b"application/grpc-web")], b"415"),
        (fields()[:4], b"415"),
    ],
)
async def test_answer_what_is_no_grpc_as_http(pairs: headers.Pairs, http_status: bytes) -> None:
    """Whoever does not speak gRPC gets an answer of HTTP."""
    wire = connect(_echo)
    wire.frame(frames.HEADERS, WHOLE, 1, headers.block(pairs))

    answer = await wire.answer(1)

    assert answer.headers[b":status"] == http_status
    assert answer.status is None


@pytest.mark.parametrize(
    "kind", [b"application/grpc+proto", b"application/grpc;x", b"APPLICATION/GRPC"]
)
async def test_serve_every_name_of_grpc(kind: bytes) -> None:
    """The type of messages may be said."""
    wire = connect(_echo)
    block = headers.block([*fields()[:4], (b"content-type", kind)])
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"x"))

    assert (await wire.answer(1)).messages == [b"x"]


@pytest.mark.parametrize(
    ("more", "path", "status"),
    [
        ([], b"/no.Service/Method", UNIMPLEMENTED),
        ([], b"*", UNIMPLEMENTED),
        ([(b"a", bytes(65) * 256)], testing.PATH.encode(), None),
        ([(b"a", b"v" * 16_384)], testing.PATH.encode(), RESOURCE_EXHAUSTED),
        ([(b"a-bin", b"***")], testing.PATH.encode(), INVALID_ARGUMENT),
        ([(b"grpc-timeout", b"soon")], testing.PATH.encode(), INVALID_ARGUMENT),
    ],
    ids=["no method", "no path", "not printable", "too much", "not base64", "no time"],
)
@pytest.mark.parametrize("is_end", [False, True])
async def test_refuse_call_by_its_headers(
    more: headers.Pairs, path: bytes, status: int | None, is_end: bool
) -> None:
    """A refused call has one block for an answer, and it waits for the request."""
    wire = connect(_echo)
    block = headers.block(fields(*more, path=path))
    wire.frame(frames.HEADERS, WHOLE if is_end else frames.END_HEADERS, 1, block)
    if not is_end and status is not None:
        assert not wire.of(frames.HEADERS, 1)
        wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"x"))

    answer = await wire.answer(1)

    assert answer.status == status
    assert answer.blocks == (0 if status is None else 1)


async def test_refuse_call_whose_request_does_not_come() -> None:
    """A refusal does not wait for ever for a request."""
    wire = connect(_echo)
    wire.frame(
        frames.HEADERS, frames.END_HEADERS, 1, headers.block(fields(path=b"/no.Service/Method"))
    )

    answer = await wire.answer(1)

    assert answer.status == UNIMPLEMENTED
    assert [each.payload for each in wire.of(frames.RST_STREAM, 1)] == [bytes(4)]


# Compression.


def _deflated(content: bytes) -> bytes:
    return zlib.compress(content)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [(b"gzip", gzip.compress(b"x" * 99)), (b"deflate", _deflated(b"x" * 99))],
)
@pytest.mark.parametrize("takes_stream", [False, True])
async def test_unpack_compressed_messages(
    encoding: bytes, packed: bytes, takes_stream: bool
) -> None:
    """Each message says whether it is compressed, the call says how."""
    wire = connect(_joined if takes_stream else _echo, takes_stream=takes_stream)
    block = headers.block(fields((b"grpc-encoding", encoding)))
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(packed, flag=1))

    assert (await wire.answer(1)).messages == [b"x" * 99]


async def test_take_uncompressed_message_of_a_compressed_call() -> None:
    """A message without the flag is as it is, whatever the call says."""
    wire = connect(_echo)
    wire.ask(1, b"plain", more=[(b"grpc-encoding", b"snappy")])

    assert (await wire.answer(1)).messages == [b"plain"]


async def test_name_encodings_that_are_known() -> None:
    """Who compresses in another way is told what is understood (gRPC over HTTP/2, requests)."""
    wire = connect(_echo)
    block = headers.block(fields((b"grpc-encoding", b"snappy")))
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"?", flag=1))

    answer = await wire.answer(1)

    assert answer.status == UNIMPLEMENTED
    assert answer.headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (gzip.compress(bytes(1_000_000)), RESOURCE_EXHAUSTED),
        (gzip.compress(bytes(1001)), RESOURCE_EXHAUSTED),
        (b"no gzip", INVALID_ARGUMENT),
        (b"", INVALID_ARGUMENT),
        (gzip.compress(b"cut")[:-3], INVALID_ARGUMENT),
        (gzip.compress(b"one") + gzip.compress(b"two"), INVALID_ARGUMENT),
    ],
    ids=["bomb", "one byte too much", "something else", "nothing", "cut off", "two in one"],
)
async def test_refuse_broken_compression(packed: bytes, status: int) -> None:
    """What cannot be unpacked, or grows too large, ends its call."""
    wire = connect(_echo, maximum_message=1000)
    block = headers.block(fields((b"grpc-encoding", b"gzip")))
    wire.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(packed, flag=1))

    assert (await wire.answer(1)).status == status


# How handlers end.


async def test_answer_what_a_handler_aborts_with() -> None:
    """A handler may end its call with a status and a text of any letters."""

    async def refuse(_: Any, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, "100 % naïve\n", (("why", "x"),))
        raise AssertionError

    wire = connect(refuse)
    wire.ask(1, b"")

    answer = await wire.answer(1)

    assert answer.status == grpc.StatusCode.ABORTED.value[0]
    assert answer.headers[b"grpc-message"] == b"100 %25 na%C3%AFve%0A"
    assert answer.headers[b"why"] == b"x"
    assert answer.blocks == 1


async def test_keep_messages_before_an_error() -> None:
    """A status after messages comes in a block of its own."""

    async def break_off(_: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    wire = connect(break_off, yields=True)
    wire.ask(1, b"")

    answer = await wire.answer(1)

    assert answer.messages == [b"one"]
    assert (answer.status, answer.blocks) == (grpc.StatusCode.DATA_LOSS.value[0], 2)


async def _raise(_: Any, __: Any) -> bytes:
    raise RuntimeError("secret")


async def _no_bytes(_: Any, __: Any) -> Any:
    return "text"


async def _bad_metadata(_: Any, context: Any) -> bytes:
    context.set_trailing_metadata((("Upper", "x"),))
    return b""


async def _bad_first_metadata(_: Any, context: Any) -> bytes:
    await context.send_initial_metadata((("a", "naïve"),))
    return b""


@pytest.mark.parametrize("handler", [_raise, _no_bytes, _bad_metadata, _bad_first_metadata])
async def test_answer_defects_of_handlers(handler: testing.Handler) -> None:
    """Whatever a handler does wrong, its caller gets an answer that tells nothing of it."""
    wire = connect(handler)
    wire.ask(1, b"")

    answer = await wire.answer(1)

    assert answer.status == INTERNAL
    assert b"secret" not in answer.headers[b"grpc-message"]
    await wire.nothing_left()


async def test_refuse_to_write_after_the_end() -> None:
    """Nothing is sent on a stream that is over, whoever still holds the call."""
    contexts: list[Any] = []

    async def keep(_: Any, context: Any) -> bytes:
        contexts.append(context)
        return b""

    wire = connect(keep)
    wire.ask(1, b"")
    await wire.answer(1)
    written = bytes(wire.transport.written)

    with pytest.raises(grpc.aio.UsageError):
        await contexts[0].write(b"late")
    with pytest.raises(grpc.aio.UsageError):
        await contexts[0].send_initial_metadata(())
    assert wire.transport.written == written


async def test_call_back_at_the_end() -> None:
    """Callbacks are called once, those that are added late as well; their errors harm nobody."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    caught: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: caught.append(context))
    contexts: list[Any] = []

    def fail(_: Any) -> None:
        raise RuntimeError("callback")

    async def register(_: Any, context: Any) -> bytes:
        contexts.append(context)
        context.add_done_callback(fail)
        context.add_done_callback(lambda _: told.append("first"))
        return b""

    wire = connect(register)
    wire.ask(1, b"")
    await wire.answer(1)
    contexts[0].add_done_callback(lambda _: told.append("late"))
    await asyncio.sleep(0)
    loop.set_exception_handler(None)

    assert told == ["first", "late"]
    assert len(caught) == 1
    assert contexts[0].done()
    assert not contexts[0].cancelled()


async def test_end_stream_whose_request_is_not_needed() -> None:
    """A handler may answer before all of its request has come; the rest is declined."""

    async def first(requests: Any, _: Any) -> bytes:
        return bytes(await anext(aiter(requests)))

    wire = connect(first, takes_stream=True)
    wire.ask(1, b"a", is_end=False)

    answer = await wire.answer(1)

    assert (answer.messages, answer.status) == ([b"a"], OK)
    assert wire.of(frames.RST_STREAM, 1)[0].payload == bytes(4)
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"b"))
    assert not wire.is_closed


# Deadlines.


@pytest.mark.parametrize("takes_stream", [False, True])
@pytest.mark.parametrize("has_request", [False, True])
async def test_end_call_at_its_deadline(takes_stream: bool, has_request: bool) -> None:
    """A call ends at its time, also while its request is still coming, and its handler with it."""

    async def never(_: Any, __: Any) -> bytes:
        return await asyncio.Future()

    wire = connect(never, takes_stream=takes_stream)
    wire.ask(1, *[b"x"] * has_request, more=[(b"grpc-timeout", b"1m")], is_end=has_request)

    assert (await wire.answer(1)).status == DEADLINE_EXCEEDED
    await wire.nothing_left()


async def test_end_waiting_answer_at_its_deadline() -> None:
    """An answer that its caller does not take is given up at the deadline."""
    wire = connect(_echo)
    wire.set({frames.Setting.INITIAL_WINDOW_SIZE: 3})
    wire.ask(1, b"hello", more=[(b"grpc-timeout", b"10m")])

    answer = await wire.answer(1)

    assert answer.status == DEADLINE_EXCEEDED
    assert answer.data == message(b"hello")[:3]
    assert wire.connection.waiting == 0
    assert not wire.connection.blocked


async def test_wait_without_end_for_the_longest_time() -> None:
    """A time beyond all timers is no time at all."""
    wire = connect(_echo)
    wire.ask(1, b"x", more=[(b"grpc-timeout", b"99999999H")])

    assert (await wire.answer(1)).status == OK


# Clients that go away.

STAGES = ["headers", "half a message", "message", "handler", "waiting answer"]


@pytest.mark.parametrize("is_lost", [False, True], ids=["reset", "lost"])
@pytest.mark.parametrize("takes_stream", [False, True])
@pytest.mark.parametrize("stage", STAGES)
async def test_leave_nothing_of_abandoned_call(
    stage: str, takes_stream: bool, is_lost: bool
) -> None:
    """At whatever point a client gives up, its handler is cancelled and nothing is left."""
    is_serving = asyncio.Event()
    ends: list[str] = []

    contexts: list[Any] = []

    async def serve(request: Any, context: Any) -> bytes:
        contexts.append(context)
        context.add_done_callback(lambda _: ends.append("done"))
        if stage == "waiting answer":
            is_serving.set()
            return b"hello"
        try:
            if takes_stream:
                async for _ in request:
                    is_serving.set()
            is_serving.set()
            await asyncio.Future()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        raise AssertionError("not cancelled")

    wire = connect(serve, takes_stream=takes_stream)
    wire.set({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    wire.ask(1, more=[(b"grpc-timeout", b"1H")], is_end=False)
    if stage == "half a message":
        wire.frame(frames.DATA, 0, 1, message(b"hello")[:7])
    elif stage != "headers":
        wire.frame(frames.DATA, 0 if stage == "message" else frames.END_STREAM, 1, message(b"a"))
    if stage in ("handler", "waiting answer"):
        await is_serving.wait()
    if stage == "waiting answer":
        await wire.until(lambda: bool(wire.of(frames.HEADERS, 1)))
    timer: Any = wire.connection.calls[1]._timer
    written = len(wire.transport.written)

    if is_lost:
        wire.lose()
    else:
        wire.frame(frames.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big"))
    await wire.nothing_left()
    await asyncio.sleep(0)

    assert timer.cancelled()
    assert len(wire.transport.written) == written
    assert wire.connection.waiting == 0
    assert not wire.connection.blocked
    assert all(context.cancelled() for context in contexts)
    if stage == "handler":
        assert sorted(ends) == ["cancelled", "done"]


async def test_cancel_handler_before_its_first_step() -> None:
    """A handler that was to begin never does when its caller leaves first."""
    has_begun = False

    async def serve(_: Any, __: Any) -> bytes:
        nonlocal has_begun
        has_begun = True
        return b""

    wire = connect(serve)
    wire.ask(1, b"x")
    wire.frame(frames.RST_STREAM, 0, 1, bytes(4))
    await wire.nothing_left()

    assert not has_begun


async def test_wait_for_handler_that_ends_slowly() -> None:
    """A handler that is busy ending after its cancellation still counts as running."""
    may_end, is_ending, is_serving = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(_: Any, __: Any) -> bytes:
        try:
            is_serving.set()
            await asyncio.Future()
        finally:
            is_ending.set()
            await may_end.wait()
        raise AssertionError

    wire = connect(serve)
    wire.ask(1, b"x")
    await is_serving.wait()
    wire.frame(frames.RST_STREAM, 0, 1, bytes(4))
    await is_ending.wait()

    assert (len(wire.listener.running), wire.listener.cancelled) == (1, 1)
    may_end.set()
    await wire.nothing_left()


async def test_refuse_two_readers_of_a_call() -> None:
    """A second task that reads a call learns it, rather than that one of them waits for ever."""
    is_refused = asyncio.Event()

    async def serve(_: Any, context: Any) -> bytes:
        first = asyncio.ensure_future(context.read())
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.UsageError):
            await context.read()
        is_refused.set()
        return bytes(await first)

    wire = connect(serve, takes_stream=True)
    wire.ask(1, is_end=False)
    await is_refused.wait()
    wire.frame(frames.DATA, frames.END_STREAM, 1, message(b"read"))

    assert (await wire.answer(1)).messages == [b"read"]


async def test_wake_every_writer_of_a_call() -> None:
    """Several tasks of a handler may write while the client takes nothing."""

    async def serve(_: Any, context: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for each in (b"a", b"b", b"c"):
                group.create_task(context.write(each))

    wire = connect(serve)
    wire.set({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    wire.ask(1, b"")
    await wire.until(lambda: bool(wire.of(frames.HEADERS, 1)))
    wire.frame(frames.WINDOW_UPDATE, 0, 1, (100).to_bytes(4, "big"))

    assert sorted((await wire.answer(1)).messages) == [b"a", b"b", b"c"]


async def test_tell_reader_apart_that_a_call_is_over() -> None:
    """A task beside the handler does not take the end of a call for the end of its requests."""
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    is_reading = asyncio.Event()

    async def serve(_: Any, context: Any) -> bytes:
        async def read() -> None:
            is_reading.set()
            try:
                await context.read()
            except grpc.aio.UsageError as error:
                told.set_result(error)

        reading = asyncio.ensure_future(read())
        await asyncio.wait({reading})
        return b""

    wire = connect(serve, takes_stream=True)
    wire.ask(1, is_end=False)
    await is_reading.wait()
    wire.frame(frames.RST_STREAM, 0, 1, bytes(4))

    assert isinstance(await asyncio.wait_for(told, testing.WIDE), grpc.aio.UsageError)
    await wire.nothing_left()
