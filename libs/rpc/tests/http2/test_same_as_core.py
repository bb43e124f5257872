"""The same calls get the same answers from gRPC core's server and from this one."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint_rpc import testing
from setpoint_rpc.http2 import endpoints
from setpoint_rpc.http2.listener import Listener

MAXIMUM_MESSAGE = 1024 * 1024
WIDE = 30.0
SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
CODES = (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED)
TEXTS = ("", "plain", "100 %", "naïve\n", "日本" * 40)
SIZES = (0, 1, 100, 16_380, 70_000, 300_000)


@dataclass(frozen=True)
class Plan:
    """What a call shall do, said in its metadata."""

    shape: str
    requests: Sequence[int]
    """Sizes."""
    answers: int
    """How many messages, of the size of the first request."""
    code: grpc.StatusCode
    text: str
    aborts: bool
    initial: tuple[tuple[str, str | bytes], ...]
    trailing: tuple[tuple[str, str | bytes], ...]
    compression: grpc.Compression


def _metadata(random: random.Random) -> tuple[tuple[str, str | bytes], ...]:
    choices: list[tuple[str, str | bytes]] = [
        ("plain", "some text, with = and ;"),
        ("empty", ""),
        ("raw-bin", random.randbytes(random.randrange(40))),
        ("long", "v" * 3000),
        ("plain", "a second of its name"),
    ]
    return tuple(each for each in choices if random.random() < 0.3)


def _plan(seed: int) -> Plan:
    chosen = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    count = chosen.choice((0, 1, 2, 5)) if shape.startswith("stream") else 1
    return Plan(
        shape=shape,
        requests=[chosen.choice(SIZES) for _ in range(count)],
        answers=chosen.choice((0, 1, 3, 8)) if shape.endswith("stream") else 1,
        code=chosen.choice(CODES),
        text=chosen.choice(TEXTS),
        aborts=chosen.random() < 0.5,
        initial=_metadata(chosen),
        trailing=_metadata(chosen),
        compression=chosen.choice(tuple(grpc.Compression)),
    )


class Servicer:
    """Does what a plan says."""

    def __init__(self) -> None:
        self.plan = _plan(0)
        self.seen: list[Any] = []

    async def _begin(self, request: Any, context: Any) -> int:
        plan = self.plan
        sizes = [len(request)] if isinstance(request, bytes) else [len(x) async for x in request]
        own = ("asked", "asked-bin")
        told = [(key, value) for key, value in context.invocation_metadata() if key in own]
        self.seen.append((sizes, told, context.time_remaining() is not None))
        if plan.initial:
            await context.send_initial_metadata(plan.initial)
        return sizes[0] if sizes else 0

    async def _end(self, context: Any) -> None:
        plan = self.plan
        if plan.code is not grpc.StatusCode.OK and plan.aborts:
            await context.abort(plan.code, plan.text, plan.trailing)
        context.set_trailing_metadata(plan.trailing)
        context.set_code(plan.code)
        if plan.code is not grpc.StatusCode.OK:
            context.set_details(plan.text)

    async def one(self, request: Any, context: Any) -> bytes:
        """Answer with one message."""
        size = await self._begin(request, context)
        await self._end(context)
        return bytes(size)

    async def many(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        """Answer with some messages."""
        size = await self._begin(request, context)
        for _ in range(self.plan.answers):
            yield bytes(size)
        await self._end(context)

    def handler(self, shape: str) -> Any:
        """Return the handler of a shape, as gRPC has it."""
        make: Callable[..., Any] = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(self.many if shape.endswith("stream") else self.one)

    def endpoint(self, path: str) -> endpoints.Endpoint | None:
        """Return the handler of a shape, as this library has it."""
        shape = path.rpartition("/")[2]
        if shape not in SHAPES:
            return None
        yields = shape.endswith("stream")
        serve = self.many if yields else self.one
        return endpoints.Endpoint(serve, shape.startswith("stream"), yields, bytes, bytes)


@asynccontextmanager
async def both(servicer: Servicer) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Channel]]:
    """Serve with gRPC core and with this library; yields a channel to each."""
    options = [("grpc.max_receive_message_length", MAXIMUM_MESSAGE), ("grpc.so_reuseport", 0)]
    core = grpc.aio.server(options=options)
    handlers = {shape: servicer.handler(shape) for shape in SHAPES}
    generic = grpc.method_handlers_generic_handler(testing.SERVICE, handlers)
    core.add_generic_rpc_handlers((generic,))
    core_port = core.add_insecure_port("127.0.0.1:0")
    await core.start()
    own = Listener(
        lambda path, _: servicer.endpoint(path),
        maximum_message=MAXIMUM_MESSAGE,
        maximum_age_seconds=3600,
        age_grace_seconds=WIDE,
    )
    own_port = await own.bind("127.0.0.1", 0)
    await own.start()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{core_port}") as to_core,
        grpc.aio.insecure_channel(f"127.0.0.1:{own_port}") as to_own,
    ):
        yield to_core, to_own
    await core.stop(0)
    await own.stop(0)
    assert not own.running


async def _outcome(channel: grpc.aio.Channel, plan: Plan, method: str | None = None) -> Any:
    """Call as planned; return all that a caller can see."""
    make = getattr(channel, plan.shape)
    metadata = (("asked", "x y"), ("asked-bin", b"\0\xff"))
    requests = [bytes(size) for size in plan.requests]
    asked = requests if plan.shape.startswith("stream") else requests[0]
    call = make(testing.path(method or plan.shape))(
        asked, timeout=WIDE, metadata=metadata, compression=plan.compression
    )
    answers: list[int] = []
    try:
        if plan.shape.endswith("stream"):
            async for each in call:
                answers.append(len(each))  # noqa: PERF401  # those before an error count
        else:
            answers.append(len(await call))
    except grpc.aio.AioRpcError:
        pass
    initial = sorted(_kept(await call.initial_metadata()))
    if plan.shape.endswith("stream") and not answers:
        # grpc.aio's callers get none when the status is read first, from either server.
        initial = []
    trailing = sorted(_kept(await call.trailing_metadata()))
    return answers, await call.code(), await call.details(), initial, trailing


def _kept(metadata: Any) -> list[tuple[str, bytes]]:
    # gRPC core's server tells of itself and of what it understands.
    own = ("grpc-accept-encoding", "accept-encoding", "grpc-status-details-bin")
    return [
        (key, value if isinstance(value, bytes) else value.encode())
        for key, value in metadata or ()
        if key not in own
    ]


async def test_answer_random_calls_alike() -> None:
    """Shapes, sizes, codes, texts, metadata, compression: a caller cannot tell the servers apart."""
    servicer = Servicer()
    async with both(servicer) as channels:
        for seed in range(80):
            servicer.plan = _plan(seed)
            core, own = [await _outcome(channel, servicer.plan) for channel in channels]
            assert own == core, servicer.plan
            assert servicer.seen[-1] == servicer.seen[-2]


async def test_answer_many_calls_at_once_alike() -> None:
    """Calls beside each other on one connection do not mix."""
    servicer = Servicer()
    plans = [_plan(seed) for seed in range(4)]
    servicer.plan = plans[0]
    async with both(servicer) as channels:
        for channel in channels:
            outcomes = await asyncio.gather(
                *(_outcome(channel, plan) for plan in plans for _ in range(20))
            )
            for position, plan in enumerate(plans):
                first, *rest = outcomes[position * 20 : position * 20 + 20]
                assert all(each == first for each in rest), plan


@pytest.mark.parametrize("shape", SHAPES)
async def test_refuse_unknown_method_alike(shape: str) -> None:
    """A method that does not exist is told of in the same words, for every shape."""
    servicer = Servicer()
    plan = next(_plan(seed) for seed in range(99) if _plan(seed).shape == shape)
    async with both(servicer) as channels:
        core, own = [await _outcome(channel, plan, "Missing") for channel in channels]

    assert own[:3] == core[:3]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_refuse_too_large_request_alike(compression: grpc.Compression) -> None:
    """A message beyond the limit has the same code, also when it is small until it is unpacked."""
    servicer = Servicer()
    plan = Plan("unary_unary", [MAXIMUM_MESSAGE + 1], 1, CODES[0], "", False, (), (), compression)
    async with both(servicer) as channels:
        core, own = [await _outcome(channel, plan) for channel in channels]

    assert own[1] is core[1] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_end_at_deadline_alike() -> None:
    """A caller without patience gets DEADLINE_EXCEEDED, and handlers are cancelled."""
    ended: asyncio.Queue[None] = asyncio.Queue()

    class Slow(Servicer):
        async def one(self, request: Any, context: Any) -> bytes:
            try:
                return await asyncio.Future()
            except asyncio.CancelledError:
                ended.put_nowait(None)
                raise

    async with both(Slow()) as channels:
        for channel in channels:
            call: Any = channel.unary_unary(testing.path("unary_unary"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.details() == "Deadline Exceeded"
        async with asyncio.timeout(WIDE):
            for _ in channels:
                await ended.get()
