"""One call: a stream of HTTP/2 with a handler behind it."""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

import setpoint_telemetry
from setpoint_rpc import failures, status
from setpoint_rpc.http2 import frames, headers
from setpoint_runtime import errors

if TYPE_CHECKING:
    from setpoint_rpc.http2.connection import Connection

RECEIVE_WINDOW = 256 * 1024
"""Bytes of a stream that its peer may send before they are read; a longer message gets more."""

_LOGGER = setpoint_telemetry.get_logger(__name__)
_MESSAGE_HEADER = 5
# A timer beyond this is none.
_LONGEST_SECONDS = 1e7
_RESPONSE_HEADER = len(headers.RESPONSE).to_bytes(3, "big") + bytes(
    (frames.HEADERS, frames.END_HEADERS)
)
_DATA_HEADER = bytes((frames.DATA, 0))
_GOOD_END_HEADER = len(headers.GOOD_END).to_bytes(3, "big") + bytes(
    (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
)
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a method is served."""

    serve: Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Any]
    """Takes a message, or an iterator of them, and the call. A coroutine function that returns the
    bytes of its answer or None, or, where it yields, a function of an asynchronous generator."""
    takes_stream: bool
    """Requests come one by one."""
    yields: bool
    read: Callable[[bytes], Any]
    """Reads a message of a stream; a single one is handed over as it came."""
    write: Callable[[Any], bytes]
    """Writes a message that the handler passes to the call."""


class Refusal:
    """An answer that is ready before its call comes."""

    __slots__ = ("block", "observe")

    def __init__(self, error: errors.SetpointError, observe: Callable[[], None]) -> None:
        """Prepare to tell callers of an error; `observe` is called for each."""
        code, message, trailing = status.to_status(error)
        self.block = end_alone(code.value[0], message, trailing)
        self.observe = observe


def end_alone(code: int, message: str, trailing: headers.Metadata) -> bytes:
    """Return the block of an answer that has a status and no message."""
    return headers.RESPONSE + headers.block(headers.status_fields(code, message, trailing))


class FlowControlError(Exception):
    """The peer sent more than it was allowed to."""


class Call(grpc.aio.ServicerContext[Any, Any]):
    """What a handler knows of its call, and what the connection does with its stream."""

    __slots__ = (
        "_buffer",
        "_callbacks",
        "_code",
        "_connection",
        "_deadline",
        "_details",
        "_end",
        "_endpoint",
        "_has_begun",
        "_head",
        "_initial",
        "_is_cancelled",
        "_is_half_closed",
        "_messages",
        "_outbox",
        "_reader",
        "_task",
        "_timer",
        "_trailing",
        "_unread",
        "_window",
        "_writer",
        "is_over",
        "send_window",
        "stream",
    )

    def __init__(
        self, connection: "Connection", stream: int, head: headers.Head, endpoint: Endpoint
    ) -> None:
        """Begin a call whose request may still be coming."""
        self._connection = connection
        self._head = head
        self._endpoint = endpoint
        self.stream = stream
        self.send_window = connection.initial_window
        self.is_over = False
        self._is_half_closed = False
        self._is_cancelled = False
        self._window = RECEIVE_WINDOW
        self._buffer: bytearray | None = None
        self._messages: deque[bytes] = deque()
        self._unread = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._outbox: deque[memoryview] = deque()
        self._end: bytes | None = None
        self._has_begun = False
        self._task: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._initial: headers.Metadata = ()
        self._trailing: headers.Metadata = ()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        seconds = head.timeout_seconds
        if seconds is not None:
            self._deadline = monotonic() + seconds
            if seconds < _LONGEST_SECONDS:
                self._timer = connection.loop.call_later(seconds, self._expire)
        if endpoint.takes_stream:
            self._start(_Requests(self))

    # What the connection tells.

    def receive(self, data: bytes, size: int, *, is_end: bool) -> None:
        """Take in some of the request; `size` is what it counts for flow control.

        Raises:
            FlowControlError: The peer sent more than it was allowed to.
        """
        self._window -= size
        if self._window < 0:
            raise FlowControlError
        if self._is_half_closed:
            return
        if data:
            self._take(data)
        if is_end and not self.is_over:
            self.half_close()

    def half_close(self) -> None:
        """The peer will send no more."""
        if self._is_half_closed or self.is_over:
            return
        self._is_half_closed = True
        if self._buffer:
            self._refuse_request("the request ends within a message")
        elif self._endpoint.takes_stream:
            self._wake_reader()
        elif not self._messages:
            self._refuse_request("the method takes one request message and none came")
        else:
            self._start(self._messages.popleft())

    def abandon(self) -> None:
        """The peer is gone or wants no answer any more."""
        if not self.is_over:
            self._be_over()
        self._cancel()

    def end(self, error: errors.SetpointError) -> None:
        """End the call from outside its handler, which is cancelled."""
        if not self.is_over and self._end is None:
            code, message, trailing = status.to_status(error)
            self._outbox.clear()
            self._finish(code.value[0], message, trailing)
        self._cancel()

    def pump(self) -> None:
        """Send as much of what waits as the peer takes now."""
        connection = self._connection
        outbox = self._outbox
        while outbox:
            room = min(self.send_window, connection.send_window, connection.maximum_frame)
            if room <= 0 or connection.is_paused:
                connection.blocked[self.stream] = self
                return
            piece = outbox[0]
            if len(piece) <= room:
                outbox.popleft()
            else:
                outbox[0] = piece[room:]
                piece = piece[:room]
            self.send_window -= len(piece)
            connection.send_window -= len(piece)
            connection.put(frames.frame(frames.DATA, 0, self.stream, bytes(piece)))
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        if self._end is not None:
            self._send_end(self._end)

    # What handlers ask; the names are those of `grpc.aio.ServicerContext`.

    async def read(self) -> Any:
        """Return the next message of a stream of requests, `grpc.aio.EOF` after the last."""
        while not self._messages:
            if self._is_half_closed or self.is_over:
                return grpc.aio.EOF
            self._reader = self._connection.loop.create_future()
            await self._reader
        message = self._messages.popleft()
        self._unread -= len(message) + _MESSAGE_HEADER
        more = RECEIVE_WINDOW - self._window - self._unread
        if more * 2 >= RECEIVE_WINDOW and not self._is_half_closed:
            self._grant(more)
        return self._endpoint.read(message)

    async def write(self, message: Any) -> None:
        """Send one message of a stream of answers, when the peer takes it.

        Raises:
            grpc.aio.UsageError: The call is over.
        """
        # Others get their turn, what was written before goes out, and a call that is over learns it.
        await asyncio.sleep(0)
        if self.is_over or self._end is not None:
            raise grpc.aio.UsageError("the call is over")
        raw = self._endpoint.write(message)
        self._check_size(raw)
        self._begin()
        self._outbox.append(memoryview(_framed(raw)))
        self.pump()
        if self._outbox:
            self._writer = self._connection.loop.create_future()
            await self._writer

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send what comes before the first message."""
        self._initial = tuple((key, value) for key, value in initial_metadata)
        self._begin()

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> Any:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        self.set_code(code)
        self.set_details(details)
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        raise grpc.aio.AbortError(f"Locally aborted with {code}: {details}")

    async def abort_with_status(self, status: grpc.Status) -> Any:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what is sent with the status."""
        self._trailing = tuple((key, value) for key, value in trailing_metadata)

    def invocation_metadata(self) -> Any:
        """Return what the caller sent beside its request, as pairs."""
        return self._head.invocation_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text of the status."""
        self._details = details

    def code(self) -> Any:
        """Return the status that was set, None when none was."""
        return self._code

    def details(self) -> str:
        """Return the text that was set."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return what will be sent with the status."""
        return self._trailing

    def time_remaining(self) -> Any:
        """Return the seconds left until the caller's deadline, None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def peer(self) -> str:
        """Return where the call comes from."""
        return self._connection.peer

    def auth_context(self) -> Any:
        """Return what the peer's certificate says of it, by gRPC's names for that."""
        return self._connection.auth_context()

    def peer_identities(self) -> Any:
        """Return the names in the peer's certificate, None when it showed none."""
        return self.auth_context().get(self.peer_identity_key())

    def peer_identity_key(self) -> str:
        """Return under which name `auth_context` has the peer's names."""
        return "x509_subject_alternative_name"

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: answers are sent as they are."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: answers are sent as they are."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when the call is over."""
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Say whether the call ended without its answer."""
        return self.is_over and self._end is None

    def done(self) -> bool:
        """Say whether the call is over."""
        return self.is_over

    # Requests.

    def _take(self, data: bytes) -> None:
        """Take messages out of what came, which may end anywhere."""
        if self._buffer is None:
            length = int.from_bytes(data[1:_MESSAGE_HEADER], "big")
            if len(data) == _MESSAGE_HEADER + length and length <= self._connection.maximum_message:
                # By far the most: one frame, one message.
                self._message(data[0], data[_MESSAGE_HEADER:])
                return
            self._buffer = bytearray()
        buffer = self._buffer
        buffer += data
        place = 0
        while len(buffer) - place >= _MESSAGE_HEADER:
            begin = place + _MESSAGE_HEADER
            length = int.from_bytes(buffer[place + 1 : begin], "big")
            if length > self._connection.maximum_message:
                self._refuse_size(length)
                return
            if len(buffer) - begin < length:
                # A message that is longer than the window would never come to its end.
                missing = begin + length - len(buffer)
                if missing > self._window:
                    self._grant(missing - self._window)
                break
            self._message(buffer[place], bytes(buffer[begin : begin + length]))
            if self.is_over or self._end is not None:
                return
            place = begin + length
        del buffer[:place]

    def _message(self, flag: int, raw: bytes) -> None:
        if flag:
            unpacked = self._unpacked(flag, raw)
            if unpacked is None:
                return
            raw = unpacked
        self._messages.append(raw)
        self._unread += len(raw) + _MESSAGE_HEADER
        if self._reader is not None:
            self._wake_reader()

    def _unpacked(self, flag: int, raw: bytes) -> bytes | None:
        """Return a compressed message as it was, None when the call has been refused for it."""
        encoding = self._head.encoding
        bits = _WINDOW_BITS.get(encoding)
        if flag != 1 or encoding == b"identity":
            self._refuse_request("a message is marked as compressed and the call names no encoding")
            return None
        if bits is None:
            shown = encoding[:32].decode("ascii", "backslashreplace")
            self.end(
                errors.UnimplementedError(
                    errors.Reason.UNIMPLEMENTED,
                    f"grpc-encoding {shown!r} must be one of identity, deflate, gzip",
                )
            )
            return None
        limit = self._connection.maximum_message
        try:
            inflate = zlib.decompressobj(bits)
            unpacked = inflate.decompress(raw, limit + 1)
        except zlib.error:
            self._refuse_request("a compressed message cannot be read")
            return None
        if len(unpacked) > limit:
            self._refuse_size(len(unpacked))
            return None
        if not inflate.eof:
            self._refuse_request("a compressed message is cut off")
            return None
        return unpacked

    def _refuse_request(self, message: str) -> None:
        self.end(errors.InvalidArgumentError(errors.Reason.INVALID_FIELD, message))

    def _refuse_size(self, size: int) -> None:
        limit = self._connection.maximum_message
        self.end(
            errors.ResourceExhaustedError(
                errors.Reason.MESSAGE_TOO_LARGE,
                f"received message larger than max ({size} vs. {limit} bytes)",
            )
        )

    def _grant(self, more: int) -> None:
        self._window += more
        self._connection.put(frames.window_update(self.stream, more))

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The handler.

    def _start(self, request: Any) -> None:
        running = self._run(request)
        self._task = self._connection.loop.create_task(running)
        self._connection.listener.running.add(self)

    async def _run(self, request: Any) -> None:
        endpoint = self._endpoint
        answer: bytes | None = None
        try:
            if endpoint.yields:
                async with aclosing(endpoint.serve(request, self)) as answers:
                    async for each in answers:
                        await self.write(each)
            else:
                answer = await endpoint.serve(request, self)
        except grpc.aio.AbortError:
            self._code = self._code or grpc.StatusCode.UNKNOWN
        except asyncio.CancelledError:
            # Ended from outside: whoever did that has told the caller, or there is none any more.
            if not self.is_over and self._end is None:
                self.set_code(grpc.StatusCode.CANCELLED)
        except Exception as error:
            # Wrapped handlers raise nothing else; their caller must not wait for ever if one does.
            answer = None
            failures.answer(self, error, self._head.method)
        finally:
            self._connection.listener.running.discard(self)
        if not self.is_over and self._end is None:
            self._answer(answer)

    def _cancel(self) -> None:
        task = self._task
        listener = self._connection.listener
        if task is None or self not in listener.running or task is asyncio.current_task():
            return
        if self._is_cancelled:
            return
        self._is_cancelled = True
        listener.cancelled += 1
        # One that has not begun never runs, so it cannot say itself that it has ended.
        task.add_done_callback(self._stopped)
        task.cancel()

    def _stopped(self, _: "asyncio.Task[None]") -> None:
        listener = self._connection.listener
        listener.running.discard(self)
        listener.cancelled -= 1

    def _expire(self) -> None:
        self.end(errors.DeadlineExceededError(errors.Reason.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    # Answers.

    def _answer(self, answer: bytes | None) -> None:
        """Send what the handler left: an answer of a single one, and the status."""
        code = self._code
        if code is not None and code is not grpc.StatusCode.OK:
            self._finish(code.value[0], self._details, self._trailing)
            return
        if answer is not None:
            connection = self._connection
            size = len(answer) + _MESSAGE_HEADER
            if (
                size <= connection.maximum_frame
                and size <= connection.send_window
                and size <= self.send_window
                and not (connection.is_paused or self._has_begun or self._trailing)
                and self._is_half_closed
            ):
                connection.send_window -= size
                stream = self.stream.to_bytes(4, "big")
                connection.put(
                    b"".join(
                        (
                            _RESPONSE_HEADER,
                            stream,
                            headers.RESPONSE,
                            size.to_bytes(3, "big"),
                            _DATA_HEADER,
                            stream,
                            b"\0",
                            (size - _MESSAGE_HEADER).to_bytes(4, "big"),
                            answer,
                            _GOOD_END_HEADER,
                            stream,
                            headers.GOOD_END,
                        )
                    )
                )
                self._end = headers.GOOD_END
                self._be_over()
                return
            try:
                self._check_size(answer)
            except errors.ResourceExhaustedError as error:
                self.end(error)
                return
            self._begin()
            self._outbox.append(memoryview(_framed(answer)))
        self._finish(0, self._details, self._trailing)

    def _check_size(self, raw: bytes) -> None:
        limit = self._connection.maximum_message
        if len(raw) > limit:
            raise errors.ResourceExhaustedError(
                errors.Reason.MESSAGE_TOO_LARGE,
                f"sent message larger than max ({len(raw)} vs. {limit} bytes)",
            )

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            block = headers.RESPONSE + headers.block(headers.encoded(self._initial))
            self._connection.put_headers(self.stream, block, is_end=False)

    def _finish(self, code: int, message: str, trailing: headers.Metadata) -> None:
        if self._has_begun:
            self._end = headers.block(headers.status_fields(code, message, trailing))
        else:
            self._end = end_alone(code, message, trailing)
        self.pump()

    def _send_end(self, block: bytes) -> None:
        self._connection.put_headers(self.stream, block, is_end=True)
        if not self._is_half_closed:
            # The rest of the request is of no use.
            self._connection.put(frames.reset(self.stream, frames.ErrorCode.NO_ERROR))
        self._be_over()

    def _be_over(self) -> None:
        self.is_over = True
        self._connection.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        self._wake_reader()
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        for callback in self._callbacks:
            callback(self)


class _Requests:
    """The messages of a stream of requests, in order."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


def _framed(raw: bytes) -> bytes:
    return b"\0" + len(raw).to_bytes(4, "big") + raw
