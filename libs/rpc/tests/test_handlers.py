import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint_rpc import channel, context, server, status, testing
from setpoint_runtime import errors

_SECRET = "postgresql://setpoint:hunter2@db/setpoint"


async def _items(*items: bytes) -> AsyncIterator[bytes]:
    for item in items:
        yield item


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    """Returns how a call ends that must not end well."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value


class FourShapes:
    """Each shape upper-cases what it gets; `fail` makes it raise after the first answer."""

    async def one_one(self, request: bytes, _: Any) -> bytes:
        return self._answer(request)

    async def one_many(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield self._answer(request)

    async def one_written(self, request: bytes, servicer_context: Any) -> None:
        await servicer_context.write(b"first")
        await servicer_context.write(self._answer(request))

    async def many_one(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"".join([self._answer(request) async for request in requests])

    async def many_many(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._answer(request)

    async def many_written(self, requests: AsyncIterator[bytes], servicer_context: Any) -> None:
        async for request in requests:
            await servicer_context.write(self._answer(request))

    @staticmethod
    def _answer(request: bytes) -> bytes:
        if request == b"fail":
            raise errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "no model")
        if request == b"crash":
            raise RuntimeError(_SECRET)
        return request.upper()

    def handlers(self) -> testing.Handlers:
        return {
            "OneOne": grpc.unary_unary_rpc_method_handler(self.one_one),
            "OneMany": grpc.unary_stream_rpc_method_handler(self.one_many),
            "OneWritten": grpc.unary_stream_rpc_method_handler(self.one_written),
            "ManyOne": grpc.stream_unary_rpc_method_handler(self.many_one),
            "ManyMany": grpc.stream_stream_rpc_method_handler(self.many_many),
            "ManyWritten": grpc.stream_stream_rpc_method_handler(self.many_written),
        }


def _call(opened: grpc.aio.Channel, method: str, *requests: bytes) -> Any:
    """Begins a call of any shape of `FourShapes`."""
    sends, answers = method.startswith("Many"), method.endswith(("Many", "Written"))
    shape = f"{'stream' if sends else 'unary'}_{'stream' if answers else 'unary'}"
    multicallable = getattr(opened, shape)(testing.path(method))
    return multicallable(_items(*requests) if sends else requests[0])


_METHODS = ["OneOne", "OneMany", "OneWritten", "ManyOne", "ManyMany", "ManyWritten"]


async def test_all_shapes_answer() -> None:
    """Wrapping changes nothing for a call that goes well, whatever its shape."""
    async with testing.serve_and_connect(FourShapes().handlers()) as opened:
        assert await _call(opened, "OneOne", b"a") == b"A"
        assert [x async for x in _call(opened, "OneMany", b"a")] == [b"first", b"A"]
        assert [x async for x in _call(opened, "OneWritten", b"a")] == [b"first", b"A"]
        assert await _call(opened, "ManyOne", b"a", b"b") == b"AB"
        assert [x async for x in _call(opened, "ManyMany", b"a", b"b")] == [b"A", b"B"]
        assert [x async for x in _call(opened, "ManyWritten", b"a", b"b")] == [b"A", b"B"]


@pytest.mark.parametrize("method", _METHODS)
async def test_typed_error_reaches_caller(method: str) -> None:
    """A domain error arrives typed and with its reason, whatever the shape."""
    async with testing.serve_and_connect(FourShapes().handlers()) as opened:
        failure = await _failure(_call(opened, method, b"fail"))

    assert failure.code() is grpc.StatusCode.NOT_FOUND
    error = channel.from_rpc_error(failure)
    assert type(error) is errors.NotFoundError
    assert error.reason is errors.Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize("method", _METHODS)
async def test_unknown_exception_is_masked(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The text of an unknown exception stays in the log, where the error id finds it."""
    with caplog.at_level(logging.ERROR):
        async with testing.serve_and_connect(FourShapes().handlers()) as opened:
            failure = await _failure(_call(opened, method, b"crash"))

    error = channel.from_rpc_error(failure)
    error_id = error.metadata["error_id"]
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in repr(failure) + repr(failure.trailing_metadata())
    assert error.message == f"internal error {error_id}"
    assert error_id in caplog.text
    assert _SECRET in caplog.text


