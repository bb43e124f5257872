"""One connection of a client: frames in, frames out, and the calls on it."""

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, cast

import setpoint_telemetry
from setpoint_rpc import failures
from setpoint_rpc.http2 import calling, endpoints, frames, headers, messages, peers, refusals
from setpoint_rpc.http2.frames import ConnectionFailure, ErrorCode, Setting, StreamFailure

if TYPE_CHECKING:
    from setpoint_rpc.http2.listener import Listener

MAXIMUM_CALLS = 1000
"""Calls on one connection at once; what comes on top waits in its client."""

_LOGGER = setpoint_telemetry.get_logger(__name__)
_MAXIMUM_FRAME = 256 * 1024
_WINDOW = 4 * 1024 * 1024
# Handlers of calls that their callers gave up may still be ending; beyond so many of them new calls
# are refused (CVE-2023-44487 opened and reset streams without end).
_MAXIMUM_CANCELLED = 2 * MAXIMUM_CALLS
_HIGH_WATER = 1024 * 1024
# Answers wait while the peer does not read; only small frames that it asked for come on top.
_LARGEST_BACKLOG = 16 * _HIGH_WATER
# Answers that wait for the peer to open its windows; beyond so many bytes new calls are refused.
_LARGEST_WAITING = 64 * _HIGH_WATER
# Frames that ask for work and carry none, in the time between two looks.
_MAXIMUM_IDLE_FRAMES = 10_000
# New windows concern all calls, so settings count for many such frames.
_SETTINGS_COST = 100
_MAXIMUM_SETTINGS = 32
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 900.0
_QUIET_SECONDS = 60.0
_PING_SECONDS = 20.0
_LINGER_SECONDS = 5.0
_LAST_CALLS_SECONDS = 5.0
_KEEPALIVE = b"alive???"
_RETIRING = b"leaving!"

_SETTINGS = frames.settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: MAXIMUM_CALLS,
        Setting.INITIAL_WINDOW_SIZE: messages.RECEIVE_WINDOW,
        Setting.MAX_FRAME_SIZE: _MAXIMUM_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: headers.MAXIMUM_METADATA_BYTES,
    }
) + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)


