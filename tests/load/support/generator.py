"""A generator of load in a process of its own.

In a closed loop callers ask again as soon as they are answered. In an open loop questions come at a
constant rate, whatever becomes of those before, and their times count from when they were due, so
that a server which stalls is not spared the questions of that time (coordinated omission).

``python -m tests.load.support.generator JOB`` reads a job from a JSON file and prints what it found
as JSON. Messages are written ahead and connections stay open, over HTTP/2 for gRPC and over
HTTP/1.1 for JSON, so that the generator costs little beside the servers, and the same for each.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from tests.load.support import figures, http2

Protocol = Literal["grpc", "json"]

LAST_ANSWERS_SECONDS = 5.0
DEADLINE_SECONDS = 10
PACE_SECONDS = 0.001
"""Between looks at what is due in an open loop."""
NANOSECONDS = 1_000_000_000
_STATUS = slice(9, 12)
"""Where `HTTP/1.1 200 OK` has its code."""
_END_OF_HEADERS = b"\r\n\r\n"
_LENGTH = b"content-length:"
_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask, of whom, and how many at once."""

    protocol: Protocol
    host: str
    port: int
    path: str
    messages: str
    """File of the messages to send in turn, framed as gRPC does."""
    connections: int
    streams: int
    """Requests in flight on each connection; 1 for HTTP/1.1."""
    warm_up_seconds: float
    seconds: float
    headers: dict[str, str] = field(default_factory=dict)
    """Beside those that the protocol wants."""
    rate: float = 0.0
    """Questions a second of an open loop, over gRPC; 0 for a closed one."""

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Reads a job from its file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Writes the job to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Window:
    """What happened while it counted."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    failed_p99_ms: float = 0.0
    """Of the questions that failed."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class Tally:
    """Takes the answers of all connections and says when to stop asking."""

    def __init__(self, warm_up_seconds: float, seconds: float) -> None:
        self.begin = time.perf_counter_ns() + int(warm_up_seconds * NANOSECONDS)
        self.end = self.begin + int(seconds * NANOSECONDS)
        self._latencies: list[int] = []
        self._failed: list[int] = []

    def take(self, asked: int, now: int, *, is_answer: bool) -> None:
        """Counts an answer by the time at which it arrived, in nanoseconds."""
        if not self.begin <= now < self.end:
            return
        (self._latencies if is_answer else self._failed).append(now - asked)

    def window(self) -> Window:
        """Sums up."""
        milliseconds = [latency / 1e6 for latency in self._latencies] or [0.0]
        failed = [latency / 1e6 for latency in self._failed] or [0.0]
        return Window(
            answered=len(self._latencies),
            failed=len(self._failed),
            seconds=(self.end - self.begin) / NANOSECONDS,
            p50_ms=figures.percentile(milliseconds, 0.5),
            p99_ms=figures.percentile(milliseconds, 0.99),
            p999_ms=figures.percentile(milliseconds, 0.999),
            failed_p99_ms=figures.percentile(failed, 0.99),
        )