@pytest.mark.parametrize("kind", list(status.CODES))
async def test_every_kind_crosses_the_wire(kind: type[errors.SetpointError]) -> None:
    """Each kind of error is on the other side what it was on this one."""

    async def fail(request: bytes, _: Any) -> bytes:
        raise kind(
            errors.Reason.INVALID_FIELD,
            "ungültig\n🚀",
            violations=[errors.FieldViolation("a[0]", "ä must be b")],
            metadata={"key": "Wert"},
            retry_after_seconds=0.5,
        )

    handlers = testing.unary("Fail", fail)
    async with testing.serve_and_connect(handlers) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Fail"))(b""))

    error = channel.from_rpc_error(failure)
    assert failure.code() is status.CODES[kind]
    assert type(error) is kind
    assert error.message == "ungültig\n🚀"
    assert error.violations == (errors.FieldViolation("a[0]", "ä must be b"),)
    assert error.metadata["key"] == "Wert"
    assert error.retry_after_seconds == 0.5


async def test_many_violations_cross_the_wire() -> None:
    """Even the greatest answer stays below what clients accept as metadata."""

    async def fail(request: bytes, _: Any) -> bytes:
        wide = "🚀" * 5_000
        violations = [errors.FieldViolation(wide, wide)] * 50
        raise errors.InvalidArgumentError(
            errors.Reason.WRONG_TYPE, wide, violations=violations, metadata={wide: wide}
        )

    handlers = testing.unary("Fail", fail)
    async with testing.serve_and_connect(handlers) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Fail"))(b""))

    error = channel.from_rpc_error(failure)
    assert error.reason is errors.Reason.WRONG_TYPE
    assert error.violations


async def test_unavailable_of_handler_is_not_retried_by_transport() -> None:
    """A handler that gave up has tried; the transport does not repeat it for the caller."""
    calls = 0

    async def fail(request: bytes, _: Any) -> bytes:
        nonlocal calls
        calls += 1
        raise errors.UnavailableError(errors.Reason.DATABASE_UNAVAILABLE, "down")

    service = "setpoint.inference.v1.InferenceService"
    async with (
        testing.serve(testing.unary("Predict", fail), service=service) as built,
        channel.connect(built.address, client="tester") as opened,
    ):
        failure = await _failure(opened.unary_unary(f"/{service}/Predict")(b""))

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert calls == 1


async def test_peer_failure_is_named_as_such() -> None:
    """A peer that does not answer makes this service unavailable; its text is not passed on."""

    async def relay(request: bytes, _: Any) -> bytes:
        async with channel.connect("127.0.0.1:9", client="relay") as broken:
            answer: bytes = await broken.unary_unary(testing.path("Gone"))(request)
            return answer

    handlers = testing.unary("Relay", relay)
    async with testing.serve_and_connect(handlers) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Relay"))(b"", timeout=5))

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert "127.0.0.1:9" not in (failure.details() or "")


async def test_peer_refusal_is_no_refusal_of_ours() -> None:
    """NOT_FOUND of a peer means nothing to our caller; unhandled, it is a defect of ours."""

    async def missing(request: bytes, _: Any) -> bytes:
        raise errors.NotFoundError(errors.Reason.MODEL_NOT_FOUND, "not here")

    handlers = testing.unary("Missing", missing)
    async with testing.serve_and_connect(handlers) as inner:

        async def relay(request: bytes, _: Any) -> bytes:
            answer: bytes = await inner.unary_unary(testing.path("Missing"))(request)
            return answer

        relaying = testing.unary("Relay", relay)
        async with testing.serve_and_connect(relaying) as opened:
            failure = await _failure(opened.unary_unary(testing.path("Relay"))(b""))

    assert failure.code() is grpc.StatusCode.INTERNAL


