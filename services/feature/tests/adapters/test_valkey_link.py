import asyncio
import contextlib
import pathlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_devstack import ports, valkey
from setpoint_feature.adapters import valkey_client, valkey_link
from setpoint_feature.adapters.valkey_link import Address


@pytest.fixture
async def guarded(run_folder: pathlib.Path) -> AsyncIterator[valkey.ValkeyServer]:
    """A Valkey with a password, which also listens on a socket, and which a test may stop."""
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="setpoint-") as folder:
        server = valkey.ValkeyServer(
            run_folder / "guarded",
            ports.free_port(),
            durable=False,
            settings=[f"unixsocket {folder}/socket"],
        )
        await server.start()
        yield server
        await server.stop()


def socket_of(server: valkey.ValkeyServer) -> str:
    lines = (server.folder / "valkey.conf").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("unixsocket"))


@contextlib.asynccontextmanager
async def linked(url: str, seconds: float = 10.0) -> AsyncIterator[valkey_client.Client]:
    client = valkey_client.connect(url, timeout_seconds=seconds)
    try:
        yield client
    finally:
        await client.close()


async def call(client: valkey_client.Client, *words: str | bytes | int) -> object:
    return await client.call(0, valkey_link.pack(words))


@pytest.mark.parametrize(
    ("url", "addresses", "is_cluster", "login", "database"),
    [
        ("redis://", [Address("127.0.0.1", 6379)], False, ("", ""), 0),
        ("redis://a:1/3", [Address("a", 1)], False, ("", ""), 3),
        ("valkey://:p%40ss@[::1]:7", [Address("::1", 7)], False, ("", "p@ss"), 0),
        ("rediss://me:secret@a", [Address("a", 6379)], False, ("me", "secret"), 0),
        ("redis+cluster://:p@a:1,b:2,c", [Address("a", 1), Address("b", 2), Address("c", 6379)], True, ("", "p"), 0),
        ("unix://:p@/run/v.sock?db=2", [Address("", 0, "/run/v.sock")], False, ("", "p"), 2),
    ],
)  # fmt: skip
def test_parse_urls(
    url: str, addresses: list[Address], is_cluster: bool, login: tuple[str, str], database: int
) -> None:
    """Every form of address is understood, and passwords stay out of texts."""
    target = valkey_link.parse(url)

    assert list(target.addresses) == addresses
    assert (target.is_cluster, target.database) == (is_cluster, database)
    assert (target.username, target.password) == login
    assert (target.tls is not None) == url.startswith("rediss")
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "redis://a,b",
        "redis+cluster://a/1",
        "redis://a?protocol=3",
        "redis://a?ssl_ca_certs=x",
        "rediss://a?ssl_cert_reqs=none",
        "unix:///x?y=1",
        "redis://a/one",
    ],
)
def test_parse_refuses_what_it_does_not_know(url: str) -> None:
    """An option that would be ignored, TLS settings above all, is an error at the start."""
    with pytest.raises(ValueError, match=r"URL|cluster|invalid literal"):
        valkey_link.parse(url)


async def test_login_database_and_socket(guarded: valkey.ValkeyServer) -> None:
    """Password and database hold for every connection, over TCP and a socket alike."""
    password = valkey_link.parse(guarded.url()).password
    async with (
        linked(guarded.url(2)) as tcp,
        linked(f"unix://:{password}@{socket_of(guarded)}?db=2") as unix,
    ):
        assert await call(tcp, "SET", "a", 1) == b"OK"
        assert await call(unix, "GET", "a") == b"1"
    async with linked(guarded.url(1)) as other:
        assert await call(other, "GET", "a") is None


async def test_wrong_password(guarded: valkey.ValkeyServer) -> None:
    """A login that is refused fails as a store that cannot be reached."""
    async with linked(f"redis://:wrong@127.0.0.1:{guarded.port}") as client:
        with pytest.raises(OSError, match="AUTH"):
            await call(client, "PING")


async def test_calls_of_many_get_their_own_replies(valkey_url: str) -> None:
    """However many calls share the connection, large and small, each gets what it asked for."""
    async with linked(valkey_url) as client:
        texts = [f"{number}-" * (20_000 if number % 10 == 0 else 3) for number in range(100)]
        replies = await asyncio.gather(*(call(client, "ECHO", text) for text in texts))
        assert [bytes(each).decode() for each in replies] == texts  # type: ignore[call-overload]  # echoes are bytes.
        several = await client.call_all([(0, ("ECHO", text)) for text in texts])
        assert several == [text.encode() for text in texts]