class Caller(asyncio.Protocol):
    """What both protocols share: one connection that asks until the time is over."""

    def __init__(self, tally: Tally, messages: Iterator[bytes], in_flight: int) -> None:
        self._tally = tally
        self._messages = messages
        self._wanted = in_flight
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks the first questions."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._transport = cast("asyncio.Transport", transport)
        now = time.perf_counter_ns()
        self._write(self._greeting() + b"".join(self._ask(now) for _ in range(self._wanted)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends, with an error when answers were still expected."""
        if not self.over.done():
            self.over.set_exception(ConnectionError(f"the server hung up: {exc}"))

    def close(self) -> None:
        """Closes the connection."""
        if not self.over.done():
            self.over.set_result(None)
        if self._transport is not None:
            self._transport.abort()

    def _greeting(self) -> bytes:
        return b""

    def _ask(self, now: int) -> bytes:
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def _fail(self, message: str) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionError(message))
        self.close()


class GrpcCaller(Caller):
    """Calls one unary method; an answer without a message is a failure, as gRPC has it."""

    def __init__(
        self,
        tally: Tally,
        messages: Iterator[bytes],
        in_flight: int,
        fields: Sequence[tuple[str, str]],
    ) -> None:
        super().__init__(tally, messages, in_flight)
        self._is_open = in_flight == 0
        self._first = http2.first_headers(fields)
        self._further = http2.further_headers(len(fields))
        self._stream = -1
        self._asked: dict[int, int] = {}
        self._received: dict[int, int] = {}
        # What the server allows to be sent before it has read what came before.
        self._room = http2.DEFAULT_WINDOW
        self._postponed: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Counts answers, and asks anew for each."""
        now = time.perf_counter_ns()
        received, self._rest = http2.split(self._rest + data)
        out: list[bytes] = []
        for kind, flags, stream, payload in received:
            if kind == http2.DATA:
                self._received[stream] = self._received.get(stream, 0) + len(payload)
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                out.append(http2.frame(http2.SETTINGS, http2.ACK, 0))
            elif kind == http2.PING and not flags & http2.ACK:
                out.append(http2.frame(http2.PING, http2.ACK, 0, payload))
            elif kind == http2.WINDOW_UPDATE and stream == 0:
                self._room += int.from_bytes(payload, "big")
                out += self._resumed()
            elif kind == http2.GOAWAY:
                self._fail(f"the server closes the connection: {payload[8:]!r}")
                return
            if kind == http2.RST_STREAM or (
                kind in (http2.DATA, http2.HEADERS) and flags & http2.END_STREAM
            ):
                out.append(self._answered(stream, now))
        self._write(b"".join(out))
        if not self._asked and not self._is_open:
            self.close()

    def put(self, due: Sequence[int]) -> None:
        """Asks questions of an open loop, given when each was due."""
        self._write(b"".join([self._ask(each) for each in due]))

    def end(self) -> None:
        """Ends an open loop; what is in flight is still answered."""
        self._is_open = False
        if not self._asked:
            self.close()

    def _greeting(self) -> bytes:
        return http2.opening()

    def _ask(self, now: int) -> bytes:
        self._stream += 2
        self._asked[self._stream] = now
        body = next(self._messages)
        head = http2.frame(
            http2.HEADERS,
            http2.END_HEADERS,
            self._stream,
            self._first if self._stream == 1 else self._further,
        )
        data = http2.frame(http2.DATA, http2.END_STREAM, self._stream, body)
        if len(body) > self._room:
            self._postponed.append(data)
            return head
        self._room -= len(body)
        return head + data

    def _resumed(self) -> Iterator[bytes]:
        while self._postponed:
            size = len(self._postponed[0]) - http2.FRAME_HEADER
            if size > self._room:
                return
            self._room -= size
            yield self._postponed.pop(0)

    def _answered(self, stream: int, now: int) -> bytes:
        asked = self._asked.pop(stream, None)
        if asked is None:
            return b""
        size = self._received.pop(stream, 0)
        self._tally.take(asked, now, is_answer=size >= http2.MESSAGE_HEADER)
        is_closed = self._wanted > 0
        return self._ask(now) if is_closed and now < self._tally.end else b""


class JsonCaller(Caller):
    """Posts JSON, one request at a time; any status but 200 is a failure."""

    def __init__(
        self, tally: Tally, messages: Iterator[bytes], fields: Sequence[tuple[str, str]], path: str
    ) -> None:
        super().__init__(tally, messages, 1)
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        self._head = "\r\n".join(lines).encode()
        self._began = 0

    def data_received(self, data: bytes) -> None:
        """Counts an answer when it is whole, and asks anew."""
        now = time.perf_counter_ns()
        self._rest += data
        head, end, body = self._rest.partition(_END_OF_HEADERS)
        if not end or not _is_whole(head, body):
            return
        self._rest = b""
        self._tally.take(self._began, now, is_answer=head[_STATUS] == b"200")
        if now < self._tally.end:
            self._write(self._ask(now))
        else:
            self.close()

    def _ask(self, now: int) -> bytes:
        self._began = now
        body = http2.unframed(next(self._messages))
        return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (self._head, len(body), body)


def _is_whole(head: bytes, body: bytes) -> bool:
    """Says whether all of an answer's body is there: its length, or its last chunk."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(_LENGTH):
            return len(body) >= int(line[len(_LENGTH) :])
        if line == _CHUNKED:
            return body.endswith(_LAST_CHUNK)
    raise ConnectionError(f"an answer without its length: {head!r}")


def fields(job: Job) -> list[tuple[str, str]]:
    """Returns the header fields of each request."""
    authority = f"{job.host}:{job.port}"
    if job.protocol == "json":
        return [("host", authority), ("content-type", "application/json"), *job.headers.items()]
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", job.path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        # Callers of a serving path have a deadline.
        ("grpc-timeout", f"{DEADLINE_SECONDS}S"),
        ("user-agent", "setpoint-bench"),
        *job.headers.items(),
    ]


def _callers(job: Job, tally: Tally) -> Callable[[], Caller]:
    content = http2.messages(Path(job.messages).read_bytes())
    if max(map(len, content)) > http2.LARGEST_FRAME:
        raise ValueError(f"messages of more than {http2.LARGEST_FRAME} bytes are not sent")
    turns = itertools.cycle(content)
    named = fields(job)
    if job.protocol == "json":
        return lambda: JsonCaller(tally, turns, named, job.path)
    return lambda: GrpcCaller(tally, turns, 0 if job.rate else job.streams, named)


async def _pace(callers: Sequence[GrpcCaller], tally: Tally, rate: float) -> None:
    """Asks at a constant rate, each connection in turn, until the time is over."""
    begin = time.perf_counter_ns()
    gap = NANOSECONDS / rate
    turns = itertools.cycle(callers)
    put = 0
    while (now := time.perf_counter_ns()) < tally.end:
        wanted = int((now - begin) / gap)
        due: dict[GrpcCaller, list[int]] = {}
        for number in range(put, wanted):
            due.setdefault(next(turns), []).append(begin + int(number * gap))
        for caller, times in due.items():
            caller.put(times)
        put = max(put, wanted)
        await asyncio.sleep(PACE_SECONDS)
    for caller in callers:
        caller.end()


async def perform(job: Job) -> Window:
    """Does a job.

    Raises:
        ConnectionError: The server hung up, or left questions unanswered at the end.
    """
    tally = Tally(job.warm_up_seconds, job.seconds)
    make = _callers(job, tally)
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    try:
        for _ in range(job.connections):
            _, caller = await loop.create_connection(make, job.host, job.port)
            callers.append(caller)
        limit = job.warm_up_seconds + job.seconds + LAST_ANSWERS_SECONDS
        async with asyncio.timeout(limit):
            if job.rate:
                await _pace(
                    [each for each in callers if isinstance(each, GrpcCaller)], tally, job.rate
                )
            await asyncio.gather(*(caller.over for caller in callers))
    except TimeoutError:
        raise ConnectionError(f"no answer for {LAST_ANSWERS_SECONDS:g} s") from None
    finally:
        for caller in callers:
            caller.close()
            # What else went wrong is not of interest beside the first error.
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await caller.over
    return tally.window()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def main() -> None:
    """Does the job of the first argument and prints what was found."""
    job = Job.read(Path(sys.argv[1]))
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        print(json.dumps(asdict(runner.run(perform(job)))))


if __name__ == "__main__":
    main()
