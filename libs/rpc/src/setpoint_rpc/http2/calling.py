"""One call: a stream of HTTP/2 with a handler behind it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from setpoint_rpc import failures, status
from setpoint_rpc.http2 import endpoints, frames, headers, messages, servicing
from setpoint_rpc.http2.frames import ErrorCode
from setpoint_runtime import errors

if TYPE_CHECKING:
    from setpoint_rpc.http2.connection import Connection

# A timer beyond this is none.
_LONGEST_SECONDS = 1e7
_MESSAGE_HEADER = messages.HEADER_BYTES
_ACCEPT_ENCODING = ("grpc-accept-encoding", messages.ACCEPTED_ENCODINGS)


class Call(servicing.Servicing):
    """What a handler knows of its call, and what the connection does with its stream."""

    # Most calls leave these as they are.
    is_over = False
    _is_half_closed = False
    _is_cancelled = False
    _has_run = False
    _has_begun = False
    _end: bytes | None = None
    """The block that ends the answer, from when it is known."""
    _inbox: messages.Inbox | None = None
    _outbox: deque[memoryview] | None = None
    _reader: asyncio.Future[None] | None = None
    _writer: asyncio.Future[None] | None = None
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _callbacks: list[Callable[[Any], None]] | None = None

    def __init__(
        self,
        connection: "Connection",
        stream: int,
        head: headers.Head,
        endpoint: endpoints.Endpoint,
    ) -> None:
        """Begin a call whose request may still be coming."""
        self._connection = connection
        self._head = head
        self._endpoint = endpoint
        self.stream = stream
        self.send_window = connection.initial_window
        seconds = head.timeout_seconds
        if seconds is not None:
            self._deadline = monotonic() + seconds
            if seconds < _LONGEST_SECONDS:
                self._timer = connection.loop.call_later(seconds, self._expire)
        if endpoint.takes_stream:
            self._open_inbox()
            self._start(_Requests(self))

    # What the connection tells.

    def receive(self, data: bytes, size: int, *, is_end: bool) -> None:
        """Take in some of the request; `size` is what it counts for flow control.

        Raises:
            StreamFailure: The peer broke a rule.
        """
        if self._is_half_closed:
            raise frames.StreamFailure(ErrorCode.STREAM_CLOSED)
        inbox = self._inbox
        if inbox is None:
            if is_end and self._is_whole(data, size):
                # By far the most: one frame, one request.
                self._is_half_closed = True
                self._start(data[_MESSAGE_HEADER:])
                return
            inbox = self._open_inbox()
        try:
            inbox.receive(data, size)
        except errors.SetpointError as error:
            self.end(error)
            return
        if inbox.waiting and self._reader is not None:
            _wake(self._reader)
        if is_end:
            self.half_close()

    def half_close(self) -> None:
        """The peer will send no more.

        Raises:
            StreamFailure: It has said so before.
        """
        if self._is_half_closed:
            raise frames.StreamFailure(ErrorCode.STREAM_CLOSED)
        self._is_half_closed = True
        inbox = self._open_inbox() if self._inbox is None else self._inbox
        try:
            inbox.end()
            if not self._endpoint.takes_stream:
                self._start(inbox.take())
        except errors.SetpointError as error:
            self.end(error)
        if self._reader is not None:
            _wake(self._reader)

    def abandon(self) -> None:
        """The peer is gone or wants no answer any more."""
        if not self.is_over:
            # What was still to be sent never is.
            self._end = None
            self._be_over()
        self._cancel()

    def end(self, error: errors.SetpointError) -> None:
        """End the call from outside its handler, which is cancelled.

        What of an answer still waits for the peer to take it is not sent any more.
        """
        if not self.is_over:
            code, message, trailing = status.to_status(error)
            if isinstance(error, messages.UnknownEncodingError):
                trailing = (*trailing, _ACCEPT_ENCODING)
            self._drop_outbox()
            self._finish(code.value[0], message, trailing)
        self._cancel()

    def pump(self) -> None:
        """Send as much of what waits as the peer takes now."""
        connection, outbox = self._connection, self._outbox
        while outbox:
            room = min(self.send_window, connection.send_window, connection.maximum_frame)
            if self.send_window <= 0:
                return
            if room <= 0 or connection.is_paused:
                connection.blocked[self.stream] = self
                return
            piece = outbox[0]
            if len(piece) <= room:
                outbox.popleft()
            else:
                outbox[0] = piece[room:]
                piece = piece[:room]
            size = len(piece)
            self.send_window -= size
            connection.send_window -= size
            connection.waiting -= size
            connection.put(frames.head(size, frames.DATA, 0, self.stream))
            connection.put(piece)
        if self._writer is not None:
            _wake(self._writer)
        if self._end is not None:
            self._send_end(self._end)

    # What handlers ask; the names are those of `grpc.aio.ServicerContext`.

    async def read(self) -> Any:
        """Return the next message of a stream of requests, `grpc.aio.EOF` after the last.

        Raises:
            grpc.aio.UsageError: The call is over, or is being read already.
        """
        inbox = self._inbox
        if inbox is None:
            return grpc.aio.EOF
        while not inbox.waiting:
            if inbox.is_ended:
                return grpc.aio.EOF
            if self.is_over:
                raise grpc.aio.UsageError("the call is over")
            if self._reader is not None and not self._reader.done():
                raise grpc.aio.UsageError("the call is being read already")
            self._reader = self._connection.loop.create_future()
            await self._reader
        return self._endpoint.read(inbox.take())

    async def write(self, message: Any) -> None:
        """Send one message of a stream of answers, when the peer takes it.

        Raises:
            grpc.aio.UsageError: The call is over.
        """
        # Others get their turn, what was written before goes out, and a call that is over learns it.
        await asyncio.sleep(0)
        self._check_open()
        raw = self._endpoint.write(message)
        self._check_size(raw)
        self._begin()
        self._post(raw)
        self.pump()
        if self._outbox:
            if self._writer is None or self._writer.done():
                self._writer = self._connection.loop.create_future()
            # Several tasks of a handler may write.
            await asyncio.shield(self._writer)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send what comes before the first message.

        Raises:
            grpc.aio.UsageError: The call is over, or it was sent before.
            ValueError: It cannot be sent.
        """
        self._check_open()
        if self._has_begun:
            raise grpc.aio.UsageError("the initial metadata has been sent")
        self._initial = headers.checked(initial_metadata)
        self._begin()
        # It goes out before anything else is done.
        await asyncio.sleep(0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when the call is over."""
        if self.is_over:
            self._connection.loop.call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Say whether the call ended without its answer."""
        return self.is_over and self._end is None

    def done(self) -> bool:
        """Say whether the call is over."""
        return self.is_over

    # Requests.

    def _is_whole(self, data: bytes, size: int) -> bool:
        """Say whether this is one message, not compressed and not too long, and nothing else."""
        length = len(data) - _MESSAGE_HEADER
        return (
            length >= 0
            and not data[0]
            and length == int.from_bytes(data[1:_MESSAGE_HEADER], "big")
            and length <= self._connection.maximum_message
            and size <= messages.RECEIVE_WINDOW
        )

    def _open_inbox(self) -> messages.Inbox:
        self._inbox = messages.Inbox(
            self._connection,
            self.stream,
            self._head.encoding,
            is_single=not self._endpoint.takes_stream,
        )
        return self._inbox

    # The handler.

    def _start(self, request: Any) -> None:
        running = self._run(request)
        listener = self._connection.listener
        self._task = self._connection.loop.create_task(running)
        listener.running.add(self)
        listener.beginning += 1

    async def _run(self, request: Any) -> None:
        endpoint = self._endpoint
        answer: bytes | None = None
        self._has_run = True
        self._connection.listener.beginning -= 1
        try:
            if endpoint.yields:
                async with aclosing(endpoint.serve(request, self)) as answers:
                    async for each in answers:
                        await self.write(each)
            else:
                answer = await endpoint.serve(request, self)
            if not self.is_over and self._end is None:
                self._answer(answer)
        except grpc.aio.AbortError:
            self._code = self._code or grpc.StatusCode.UNKNOWN
        except asyncio.CancelledError:
            # Ended from outside: whoever did that has told the caller, or there is none any more.
            self._code = grpc.StatusCode.CANCELLED
        except Exception as error:
            # Wrapped handlers raise nothing else; their caller must not wait for ever if one does.
            failures.answer(self, error, self._head.method)
        finally:
            self._connection.listener.running.discard(self)
            # A task's context knows the call; a call that knows its task too is garbage that only the
            # collector finds, some hundred thousand objects of it in a second.
            self._task = None
        if not self.is_over and self._end is None:
            self._finish_as_said()

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
        self._task = None
        listener.running.discard(self)
        listener.cancelled -= 1
        if not self._has_run:
            listener.beginning -= 1

    def _expire(self) -> None:
        self.end(errors.DeadlineExceededError(errors.Reason.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    # Answers.

    def _answer(self, answer: bytes | None) -> None:
        """Send what the handler left: an answer of a single one, and the status."""
        code = self._code
        if answer is None or (code is not None and code is not grpc.StatusCode.OK):
            self._finish_as_said()
            return
        self._check_size(answer)
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
            connection.put(endpoints.whole_answer(self.stream, answer))
            self._end = headers.GOOD_END
            self._be_over()
            return
        self._begin()
        self._post(answer)
        self._finish_as_said()

    def _check_open(self) -> None:
        if self.is_over or self._end is not None:
            raise grpc.aio.UsageError("the call is over")

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

    def _post(self, raw: bytes) -> None:
        piece = memoryview(messages.framed(raw))
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(piece)
        self._connection.waiting += len(piece)

    def _drop_outbox(self) -> None:
        if self._outbox:
            self._connection.waiting -= sum(map(len, self._outbox))
            self._outbox.clear()

    def _finish_as_said(self) -> None:
        code = self._code or grpc.StatusCode.OK
        self._finish(code.value[0], self._details, self._trailing)

    def _finish(self, code: int, message: str, trailing: headers.Metadata) -> None:
        if self._has_begun:
            self._end = headers.block(headers.status_fields(code, message, trailing))
        else:
            self._end = endpoints.end_alone(code, message, trailing)
        self.pump()

    def _send_end(self, block: bytes) -> None:
        self._connection.put_headers(self.stream, block, is_end=True)
        if not self._is_half_closed:
            # The rest of the request is of no use.
            self._connection.put(frames.reset(self.stream, ErrorCode.NO_ERROR))
        self._be_over()

    def _be_over(self) -> None:
        self.is_over = True
        if self._outbox:
            self._drop_outbox()
        self._connection.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._reader is not None:
            _wake(self._reader)
        if self._writer is not None:
            _wake(self._writer)
        for callback in self._callbacks or ():
            # What one of them raises is no concern of the connection.
            self._connection.loop.call_soon(callback, self)


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


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
