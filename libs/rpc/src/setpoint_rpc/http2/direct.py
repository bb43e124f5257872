"""A connection of our own to one address, for calls with one request and one answer.

gRPC core's channels resolve, balance, look at health and repeat, at a price that a small call feels.
Where there is one address, this connection carries the calls while it stands, and whoever asks goes to
gRPC core for everything else: before it stands, after it is lost, for what is too large for it.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import unquote

import grpc
import grpc.aio
import hpack

from setpoint_rpc.http2 import frames, headers
from setpoint_rpc.http2.frames import ConnectionFailure, ErrorCode, Setting

_DIAL_SECONDS = 2.0
_REDIAL_SECONDS = 1.0
_QUIET_SECONDS = 30.0
_PING_SECONDS = 5.0
_MESSAGE_HEADER = 5
_WINDOW = 16 * 1024 * 1024
_MAXIMUM_FRAME = 256 * 1024
_TABLE_BYTES = 4096
_ALIVE = b"alive???"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HTTP_OK = b"200"

Read = Callable[[bytes], Any]
Answer = asyncio.Future[Any]


def failure(
    code: grpc.StatusCode, details: str, trailing: headers.Metadata = ()
) -> grpc.aio.AioRpcError:
    """Return the error of a failed call, as gRPC core's channels raise it."""
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


