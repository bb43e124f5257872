import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.load.support import generator, http2

METHOD = "/test.Echo/Say"
Answer = Callable[[bytes, Any], Any]


@asynccontextmanager
async def grpc_server(answer: Answer) -> AsyncIterator[int]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Say": grpc.unary_unary_rpc_method_handler(answer)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def job(protocol: generator.Protocol, port: int, folder: Path, *contents: bytes) -> generator.Job:
    messages = folder / "messages"
    messages.write_bytes(b"".join(map(http2.message, contents)))
    return generator.Job(
        protocol=protocol,
        host="127.0.0.1",
        port=port,
        path=METHOD,
        messages=str(messages),
        connections=2,
        streams=3 if protocol == "grpc" else 1,
        warm_up_seconds=0.05,
        seconds=0.25,
    )


async def test_perform_asks_a_grpc_server(tmp_path: Path) -> None:
    """A real gRPC server understands the frames, gets every message, and is counted."""
    seen: set[bytes] = set()
    headers: dict[str, str] = {}

    async def say(request: bytes, context: Any) -> bytes:
        seen.add(request)
        headers.update(dict(context.invocation_metadata()))
        return request

    contents = [b"", b"one", b"x" * 10_000]
    async with grpc_server(say) as port:
        wanted = job("grpc", port, tmp_path, *contents)
        wanted.headers["traceparent"] = "00-a-b-00"
        window = await generator.perform(wanted)
    assert window.answered > 20
    assert window.failed == 0
    assert 0 < window.p50_ms <= window.p99_ms
    assert window.rate == window.answered / 0.25
    assert seen == set(contents)
    assert headers["traceparent"] == "00-a-b-00"


async def test_perform_asks_at_a_rate(tmp_path: Path) -> None:
    """In an open loop questions come when they are due, also while a server has not answered."""
    seen = 0
    gate = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        nonlocal seen
        del context
        seen += 1
        if seen == 50:
            gate.set()
        # Nobody is answered before fifty have asked, which no closed loop of six would get to.
        await gate.wait()
        return request

    async with grpc_server(wait) as port:
        wanted = dataclasses.replace(job("grpc", port, tmp_path, b"one"), rate=400.0)
        window = await generator.perform(wanted)
    assert window.failed == 0
    assert seen >= 50
    assert window.p999_ms >= window.p99_ms >= window.p50_ms > 0


async def test_perform_counts_errors_apart(tmp_path: Path) -> None:
    """An error of gRPC comes with HTTP status 200 and is no answer all the same."""

    async def refuse(request: bytes, context: Any) -> bytes:
        if request == b"bad":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return request

    async with grpc_server(refuse) as port:
        window = await generator.perform(job("grpc", port, tmp_path, b"good", b"bad"))
    assert window.answered > 0
    assert window.failed > 0
    assert abs(window.answered - window.failed) <= 6


async def test_perform_sends_more_than_the_first_window(tmp_path: Path) -> None:
    """A connection that has used up what the server lets it send goes on when it gets more."""

    async def size(request: bytes, context: Any) -> bytes:
        del context
        return str(len(request)).encode()

    large = b"y" * (http2.LARGEST_FRAME - http2.MESSAGE_HEADER)
    async with grpc_server(size) as port:
        window = await generator.perform(job("grpc", port, tmp_path, large))
    assert window.failed == 0
    assert window.answered * len(large) > 2 * http2.DEFAULT_WINDOW


async def _answer_in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    turn = 0
    while head := await _read_head(reader):
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        status = b"200 OK" if turn % 2 == 0 else b"500 Oh"
        turn += 1
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(body)
    writer.close()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def test_perform_asks_an_http_server(tmp_path: Path) -> None:
    """Answers in pieces are put together, and a status other than 200 is a failure."""
    server = await asyncio.start_server(_answer_in_pieces, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        window = await generator.perform(job("json", port, tmp_path, b'{"a":1}'))
    assert window.answered > 0
    assert abs(window.answered - window.failed) <= 2


async def _answer_in_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await _read_head(reader):
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
    writer.close()


async def test_perform_reads_chunks(tmp_path: Path) -> None:
    """An answer without a length ends with its last chunk."""
    server = await asyncio.start_server(_answer_in_chunks, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        window = await generator.perform(job("json", port, tmp_path, b"{}"))
    assert window.answered > 0
    assert window.failed == 0


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


@pytest.mark.parametrize("protocol", ["grpc", "json"])
async def test_perform_tells_of_a_server_that_hangs_up(
    protocol: generator.Protocol, tmp_path: Path
) -> None:
    """A connection that ends is an error, not a low figure."""
    server = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match="hung up"):
            await generator.perform(job(protocol, port, tmp_path, b"{}"))


def test_job_survives_its_file(tmp_path: Path) -> None:
    """A job is read as it was written."""
    wanted = job("grpc", 1, tmp_path, b"")
    wanted.write(tmp_path / "job.json")
    assert generator.Job.read(tmp_path / "job.json") == wanted


def test_tally_counts_the_window_alone() -> None:
    """What is answered while warming up, or after the end, is not counted."""
    tally = generator.Tally(1.0, 1.0)
    for moment in (tally.begin - 1, tally.begin, tally.end - 1, tally.end):
        tally.take(moment - 2_000_000, moment, is_answer=True)
    tally.take(tally.begin, tally.begin, is_answer=False)
    assert tally.window() == generator.Window(2, 1, 1.0, 2.0, 2.0, 2.0, 0.0)