async def test_call_that_is_given_up_leaves_no_reply_behind(valkey_url: str) -> None:
    """Calls that stop waiting, at any moment, never shift the replies of the others."""
    chance = random.Random(7)
    async with linked(valkey_url) as client:

        async def ask(number: int) -> None:
            # Some of the replies are slower than their callers are patient.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0, 0.0002, 0.002, 10])):
                    assert await call(client, "ECHO", number) == str(number).encode()

        for first in range(0, 600, 60):
            await asyncio.gather(*(ask(first + number) for number in range(60)))
        assert await call(client, "ECHO", "last") == b"last"


async def test_server_that_dies_and_comes_back(guarded: valkey.ValkeyServer) -> None:
    """Calls in flight fail, later ones fail at once, and those after the restart find the way again."""
    async with linked(guarded.url()) as client:
        await call(client, "PING")
        waiting = [asyncio.create_task(call(client, "BLPOP", f"no-{n}", 0)) for n in range(3)]
        await asyncio.sleep(0)
        await guarded.stop()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(ConnectionRefusedError):
            await call(client, "PING")
        await guarded.start()

        assert all(isinstance(each, OSError) for each in found)
        assert await call(client, "PING") == b"PONG"


async def test_connection_that_was_cut_is_made_anew(valkey_url: str) -> None:
    """A server that closed an idle connection, or one with calls under way, costs nobody a call."""
    async with linked(valkey_url) as client, linked(valkey_url) as other:
        number = await call(client, "CLIENT", "ID")
        await call(other, "CLIENT", "KILL", "ID", int(str(number)))
        replies = await asyncio.gather(*(call(client, "ECHO", each) for each in range(20)))
        assert replies == [str(each).encode() for each in range(20)]
        number = await call(client, "CLIENT", "ID")
        await call(other, "CLIENT", "KILL", "ID", int(str(number)))
        assert await client.call_all([(0, ("ECHO", "a")), (0, ("ECHO", "b"))]) == [b"a", b"b"]


async def test_error_replies_are_values(valkey_url: str) -> None:
    """What a server refuses is told to the caller of that command alone."""
    async with linked(valkey_url) as client:
        refused, fine = await asyncio.gather(call(client, "NONSENSE"), call(client, "PING"))
        assert isinstance(refused, valkey_link.ReplyError)
        assert valkey_link.kind_of(refused) == "ERR"
        assert fine == b"PONG"


@pytest.mark.parametrize("answer", [b"?what\r\n", b"+PONG\r\n+PONG\r\n"], ids=["noise", "too many"])
async def test_server_that_is_none(answer: bytes, free_port: Callable[[], int]) -> None:
    """Bytes that answer nothing end the connection rather than reach a caller."""
    calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.read(100)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port := free_port())
    async with linked(f"redis://127.0.0.1:{port}") as client:
        if answer.startswith(b"+"):
            assert await call(client, "PING") == b"PONG"
        else:
            with pytest.raises(ConnectionResetError):
                await call(client, "PING")
            assert calls == 2
        # The connection is not used again.
        with contextlib.suppress(OSError):
            await call(client, "PING")
    assert calls >= 2
    server.close()
    await server.wait_closed()


async def test_silence_is_not_waited_for_twice(free_port: Callable[[], int]) -> None:
    """After a server was silent for too long its connection is given up, whoever waited for it."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await reader.read(100)
            writer.write(b"+PONG\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port := free_port())
    async with linked(f"redis://127.0.0.1:{port}", 0.2) as client:
        with pytest.raises(TimeoutError):
            await client.call(0, valkey_link.pack(("PING",)), seconds=0.05)
        while True:
            try:
                assert await call(client, "PING") == b"PONG"
                break
            except TimeoutError:
                pass
    assert connections == 2
    server.close()
    await server.wait_closed()


@given(
    st.lists(st.binary(max_size=4), max_size=3),
    st.lists(st.tuples(st.binary(max_size=4), st.lists(st.binary(max_size=3), max_size=4))),
)
def test_pack_reads_packs_as_the_library_does(
    keys: list[bytes], groups: list[tuple[bytes, list[bytes]]]
) -> None:
    """Keys of one length and of several, none, empty ones and ones with line ends: the same bytes on the wire."""
    whole = [*keys, *(prefix + rest for prefix, rests in groups for rest in rests)]
    assert valkey_link.pack_reads(keys, groups) == valkey_link.pack(("MGET", *whole))