class Direct:
    """Calls one address while a connection to it stands."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        fields: Sequence[tuple[str, str]],
        maximum_message: int,
        context: Callable[[], ssl.SSLContext] | None = None,
        server_name: str = "",
    ) -> None:
        """Prepare; the first call dials.

        Args:
            host: An address, or a name of this machine.
            port: Where the server listens.
            fields: Header fields of every call.
            maximum_message: Bytes of the longest message, either way.
            context: Makes what a TLS handshake needs, anew for each; None for no TLS.
            server_name: The name in the server's certificate.
        """
        self._host, self._port = host, port
        self._context = context
        self._server_name = server_name or host
        scheme = "http" if context is None else "https"
        self.fields = [
            (":method", "POST"),
            (":scheme", scheme),
            (":authority", server_name or f"{host}:{port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *fields,
        ]
        self.maximum_message = maximum_message
        self._connection: _Connection | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._is_closed = False

    def ask(
        self, method: str, request: bytes, seconds: float, metadata: headers.Metadata, read: Read
    ) -> Answer | None:
        """Call a method; None when this connection cannot carry the call now.

        Args:
            method: Such as `/package.Service/Method`.
            request: The message.
            seconds: Time for the call.
            metadata: Beside the fields of every call.
            read: Reads the answer.

        Returns:
            The answer to come, or its `grpc.aio.AioRpcError`. Cancelling it cancels the call.
        """
        connection = self._connection
        if connection is None:
            if self._dialing is None and not self._is_closed:
                self._dialing = asyncio.create_task(self._dial(), name="dial")
            return None
        return connection.ask(method, request, seconds, metadata, read)

    async def close(self, grace: float | None = None) -> None:
        """Give up the connection; calls in flight get `grace` seconds, none without."""
        self._is_closed = True
        if self._connection is not None and grace:
            await self._connection.finish(grace)
        if self._dialing is not None:
            self._dialing.cancel()
        if self._connection is not None:
            self._connection.close()

    def stands(self, connection: "_Connection") -> None:
        """A connection can be used from now on."""
        if self._is_closed:
            connection.close()
        else:
            self._connection = connection

    def gone(self, connection: "_Connection") -> None:
        """A connection takes no more calls."""
        if self._connection is connection:
            self._connection = None

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                context = None
                if self._context is not None:
                    context = await asyncio.to_thread(self._context)
                _, connection = await loop.create_connection(
                    lambda: _Connection(self),
                    self._host,
                    self._port,
                    ssl=context,
                    server_hostname=self._server_name if context is not None else None,
                )
                await connection.settled
        except OSError:
            # gRPC core meets the same, and tells the callers.
            await asyncio.sleep(_REDIAL_SECONDS)
        finally:
            self._dialing = None


class _Asked:
    """A call in flight."""

    __slots__ = ("answer", "content", "fields", "read", "stream", "timer")

    def __init__(self, stream: int, answer: Answer, read: Read) -> None:
        self.stream = stream
        self.answer = answer
        self.read = read
        self.content = bytearray()
        self.fields: headers.Pairs = []
        self.timer: asyncio.TimerHandle | None = None


class _Connection(asyncio.Protocol):
    """The client's side of HTTP/2 (RFC 9113)."""

    def __init__(self, owner: Direct) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._splitter = frames.Splitter(_MAXIMUM_FRAME)
        self._reader = headers.Reader(list)
        self._encoder = hpack.Encoder()
        self._blocks: dict[str, bytes] = {}
        self._block: headers.Block | None = None
        self._asked: dict[int, _Asked] = {}
        self._out: list[bytes] = []
        self._next_stream = 1
        self._maximum_calls = 100
        self._maximum_frame = frames.SMALLEST_MAXIMUM_FRAME
        self._initial_window = self._send_window = frames.DEFAULT_WINDOW
        self._received = 0
        self._is_leaving = self._is_closed = self._is_paused = False
        self._heard = self._loop.time()
        self._looking: asyncio.TimerHandle | None = None

    # Calls.

    def ask(
        self, method: str, request: bytes, seconds: float, metadata: headers.Metadata, read: Read
    ) -> Answer | None:
        """Send a call; None when there is no room for it."""
        size = len(request) + _MESSAGE_HEADER
        room = min(self._send_window, self._initial_window, self._owner.maximum_message)
        is_full = self._is_paused or len(self._asked) >= self._maximum_calls
        if size > room or is_full or seconds <= 0:
            return None
        # Fails for metadata that cannot be sent, before anything has changed.
        extra = headers.block([(b"grpc-timeout", _timeout(seconds)), *headers.encoded(metadata)])
        stream = self._next_stream
        self._next_stream = stream + 2
        if self._next_stream > frames.LARGEST_STREAM:
            self._leave()
        asked = _Asked(stream, self._loop.create_future(), read)
        asked.timer = self._loop.call_later(seconds, self._expire, asked)
        asked.answer.add_done_callback(lambda _: self._settle(asked))
        self._asked[stream] = asked
        block = self._method_block(method) + extra
        self._put(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block))
        self._send_window -= size
        content = b"\0" + len(request).to_bytes(4, "big") + request
        for begin in range(0, size, self._maximum_frame):
            part = content[begin : begin + self._maximum_frame]
            flags = frames.END_STREAM if begin + self._maximum_frame >= size else 0
            self._put(frames.frame(frames.DATA, flags, stream, part))
        return asked.answer

    async def finish(self, seconds: float) -> None:
        """Wait for the calls in flight, at most so long."""
        answers = [asked.answer for asked in self._asked.values()]
        if answers:
            await asyncio.wait(answers, timeout=seconds)

    def close(self) -> None:
        """End the connection and the calls on it."""
        self._leave()
        self._fail(grpc.StatusCode.CANCELLED, "the channel is closed")
        if self._transport is not None:
            self._transport.abort()

    def _method_block(self, method: str) -> bytes:
        """Return the fields of every call of a method, after the first as places in the table."""
        known = self._blocks.get(method)
        if known is not None:
            return known
        fields = [*self._owner.fields, (":path", method)]
        fields.sort(key=lambda field: not field[0].startswith(":"))
        first: bytes = self._encoder.encode(fields, huffman=False)
        # What is new in the table moves the places of what was there.
        self._blocks = {method: self._encoder.encode(fields, huffman=False)}
        return first

    def _settle(self, asked: _Asked) -> None:
        """A call has its answer, or nobody waits for it any more."""
        if asked.timer is not None:
            asked.timer.cancel()
        if self._asked.pop(asked.stream, None) is not None and not self._is_closed:
            self._put(frames.reset(asked.stream, ErrorCode.CANCEL))
        if self._is_leaving and not self._asked and self._transport is not None:
            self._transport.close()

    def _expire(self, asked: _Asked) -> None:
        self._give(asked, failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _fail(self, code: grpc.StatusCode, details: str, *, after: int = 0) -> None:
        """End the calls whose streams come after a number."""
        for stream, asked in tuple(self._asked.items()):
            if stream > after:
                del self._asked[stream]
                self._give(asked, failure(code, details))

    def _leave(self) -> None:
        """Take no more calls; those in flight may end."""
        self._is_leaving = True
        self._owner.gone(self)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._transport = opened = cast("asyncio.Transport", transport)
        window = self._owner.maximum_message + _MESSAGE_HEADER
        settings = frames.settings(
            {
                Setting.ENABLE_PUSH: 0,
                # A whole answer, so that no stream ever waits for more.
                Setting.INITIAL_WINDOW_SIZE: window,
                Setting.MAX_FRAME_SIZE: _MAXIMUM_FRAME,
            }
        )
        more = frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        opened.write(frames.PREFACE + settings + more)
        self._looking = self._loop.call_later(_PING_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
        self._leave()
        self._fail(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
        if not self.settled.done():
            self.settled.set_exception(ConnectionResetError("closed before it was used"))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for kind, flags, stream, payload in self._splitter.split(data):
                self._frame(kind, flags, stream, payload)
        except ConnectionFailure as broken:
            self._put(frames.go_away(0, broken.code, broken.message))
            self._flush()
            self._leave()
            if self._transport is not None:
                self._transport.close()
            return
        if self._out:
            self._flush()

    def _look(self) -> None:
        """Find out whether the peer is still there."""
        quiet = self._loop.time() - self._heard
        if quiet > _QUIET_SECONDS + _PING_SECONDS and self._transport is not None:
            self._transport.abort()
            return
        if quiet > _QUIET_SECONDS:
            self._put(frames.frame(frames.PING, 0, 0, _ALIVE))
        self._looking = self._loop.call_later(_PING_SECONDS, self._look)

    # Frames.

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a header block was left unfinished")
        if kind == frames.DATA:
            self._data(flags, stream, payload)
        elif kind == frames.HEADERS:
            content = frames.content(flags, payload)
            is_end = bool(flags & frames.END_STREAM)
            if flags & frames.END_HEADERS:
                self._headers(stream, content, is_end=is_end)
            else:
                self._block = headers.Block(stream, content, is_end=is_end)
        elif kind == frames.CONTINUATION:
            self._continuation(flags, stream, payload)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._put(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.RST_STREAM:
            self._reset(stream, int.from_bytes(payload, "big"))
        elif kind == frames.WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            # Calls beyond the last one were not looked at.
            last = int.from_bytes(payload[:4], "big")
            self._leave()
            self._fail(grpc.StatusCode.UNAVAILABLE, "the server takes no more calls", after=last)
            if not self._asked and self._transport is not None:
                self._transport.close()

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received * 2 > _WINDOW:
            self._put(frames.window_update(0, self._received))
            self._received = 0
        asked = self._asked.get(stream)
        if asked is None:
            return
        payload = frames.content(flags & frames.PADDED, payload)
        asked.content += payload
        if len(asked.content) > self._owner.maximum_message + _MESSAGE_HEADER:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            limit = self._owner.maximum_message
            self._give(asked, failure(code, f"received message larger than max ({limit} bytes)"))
        elif flags & frames.END_STREAM:
            self._end(asked)

    def _headers(self, stream: int, block: bytes, *, is_end: bool) -> None:
        fields = self._reader.read(block)
        asked = self._asked.get(stream)
        if asked is None:
            return
        asked.fields = fields
        if is_end:
            self._end(asked)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream != stream:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.add(payload)
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers(stream, bytes(block.content), is_end=block.is_end)

    def _settings(self, payload: bytes) -> None:
        for key, value in frames.settings_of(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._initial_window = value
            elif key == Setting.MAX_CONCURRENT_STREAMS:
                self._maximum_calls = value
            elif key == Setting.MAX_FRAME_SIZE:
                self._maximum_frame = min(value, _MAXIMUM_FRAME)
            elif key == Setting.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, _TABLE_BYTES)
                self._blocks.clear()
        self._put(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if not self.settled.done():
            self.settled.set_result(None)
            self._owner.stands(self)

    def _reset(self, stream: int, code: int) -> None:
        asked = self._asked.get(stream)
        if asked is None:
            return
        if code == ErrorCode.REFUSED_STREAM:
            told = failure(grpc.StatusCode.UNAVAILABLE, "the server refused the stream")
        elif code == ErrorCode.CANCEL:
            told = failure(grpc.StatusCode.CANCELLED, "the server cancelled the call")
        else:
            told = failure(grpc.StatusCode.INTERNAL, f"the stream was reset with code {code}")
        del self._asked[stream]
        self._give(asked, told)

    # Answers.

    def _end(self, asked: _Asked) -> None:
        del self._asked[asked.stream]
        if asked.answer.done():
            return
        try:
            answer = _read(asked)
        except grpc.aio.AioRpcError as error:
            asked.answer.set_exception(error)
        else:
            asked.answer.set_result(answer)

    def _give(self, asked: _Asked, error: grpc.aio.AioRpcError) -> None:
        if not asked.answer.done():
            asked.answer.set_exception(error)

    def _put(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            if not self._is_closed:
                self._transport.write(data)


def _read(asked: _Asked) -> Any:
    """Return the answer of a call that has ended.

    Raises:
        AioRpcError: It ended with an error, or with something that is no answer.
    """
    fields = dict(asked.fields)
    status = fields.get(b"grpc-status")
    if status is None:
        found = fields.get(b":status", _HTTP_OK).decode("ascii", "replace")
        raise failure(grpc.StatusCode.UNKNOWN, f"an answer without status (HTTP {found})")
    code = _CODES.get(int(status) if status.isdigit() else -1, grpc.StatusCode.UNKNOWN)
    if code is not grpc.StatusCode.OK:
        details = unquote(fields.get(b"grpc-message", b"").decode("ascii", "replace"))
        raise failure(code, details, headers.metadata_of(asked.fields))
    content = asked.content
    size = int.from_bytes(content[1:_MESSAGE_HEADER], "big")
    if not content or content[0] or len(content) != _MESSAGE_HEADER + size:
        raise failure(grpc.StatusCode.INTERNAL, "the answer is not one message")
    try:
        return asked.read(bytes(memoryview(content)[_MESSAGE_HEADER:]))
    except Exception as error:
        # Whatever the deserializer says is about bytes of the server's making.
        raise failure(grpc.StatusCode.INTERNAL, "the answer cannot be read") from error


def _timeout(seconds: float) -> bytes:
    """Return a time as its field holds it, rounded down to two digits.

    Few different values make few different header blocks, which the server has seen before.
    """
    milliseconds = max(1, int(seconds * 1000))
    step = 1
    while milliseconds >= 100 * step:
        step *= 10
    return b"%dm" % min(milliseconds // step * step, 99_999_999)
