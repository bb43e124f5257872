"""Real sockets, on both loops that serve: another HTTP/2 as the client, TLS, and ends in order."""

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
import uvloop

from setpoint_rpc.http2 import endpoints, frames, headers, testing
from setpoint_rpc.http2.connection import Connection
from setpoint_rpc.http2.listener import Listener
from setpoint_rpc.http2.testing import PATH, WIDE, fields, message

Scenario = Callable[[], Awaitable[None]]
Run = Callable[[Scenario], None]
MEGABYTE = 1024 * 1024


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario in a loop of its own."""

    def run_in_loop(scenario: Scenario) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(WIDE):
                await scenario()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_in_loop


async def _echo(request: Any, _: Any) -> bytes:
    return bytes(request)


@asynccontextmanager
async def serving(
    handler: testing.Handler = _echo, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Listener, int]]:
    """Serve on a free port; yields the listener and the port."""
    endpoint = endpoints.Endpoint(handler, False, False, bytes, bytes)
    listener = Listener(
        lambda path, _: endpoint if path == PATH else None,
        maximum_message=4 * MEGABYTE,
        maximum_age_seconds=3600,
        age_grace_seconds=WIDE,
    )
    port = await listener.bind("127.0.0.1", 0)
    await listener.start(context)
    try:
        yield listener, port
    finally:
        await listener.stop(0)
    assert not listener.running
    assert not listener._connections


class Client:
    """The h2 package over a stream; it fails for whatever it takes for wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.http2.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.last_stream: int | None = None
        self._rest: dict[int, bytes] = {}
        self.flush()

    @classmethod
    async def connect(cls, port: int, **tls: Any) -> "Client":
        """Connect to this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, **tls))

    def flush(self) -> None:
        """Send what is to be sent."""
        self.writer.write(self.http2.data_to_send())

    def ask(self, content: bytes) -> int:
        """Begin a call; return its stream."""
        stream: int = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, fields())
        self.bodies[stream] = b""
        self._rest[stream] = message(content)
        self._send(stream)
        return stream

    def _send(self, stream: int) -> None:
        rest = self._rest[stream]
        while rest:
            room = self.http2.local_flow_control_window(stream)
            part = rest[: min(room, self.http2.max_outbound_frame_size)]
            if not part:
                break
            rest = rest[len(part) :]
            self.http2.send_data(stream, part, end_stream=not rest)
        self._rest[stream] = rest
        self.flush()

    async def read(self) -> bool:
        """Take in what comes next; say whether anything did."""
        data = await self.reader.read(65_536)
        for event in self.http2.receive_data(data) if data else ():
            self._take(event)
        self.flush()
        return bool(data)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            self.bodies[event.stream_id] += event.data or b""
            size = event.flow_controlled_length or 0
            self.http2.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            assert event.stream_id is not None
            self.trailers[event.stream_id] = dict(event.headers or ())
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.last_stream = event.last_stream_id
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for stream, rest in tuple(self._rest.items()):
                if rest:
                    self._send(stream)

    async def answer(self, stream: int) -> bytes:
        """Wait for the answer of a call."""
        while stream not in self.trailers:
            assert await self.read(), "the connection ended before the answer"
        assert self.trailers[stream][b"grpc-status"] == b"0"
        return self.bodies[stream][5:]

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()


def test_speak_with_another_http2(run: Run) -> None:
    """A client that checks every rule finds none broken, with small calls and large ones."""

    async def scenario() -> None:
        async with serving() as (_, port):
            client = await Client.connect(port)
            asked = {client.ask(bytes(size)): size for size in (0, 1, 70_000, 3 * MEGABYTE, 5)}
            for stream, size in asked.items():
                assert await client.answer(stream) == bytes(size)
            client.http2.ping(b"12345678")
            client.flush()
            await client.close()

    run(scenario)


OPENING = (
    frames.PREFACE
    + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 2**31 - 1})
    + frames.window_update(0, 2**30)
)


def asked(stream: int, size: int) -> bytes:
    """Return a call with a message of zeros."""
    content = message(bytes(size))
    parts = [content[at : at + 16_384] for at in range(0, len(content), 16_384)]
    return frames.frame(
        frames.HEADERS, frames.END_HEADERS, stream, headers.block(fields())
    ) + b"".join(
        frames.frame(frames.DATA, frames.END_STREAM if part is parts[-1] else 0, stream, part)
        for part in parts
    )


def test_lose_no_call_when_stopping_under_load(run: Run) -> None:
    """Of calls that never cease, those up to the last that GOAWAY names are all answered."""

    async def scenario() -> None:
        served = 0

        async def count(request: Any, _: Any) -> bytes:
            nonlocal served
            served += 1
            await asyncio.sleep(0)
            return bytes(request)

        async with serving(count) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(OPENING)
            record, stream = testing.Record(), 1
            stopping: asyncio.Task[None] | None = None
            while not record.last_streams():
                for _ in range(20):
                    writer.write(asked(stream, 2000))
                    stream += 2
                if stream > 1000 and stopping is None:
                    stopping = asyncio.create_task(listener.stop(WIDE))
                record.add(await reader.read(65_536))
            # What crosses the word of the end is still sent, and is none of the server's concern.
            writer.write(asked(stream, 2000))
            while data := await reader.read(65_536):
                record.add(data)
            writer.close()
            assert stopping is not None
            await stopping
            last = record.last_streams()[0]
            assert served == (last + 1) // 2 >= 20
            for each in range(1, last + 1, 2):
                assert record.answers[each].messages == [bytes(2000)]
                assert record.answers[each].status == 0

    run(scenario)


def test_lose_no_answer_of_a_slow_reader(run: Run) -> None:
    """Answers arrive in whole though the client still talks while the server ends the connection."""

    async def scenario() -> None:
        async with serving() as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            record = testing.Record()
            writer.write(OPENING)
            for stream in range(1, 41, 2):
                writer.write(asked(stream, 200_000))
            while not record.answers:
                record.add(await reader.read(1000))
            while not all(each._last_stream == 39 for each in listener._connections):
                await asyncio.sleep(0)
            stopping = asyncio.create_task(listener.stop(WIDE))
            while data := await reader.read(50_000):
                record.add(data)
                if record.last_streams():
                    writer.write(frames.frame(frames.PING, 0, 0, bytes(8)))
            writer.close()
            await stopping
            assert [x.messages for x in record.answers.values()] == [[bytes(200_000)]] * 20

    run(scenario)


@pytest.mark.parametrize("said", [b"", frames.PREFACE, frames.PREFACE + frames.settings({})])
def test_survive_clients_that_vanish(run: Run, said: bytes) -> None:
    """A client that is gone after a few bytes leaves nothing."""

    async def scenario() -> None:
        async with serving() as (listener, port):
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                writer.transport.abort()
            client = await Client.connect(port)
            assert await client.answer(client.ask(b"x")) == b"x"
            while len(listener._connections) > 1:
                await asyncio.sleep(0)
            await client.close()

    run(scenario)


def test_serve_synchronous_client_with_compression(run: Run) -> None:
    """A client of gRPC core in another thread, which packs its messages and sends long metadata."""
    seen: list[dict[str, Any]] = []

    async def tell(request: Any, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        return bytes(request)

    def call(port: int) -> list[bytes]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(PATH)
            metadata = (("long", "v" * 7000), ("raw-bin", bytes(range(256))))
            return [
                method(
                    bytes(size),
                    timeout=WIDE,
                    metadata=metadata,
                    compression=grpc.Compression.Gzip,
                )
                for size in (0, 10, 2 * MEGABYTE)
            ]

    async def scenario() -> None:
        async with serving(tell) as (_, port):
            answers = await asyncio.to_thread(call, port)
            assert [len(each) for each in answers] == [0, 10, 2 * MEGABYTE]

    run(scenario)
    assert {len(each["long"]) for each in seen} == {7000}
    assert seen[0]["raw-bin"] == bytes(range(256))


def test_send_later_calls_elsewhere_without_loss(run: Run) -> None:
    """Clients of gRPC core that call all the time notice nothing of connections that are renewed."""
    failures: list[str] = []
    counts: list[int] = []

    def call(port: int, stopped: threading.Event) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(PATH)
            count = 0
            while not stopped.is_set():
                try:
                    method(b"x" * 100, timeout=WIDE)
                    count += 1
                except grpc.RpcError as error:
                    failures.append(str(error))
            counts.append(count)

    async def scenario() -> None:
        stopped = threading.Event()
        async with serving() as (listener, port):
            calling = [asyncio.create_task(asyncio.to_thread(call, port, stopped)) for _ in "ab"]
            renewed: set[Connection] = set()
            try:
                while len(renewed) < 20:
                    for connection in listener._connections - renewed:
                        if connection._last_stream > 1:
                            renewed.add(connection)
                            connection._retire(WIDE)
                    await asyncio.sleep(0.001)
            finally:
                stopped.set()
            await asyncio.gather(*calling)

    run(scenario)
    assert not failures
    assert min(counts) > 10


# TLS.

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with the openssl command"
)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """Makes a server's context of mutual TLS, and the file that a client shows and trusts."""
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=both"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(both), "-out", str(both.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(both.read_text() + both.with_suffix(".crt").read_text())
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(both))
    server.load_cert_chain(both)
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols(["h2"])
    return server, both


