"""For tests of this package: a client that says what it likes, byte by byte, without a network."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hpack

from setpoint_rpc.http2 import endpoints, frames, headers
from setpoint_rpc.http2.connection import Connection
from setpoint_rpc.http2.frames import Setting
from setpoint_rpc.http2.listener import Listener

PATH = "/setpoint.test.v1.TestService/Call"
WIDE = 30.0
"""Seconds for what takes no time, unless it never comes."""

Handler = Callable[[Any, Any], Any]


class Frame(NamedTuple):
    """One frame of an answer."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    """Of both blocks."""
    data: bytes = b""
    blocks: int = 0
    is_ended: bool = False
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        """The messages of the answer."""
        found, rest = [], self.data
        while rest:
            end = 5 + int.from_bytes(rest[1:5], "big")
            found.append(rest[5:end])
            rest = rest[end:]
        return found

    @property
    def status(self) -> int | None:
        """The status of the call, None when none came."""
        text = self.headers.get(b"grpc-status")
        return None if text is None else int(text)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.written = bytearray()
        self.is_closed = False
        self.is_aborted = False
        self.has_written_eof = False
        self.is_stalled = False
        """The peer does not read: what is written waits."""
        self.waiting = 0
        self._high = 0
        self._protocol: Connection | None = None

    def set_protocol(self, protocol: Any) -> None:
        """Say whom to tell."""
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the address, and that there is no TLS."""
        return ("127.0.0.1", 50_000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the writer is told to wait."""
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        """Return how much waits."""
        return self.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes."""
        if self.is_closed:
            raise AssertionError("written after the end")
        self.written += data
        if self.is_stalled:
            was, self.waiting = self.waiting, self.waiting + len(data)
            if was <= self._high < self.waiting and self._protocol is not None:
                self._protocol.pause_writing()

    def read_on(self) -> None:
        """The peer reads again."""
        was, self.waiting, self.is_stalled = self.waiting, 0, False
        if was > self._high and self._protocol is not None:
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        """Say that one direction can end alone."""
        return True

    def write_eof(self) -> None:
        """End what is written."""
        self.is_closed = self.has_written_eof = True

    def is_closing(self) -> bool:
        """Say whether the end has come."""
        return self.is_closed

    def close(self) -> None:
        """End."""
        self.is_closed = True

    def abort(self) -> None:
        """End at once."""
        self.is_aborted = True
        self.close()


def listener(
    serve: Handler,
    *,
    takes_stream: bool = False,
    yields: bool = False,
    maximum_message: int = 4 * 1024 * 1024,
) -> Listener:
    """Return a listener without a port, whose one method takes and gives bytes."""
    endpoint = endpoints.Endpoint(serve, takes_stream, yields, bytes, bytes)
    return Listener(
        lambda path, _: endpoint if path == PATH else None,
        maximum_message=maximum_message,
        maximum_age_seconds=3600,
        age_grace_seconds=WIDE,
    )


def message(content: bytes, flag: int = 0) -> bytes:
    """Return a message as DATA holds it."""
    return bytes((flag,)) + len(content).to_bytes(4, "big") + content


def fields(
    *more: tuple[bytes, bytes], path: bytes = PATH.encode(), **pseudo: bytes
) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request."""
    first = {"method": b"POST", "scheme": b"http", "path": path, "authority": b"test", **pseudo}
    return [
        *((b":" + name.encode(), value) for name, value in first.items() if value),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]


class Record:
    """What a server has sent, taken apart."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.frames: list[Frame] = []
        self.answers: dict[int, Answer] = {}
        self._rest = b""
        self._block = b""
        self._decoder = hpack.Decoder()

    def add(self, data: bytes) -> None:
        """Take in bytes, which may end anywhere.

        Raises:
            AssertionError: Something came on a stream after its end.
        """
        data = self._rest + data
        place = 0
        while place + frames.HEADER_BYTES <= len(data):
            begin = place + frames.HEADER_BYTES
            header = int.from_bytes(data[place:begin], "big")
            end = begin + (header >> 48)
            if end > len(data):
                break
            place = end
            kind, flags, stream = header >> 40 & 0xFF, header >> 32 & 0xFF, header & 0x7FFFFFFF
            self.frames.append(Frame(kind, flags, stream, data[begin:end]))
            self._take(self.frames[-1])
        self._rest = data[place:]

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """Return the frames of a kind that have come so far."""
        return [x for x in self.frames if x.kind == kind and stream in (None, x.stream)]

    def last_streams(self) -> list[int]:
        """Return which stream each GOAWAY has named as the last one."""
        return [int.from_bytes(each.payload[:4], "big") for each in self.of(frames.GOAWAY)]

    def _take(self, taken: Frame) -> None:
        if taken.kind not in (frames.DATA, frames.HEADERS, frames.CONTINUATION, frames.RST_STREAM):
            return
        found = self.answers.setdefault(taken.stream, Answer())
        if taken.kind == frames.RST_STREAM:
            if not found.is_ended:
                found.reset = int.from_bytes(taken.payload, "big")
            return
        if found.is_ended and taken.kind != frames.CONTINUATION:
            raise AssertionError("a frame after the end of its stream")
        if taken.kind == frames.DATA:
            found.data += taken.payload
        else:
            self._block += taken.payload
            if taken.flags & frames.END_HEADERS:
                found.headers |= dict(self._decoder.decode(self._block, raw=True))
                found.blocks += 1
                self._block = b""
        if taken.kind != frames.CONTINUATION:
            found.is_ended = bool(taken.flags & frames.END_STREAM)


class Wire:
    """A connection of a client that writes frames itself."""

    def __init__(self, listener: Listener, *, is_greeting: bool = True) -> None:
        """Connect; greet as HTTP/2 has it unless told otherwise."""
        self.listener = listener
        self.transport = Transport()
        self.connection = Connection(listener)
        self.transport.set_protocol(self.connection)
        self._record = Record()
        self._taken = 0
        self.connection.connection_made(self.transport)
        if is_greeting:
            self.feed(frames.PREFACE + frames.settings({}))

    def feed(self, data: bytes) -> None:
        """Let bytes arrive."""
        self.connection.data_received(data)

    def frame(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        """Let a frame arrive."""
        self.feed(frames.frame(kind, flags, stream, payload))

    def set(self, values: dict[Setting, int]) -> None:
        """Let settings arrive."""
        self.feed(frames.settings(values))

    def ask(
        self,
        stream: int,
        *messages: bytes,
        more: Iterable[tuple[bytes, bytes]] = (),
        is_end: bool = True,
    ) -> None:
        """Let a request arrive, with everything in one frame each."""
        block = headers.block(fields(*more))
        self.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        if messages or is_end:
            content = b"".join(message(each) for each in messages)
            self.frame(frames.DATA, frames.END_STREAM if is_end else 0, stream, content)

    def lose(self) -> None:
        """Let the connection be gone."""
        self.transport.is_closed = True
        self.connection.connection_lost(None)

    @property
    def record(self) -> Record:
        """What the server has sent so far."""
        written = self.transport.written
        if self._taken < len(written):
            self._record.add(bytes(written[self._taken :]))
            self._taken = len(written)
        return self._record

    @property
    def answers(self) -> dict[int, Answer]:
        """What has come so far, by stream."""
        return self.record.answers

    @property
    def is_closed(self) -> bool:
        """Whether the server has ended the connection."""
        return self.transport.is_closed

    @property
    def failure(self) -> int | None:
        """Why the server has ended the connection, None when it has not."""
        if not self.is_closed:
            return None
        last = self.of(frames.GOAWAY)[-1:]
        return int.from_bytes(last[0].payload[4:8], "big") if last else -1

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """Return the frames of a kind that have come so far."""
        return self.record.of(kind, stream)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Let the server work until something has happened."""
        async with asyncio.timeout(WIDE):
            while not happened():
                await asyncio.sleep(0)

    async def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream."""

        def is_over() -> bool:
            found = self.answers.get(stream)
            return self.is_closed or (
                found is not None and (found.is_ended or found.reset is not None)
            )

        await self.until(is_over)
        return self.answers.get(stream, Answer())

    async def nothing_left(self) -> None:
        """Wait until nothing of any call is left on the server."""
        server = self.listener
        await self.until(lambda: not (server.running or server.cancelled or self.connection.calls))