class Connection(asyncio.BufferedProtocol):
    """Speaks HTTP/2 with one client (RFC 9113)."""

    def __init__(self, listener: "Listener") -> None:
        """Prepare for a client that is about to connect."""
        self.loop = listener.loop
        self.listener = listener
        self.maximum_message = listener.maximum_message
        self.peer = ""
        self.calls: dict[int, calling.Call] = {}
        self.blocked: OrderedDict[int, calling.Call] = OrderedDict()
        """Calls that wait for the connection, the longest waiting first; not for their own window."""
        self.send_window = frames.DEFAULT_WINDOW
        self.initial_window = frames.DEFAULT_WINDOW
        self.maximum_frame = frames.SMALLEST_MAXIMUM_FRAME
        self.is_paused = False
        self._transport: asyncio.Transport | None = None
        self._reader = headers.Reader(headers.head_of)
        self._splitter = frames.Splitter(_MAXIMUM_FRAME)
        self._preface = b""
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._has_preface = False
        self._has_settings = False
        self._is_closing = False
        self._block: headers.Block | None = None
        self._refused = refusals.Refusals(self)
        self.waiting = 0
        """Bytes of the answers that the peer does not take yet."""
        self._last_stream = 0
        self._last_taken = frames.LARGEST_STREAM
        self._received = 0
        self._age: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._begun = self._heard = self._busy = self._closed = self.loop.time()
        self._is_asked = False
        self._idle_frames = 0

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._transport = opened = cast("asyncio.Transport", transport)
        if not self.listener.welcome(self):
            opened.abort()
            return
        self.peer = peers.name(opened.get_extra_info("peername"))
        opened.set_write_buffer_limits(high=_HIGH_WATER)
        protocol = opened.get_extra_info("ssl_object")
        if protocol is not None and protocol.selected_alpn_protocol() != "h2":
            opened.abort()
            return
        opened.write(_SETTINGS)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the calls, which nobody waits for any more."""
        self._is_closing = True
        self._out.clear()
        self._refused.clear()
        for timer in (self._age, self._leaving):
            if timer is not None:
                timer.cancel()
        for call in tuple(self.calls.values()):
            call.abandon()
        self.listener.farewell(self)

    def pause_writing(self) -> None:
        """Send no more answers until the peer has read what was sent."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """Send what has waited."""
        self.is_paused = False
        self._pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are put, before they are taken in."""
        return self.listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in the bytes that were put there."""
        self.data_received(bytes(self.listener.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take in frames, which may end anywhere."""
        if self._is_closing:
            return
        self._heard = self.loop.time()
        try:
            self._take(data)
        except ConnectionFailure as failure:
            self.close(failure.code, failure.message)
        except Exception:
            # Whatever it was, the state of this connection is not to be trusted any more.
            _LOGGER.exception("connection failed", peer=self.peer)
            self.close(ErrorCode.INTERNAL_ERROR, "internal error")
        if self._out:
            self._flush()

    # What calls ask.

    def put(self, data: bytes | memoryview) -> None:
        """Send frames, together with all others of this turn of the loop."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _HIGH_WATER:
            # So that whoever has more to send learns whether the peer reads.
            self._flush()

    def put_headers(self, stream: int, block: bytes, *, is_end: bool) -> None:
        """Send a header block, in as many frames as it takes."""
        flags = frames.END_STREAM if is_end else 0
        limit = self.maximum_frame
        if len(block) <= limit:
            self.put(frames.frame(frames.HEADERS, flags | frames.END_HEADERS, stream, block))
            return
        self.put(frames.frame(frames.HEADERS, flags, stream, block[:limit]))
        for begin in range(limit, len(block), limit):
            last = frames.END_HEADERS if begin + limit >= len(block) else 0
            part = block[begin : begin + limit]
            self.put(frames.frame(frames.CONTINUATION, last, stream, part))

    def forget(self, call: "calling.Call") -> None:
        """A call is over."""
        self.calls.pop(call.stream, None)
        self.blocked.pop(call.stream, None)
        if not self.calls:
            self._busy = self._heard
            if self._last_taken != frames.LARGEST_STREAM:
                self.loop.call_soon(self._close_when_done)

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return what the peer's certificate says, by gRPC's names; empty without TLS."""
        return peers.auth_context(self._transport)

    # The life of the connection.

    def age(self, seconds: float, grace_seconds: float) -> None:
        """Retire after some time."""
        self._age = self.loop.call_later(seconds, self._retire, grace_seconds)

    def _retire(self, grace_seconds: float) -> None:
        """Ask the client to go on with another connection; its calls on this one end here."""
        if self._last_taken != frames.LARGEST_STREAM or self._is_closing:
            return
        # What the client sends before it hears of it is still served: it answers the ping after.
        going = frames.go_away(frames.LARGEST_STREAM, ErrorCode.NO_ERROR, "max_age")
        self.put(going + frames.frame(frames.PING, 0, 0, _RETIRING))
        self._leaving = self.loop.call_later(_LAST_CALLS_SECONDS, self.refuse_calls)
        self._age = self.loop.call_later(grace_seconds, self._end_age)

    def refuse_calls(self) -> None:
        """Serve the calls that are here and no others, and close when they are over."""
        if self._last_taken == frames.LARGEST_STREAM and not self._is_closing:
            self._last_taken = self._last_stream
            self.put(frames.go_away(self._last_stream, ErrorCode.NO_ERROR))
            self._close_when_done()

    def end_calls(self) -> None:
        """End the calls that are here, whose callers may ask another server."""
        for call in tuple(self.calls.values()):
            call.end(failures.stopping())

    def _end_age(self) -> None:
        self.end_calls()
        self.close(ErrorCode.NO_ERROR, "max_age")

    def _close_when_done(self) -> None:
        if not self.calls and not self._is_closing:
            self.close(ErrorCode.NO_ERROR)

    def close(self, code: ErrorCode, message: str = "") -> None:
        """End the connection; what was sent before still arrives."""
        transport = self._transport
        if self._is_closing or transport is None:
            return
        self._refused.tell_all()
        last = min(self._last_stream, self._last_taken)
        self._out.append(frames.go_away(last, code, message))
        self._flush()
        self._is_closing = True
        self._closed = self.loop.time()
        _end_writing(transport)
        for call in tuple(self.calls.values()):
            call.abandon()

    def abort(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    def look(self, now: float) -> None:
        """Find out whether the peer is still there and still wants something."""
        self._idle_frames = 0
        if self._is_closing:
            # A peer that does not read what was left for it has had its time.
            if now - self._closed > _LINGER_SECONDS:
                self.abort()
        elif not self._has_settings:
            if now - self._begun > _HANDSHAKE_SECONDS:
                self.abort()
        elif not self.calls and now - self._busy > _IDLE_SECONDS:
            self.refuse_calls()
        elif now - self._heard > _QUIET_SECONDS + _PING_SECONDS:
            self.abort()
        elif now - self._heard > _QUIET_SECONDS and not self._is_asked:
            self._is_asked = True
            self.put(frames.frame(frames.PING, 0, 0, _KEEPALIVE))

    # Frames.

    def _take(self, data: bytes) -> None:
        if not self._has_preface:
            data = self._begin(data)
        for kind, flags, stream, payload in self._splitter.split(data):
            if self._is_closing:
                return
            try:
                self._frame(kind, flags, stream, payload)
            except StreamFailure as failure:
                self._reset(stream, failure.code)

    def _begin(self, data: bytes) -> bytes:
        """Take the preface off what has come so far; nothing else is looked at before it is whole."""
        data = self._preface + data
        preface = frames.PREFACE
        if not data.startswith(preface[: len(data)]):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "no HTTP/2")
        self._has_preface = len(data) >= len(preface)
        self._preface = b"" if self._has_preface else data
        return data[len(preface) :]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a header block was left unfinished")
        if kind == frames.DATA:
            self._data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, stream, payload)
        elif not self._has_settings and kind != frames.SETTINGS:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        elif (take := self._TAKERS.get(kind)) is not None:
            take(self, flags, stream, payload)
        else:
            self._count_idle(1)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        call = self.calls.get(stream)
        size = len(payload)
        self._received += size
        if self._received * 2 > _WINDOW:
            self.put(frames.window_update(0, self._received))
            self._received = 0
        if call is None:
            if not self._refused.tell(stream, is_end=bool(flags & frames.END_STREAM)):
                self._check_seen(stream)
            return
        if flags & frames.PADDED:
            payload = frames.content(flags & frames.PADDED, payload)
        is_end = bool(flags & frames.END_STREAM)
        if not payload and not is_end:
            self._count_idle(1)
        call.receive(payload, size, is_end=is_end)

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._has_settings:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if flags & (frames.PADDED | frames.PRIORITIZED):
            payload = frames.content(flags, payload)
        is_end = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._whole_block(stream, payload, is_end=is_end)
        else:
            self._block = headers.Block(stream, payload, is_end=is_end)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream != stream:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.add(payload)
        if flags & frames.END_HEADERS:
            self._block = None
            self._whole_block(stream, bytes(block.content), is_end=block.is_end)

    def _whole_block(self, stream: int, block: bytes, *, is_end: bool) -> None:
        if not stream & 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "clients' streams have odd numbers")
        if stream <= self._last_stream:
            self._trailers(stream, block, is_end=is_end)
            return
        self._last_stream = stream
        if stream > self._last_taken:
            # To be asked of another connection; the table is shared all the same.
            self._reader.fields(block)
            return
        head = self._reader.read(block)
        if (
            len(self.calls) >= MAXIMUM_CALLS
            or self.listener.cancelled > _MAXIMUM_CANCELLED
            or self.waiting > _LARGEST_WAITING
        ):
            raise StreamFailure(ErrorCode.REFUSED_STREAM)
        self._open(stream, head, is_end=is_end)

    def _trailers(self, stream: int, block: bytes, *, is_end: bool) -> None:
        pairs = self._reader.fields(block)
        has_pseudo = any(name.startswith(b":") for name, _ in pairs)
        call = self.calls.get(stream)
        if call is not None:
            if has_pseudo or not is_end:
                raise StreamFailure(ErrorCode.PROTOCOL_ERROR)
            call.half_close()
        elif has_pseudo:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "streams are used once, and in order")
        else:
            self._refused.tell(stream, is_end=is_end)

    def _open(self, stream: int, head: headers.Head, *, is_end: bool) -> None:
        try:
            found = self.listener.find(head)
        except Exception as error:
            # The search asks the service whether it takes calls.
            _LOGGER.exception("call failed", rpc=head.method)
            raise StreamFailure(ErrorCode.INTERNAL_ERROR) from error
        if isinstance(found, endpoints.Endpoint):
            call = self.calls[stream] = calling.Call(self, stream, head, found)
            if is_end:
                call.half_close()
            return
        found.observe()
        if is_end:
            self.put(found.answer(stream))
        else:
            self._refused.add(stream, found)

    def _rst_stream(self, flags: int, stream: int, payload: bytes) -> None:
        frames.check_length(payload, 4)
        call = self.calls.get(stream)
        if call is not None:
            self._count_idle(1)
            call.abandon()
        elif not self._refused.forget(stream):
            self._check_seen(stream)

    def _priority(self, flags: int, stream: int, payload: bytes) -> None:
        frames.check_length(payload, 5)
        if not stream:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        self._count_idle(1)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            frames.check_length(payload, 0)
            return
        self._count_idle(_SETTINGS_COST)
        values = frames.settings_of(payload)
        if len(values) > _MAXIMUM_SETTINGS:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        for key, value in values:
            frames.check_setting(key, value)
        last = dict(values)
        # Long frames would keep the others waiting.
        maximum = last.get(Setting.MAX_FRAME_SIZE, self.maximum_frame)
        self.maximum_frame = min(maximum, _MAXIMUM_FRAME)
        self._set_window(last.get(Setting.INITIAL_WINDOW_SIZE, self.initial_window))
        self._has_settings = True
        self.put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _set_window(self, value: int) -> None:
        more = value - self.initial_window
        if not more:
            return
        self.initial_window = value
        for call in self.calls.values():
            call.send_window += more
            if call.send_window > frames.LARGEST_WINDOW:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
        for call in tuple(self.calls.values()):
            call.pump()

    def _push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        frames.check_length(payload, 8)
        if stream:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        self._count_idle(1)
        if not flags & frames.ACK:
            self.put(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _RETIRING:
            self.refuse_calls()
        elif payload == _KEEPALIVE:
            self._is_asked = False

    def _go_away(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) < 8:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a wrong form")
        self.refuse_calls()

    def _window_update(self, flags: int, stream: int, payload: bytes) -> None:
        frames.check_length(payload, 4)
        more = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if stream == 0:
            self.send_window += more
            if not more or self.send_window > frames.LARGEST_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFailure(code, "WINDOW_UPDATE of a wrong size")
            self._pump()
            return
        call = self.calls.get(stream)
        if call is None:
            self._check_seen(stream)
            return
        call.send_window += more
        if not more or call.send_window > frames.LARGEST_WINDOW:
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR)
        call.pump()

    def _check_seen(self, stream: int) -> None:
        """Let pass what concerns a call that is over.

        Raises:
            ConnectionFailure: There has been no such call.
        """
        if stream == 0 or not stream & 1 or stream > self._last_stream:
            raise ConnectionFailure(
                ErrorCode.PROTOCOL_ERROR, "a frame of a stream that is not open"
            )

    def _count_idle(self, count: int) -> None:
        self._idle_frames += count
        if self._idle_frames > _MAXIMUM_IDLE_FRAMES:
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work")

    def _reset(self, stream: int, code: ErrorCode) -> None:
        self.put(frames.reset(stream, code))
        call = self.calls.get(stream)
        if call is not None:
            call.abandon()
            # Whoever provokes resets is as bad as who resets (CVE-2025-8671).
            self._count_idle(1)

    def _pump(self) -> None:
        """Let the calls that wait send, each in its turn, for as long as the connection takes it."""
        for _ in range(len(self.blocked)):
            if self.send_window <= 0 or self.is_paused or not self.blocked:
                return
            _, call = self.blocked.popitem(last=False)
            call.pump()

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        if self._is_closing:
            return
        self._transport.write(data)
        if self.is_paused and self._transport.get_write_buffer_size() > _LARGEST_BACKLOG:
            _LOGGER.warning("peer asks without reading answers", peer=self.peer)
            self.abort()

    _TAKERS: ClassVar = {
        frames.PRIORITY: _priority,
        frames.RST_STREAM: _rst_stream,
        frames.SETTINGS: _settings,
        frames.PUSH_PROMISE: _push_promise,
        frames.PING: _ping,
        frames.GOAWAY: _go_away,
        frames.WINDOW_UPDATE: _window_update,
        frames.CONTINUATION: _continuation,
    }


def _end_writing(transport: asyncio.Transport) -> None:
    """Let the peer hang up: who closes with something unread takes back what has not arrived yet."""
    if transport.is_closing():
        return
    try:
        if transport.can_write_eof():
            transport.write_eof()
            return
    except OSError:
        # It has hung up already.
        pass
    transport.close()