def _client_context(both: Path, *, alpn: list[str], shows: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(both))
    context.check_hostname = False
    if shows:
        context.load_cert_chain(both)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


@needs_openssl
@pytest.mark.parametrize("name", ["localhost", ""], ids=["with SNI", "without SNI"])
def test_serve_over_tls(run: Run, contexts: tuple[ssl.SSLContext, Path], name: str) -> None:
    """Calls go through TLS, whether or not the client says whom it means; the handler sees who."""
    seen: list[Any] = []

    async def tell(request: Any, context: Any) -> bytes:
        seen.append((context.peer_identities(), context.auth_context()["x509_common_name"]))
        return bytes(request)

    async def scenario() -> None:
        async with serving(tell, contexts[0]) as (_, port):
            client = await Client.connect(
                port,
                ssl=_client_context(contexts[1], alpn=["h2"]),
                server_hostname=name,
            )
            assert await client.answer(client.ask(bytes(MEGABYTE))) == bytes(MEGABYTE)
            await client.close()

    run(scenario)
    assert seen == [([b"localhost", b"127.0.0.1"], [b"both"])]


@needs_openssl
@pytest.mark.parametrize("alpn", [[], ["http/1.1"]], ids=["no ALPN", "another protocol"])
def test_refuse_tls_for_another_protocol(
    run: Run, contexts: tuple[ssl.SSLContext, Path], alpn: list[str]
) -> None:
    """Over TLS a client agrees to HTTP/2 before it speaks it (RFC 9113, section 3.2)."""

    async def scenario() -> None:
        async with serving(_echo, contexts[0]) as (_, port):
            context = _client_context(contexts[1], alpn=alpn)
            with pytest.raises((AssertionError, OSError)):
                client = await Client.connect(port, ssl=context, server_hostname="localhost")
                await client.answer(client.ask(b"x"))

    run(scenario)


@needs_openssl
def test_refuse_client_without_certificate(run: Run, contexts: tuple[ssl.SSLContext, Path]) -> None:
    """Whoever shows no certificate is not served."""

    async def scenario() -> None:
        async with serving(_echo, contexts[0]) as (_, port):
            context = _client_context(contexts[1], alpn=["h2"], shows=False)
            with pytest.raises((AssertionError, OSError)):
                client = await Client.connect(port, ssl=context, server_hostname="localhost")
                await client.answer(client.ask(b"x"))

    run(scenario)


@needs_openssl
def test_end_tls_in_order(run: Run, contexts: tuple[ssl.SSLContext, Path]) -> None:
    """The last answers of a connection over TLS arrive before its end."""

    async def scenario() -> None:
        async with serving(_echo, contexts[0]) as (listener, port):
            client = await Client.connect(
                port, ssl=_client_context(contexts[1], alpn=["h2"]), server_hostname="localhost"
            )
            stream = client.ask(b"last")
            assert await client.answer(stream) == b"last"
            stopping = asyncio.create_task(listener.stop(WIDE))
            while await client.read():
                pass
            assert client.last_stream == stream
            await client.close()
            await stopping

    run(scenario)