async def test_abort_of_handler_stands() -> None:
    """A handler that answers through the context itself is not answered for again."""

    async def abort(request: bytes, servicer_context: Any) -> bytes:
        await servicer_context.abort(grpc.StatusCode.OUT_OF_RANGE, "own words")
        raise AssertionError

    handlers = testing.unary("Abort", abort)
    async with testing.serve_and_connect(handlers) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Abort"))(b""))

    assert (failure.code(), failure.details()) == (grpc.StatusCode.OUT_OF_RANGE, "own words")


async def test_code_set_by_handler_stands() -> None:
    """A status set on the context wins over the returned message."""

    async def refuse(request: bytes, servicer_context: Any) -> None:
        servicer_context.set_code(grpc.StatusCode.ABORTED)
        servicer_context.set_details("own words")

    handlers = testing.unary("Refuse", refuse)
    async with testing.serve_and_connect(handlers) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Refuse"))(b""))

    assert (failure.code(), failure.details()) == (grpc.StatusCode.ABORTED, "own words")


def _read(raw: bytes) -> str:
    return raw.decode("utf-8")


def _write(text: str) -> bytes:
    return text.encode("utf-8")


@pytest.mark.parametrize("shape", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_unreadable_request_is_invalid(shape: str) -> None:
    """Bytes that are no message are the caller's mistake, and the server goes on."""

    async def one(request: str, _: Any) -> str:
        return request

    async def one_many(request: str, _: Any) -> AsyncIterator[str]:
        yield request

    async def many_one(requests: AsyncIterator[str], _: Any) -> str:
        return "".join([request async for request in requests])

    async def many_many(requests: AsyncIterator[str], _: Any) -> AsyncIterator[str]:
        async for request in requests:
            yield request

    behaviours = {
        "unary_unary": one,
        "unary_stream": one_many,
        "stream_unary": many_one,
        "stream_stream": many_many,
    }
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    handler = make(behaviours[shape], request_deserializer=_read, response_serializer=_write)
    async with testing.serve_and_connect({"Say": handler}) as opened:
        multicallable = getattr(opened, shape)(testing.path("Say"))

        def say(raw: bytes) -> Any:
            return multicallable(_items(raw) if shape.startswith("stream") else raw)

        failure = await _failure(say(b"\xff"))
        good = say("ä".encode())
        answer = [x async for x in good] if shape.endswith("stream") else [await good]

    assert type(channel.from_rpc_error(failure)) is errors.InvalidArgumentError
    assert answer == ["ä".encode()]


async def test_unwritable_answer_is_masked() -> None:
    """A handler that forgets its answer is a defect, told of by error id alone."""

    async def forget(request: str, _: Any) -> None:
        return None

    handler = grpc.unary_unary_rpc_method_handler(
        forget, request_deserializer=_read, response_serializer=_write
    )
    async with testing.serve_and_connect({"Forget": handler}) as opened:
        failure = await _failure(opened.unary_unary(testing.path("Forget"))(b""))

    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "NoneType" not in repr(failure)


def test_synchronous_handler_is_refused() -> None:
    """A forgotten `async` is found when the server is built."""

    def sync(request: bytes, _: Any) -> bytes:
        return request

    handlers = testing.unary("Sync", sync)

    async def build() -> None:
        async with testing.serve(handlers):
            pass

    with pytest.raises(TypeError, match=r"TestService/Sync is not an asynchronous handler"):
        asyncio.run(build())


async def test_oversize_request_is_typed() -> None:
    """A message above the limit is refused by the transport and typed by the channel."""

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    handlers = testing.unary("Echo", echo)
    options = server.ServerOptions(maximum_message_bytes=1024)
    async with testing.serve_and_connect(handlers, options) as opened:
        multicallable = opened.unary_unary(testing.path("Echo"))
        failure = await _failure(multicallable(b"x" * 5000))
        assert await multicallable(b"small") == b"small"

    error = channel.from_rpc_error(failure)
    assert type(error) is errors.ResourceExhaustedError
    assert error.reason is errors.Reason.MESSAGE_TOO_LARGE


async def test_too_many_calls_are_refused_at_once() -> None:
    """Above the fuse a call is refused with OVERLOADED and a time to come back."""
    release = asyncio.Event()
    reached = asyncio.Semaphore(0)

    async def hold(request: bytes, _: Any) -> bytes:
        reached.release()
        await release.wait()
        return request

    handlers = testing.unary("Hold", hold)
    options = server.ServerOptions(maximum_in_flight=2)
    async with testing.serve_and_connect(handlers, options) as opened:
        multicallable = opened.unary_unary(testing.path("Hold"))
        held = [multicallable(b"", timeout=30) for _ in range(2)]
        for _ in held:
            await reached.acquire()
        error = channel.from_rpc_error(await _failure(multicallable(b"", timeout=30)))
        release.set()
        assert await asyncio.gather(*held) == [b"", b""]
        assert await multicallable(b"", timeout=30) == b""

    assert type(error) is errors.ResourceExhaustedError
    assert error.reason is errors.Reason.OVERLOADED
    assert error.retry_after_seconds is not None


async def test_waves_above_the_fuse_leave_it_whole() -> None:
    """Waves of refused calls do not use up places for good."""

    async def work(request: bytes, _: Any) -> bytes:
        await asyncio.sleep(0.01)
        return request

    handlers = testing.unary("Work", work)
    options = server.ServerOptions(maximum_in_flight=5)
    async with testing.serve_and_connect(handlers, options) as opened:
        multicallable = opened.unary_unary(testing.path("Work"))
        for _ in range(4):
            wave = [multicallable(b"x", timeout=30) for _ in range(40)]
            ended = await asyncio.gather(*wave, return_exceptions=True)
            assert sum(each == b"x" for each in ended) >= 5
        assert (
            await asyncio.gather(*[multicallable(b"y", timeout=30) for _ in range(5)]) == [b"y"] * 5
        )


async def test_disconnect_cancels_handler() -> None:
    """A caller that leaves frees the work done for it, and the cancellation is not swallowed."""
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, _: Any) -> bytes:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    handlers = testing.unary("Wait", wait)
    async with testing.serve_and_connect(handlers) as opened:
        call = opened.unary_unary(testing.path("Wait"))(b"", timeout=30)
        await reached.wait()
        call.cancel()
        async with asyncio.timeout(30):
            await cancelled.wait()


async def test_dropped_stream_ends_its_generator() -> None:
    """Leaving a stream half-way runs the clean-up of the generator behind it."""
    ended = asyncio.Event()

    async def count(request: bytes, _: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    handlers = testing.streaming("Count", count)
    async with testing.serve_and_connect(handlers) as opened:
        call = opened.unary_stream(testing.path("Count"))(b"")
        assert await call.read() == b"x"
        call.cancel()
        async with asyncio.timeout(30):
            await ended.wait()


async def test_call_context_is_of_the_call() -> None:
    """Handlers see who calls, how long they have, and the trace; outside there is nothing."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen: list[tuple[str | None, float | None, str | None]] = []

    async def look(request: bytes, _: Any) -> bytes:
        seen.append((context.caller(), context.remaining_seconds(), context.traceparent()))
        context.detach()
        seen.append((context.caller(), context.remaining_seconds(), context.traceparent()))
        return request

    handlers = testing.unary("Look", look)
    async with testing.serve_and_connect(handlers) as opened:
        metadata = (("traceparent", trace),)
        await opened.unary_unary(testing.path("Look"))(b"", timeout=5, metadata=metadata)

    caller, remaining, traceparent = seen[0]
    assert (caller, traceparent) == ("tester", trace)
    assert remaining is not None
    assert 4 < remaining < 5.1
    assert seen[1] == (None, None, None)
    assert context.caller() is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ],
)
async def test_broken_traceparent_is_ignored(header: str) -> None:
    """A header that is no trace context must not reach logs or spans."""
    seen: list[str | None] = []

    async def look(request: bytes, _: Any) -> bytes:
        seen.append(context.traceparent())
        return request

    handlers = testing.unary("Look", look)
    async with testing.serve_and_connect(handlers) as opened:
        await opened.unary_unary(testing.path("Look"))(b"", metadata=(("traceparent", header),))

    assert seen == [None]
