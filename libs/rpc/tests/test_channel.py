import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace

from setpoint_rpc import channel, server, testing

_CONTRACTS = Path(__file__).parents[3] / "proto"
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_OTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def _contract_methods() -> set[str]:
    """Returns the paths of all methods in the contracts."""
    methods = set()
    for path in _CONTRACTS.rglob("*_service.proto"):
        text = path.read_text(encoding="utf-8")
        package = re.findall(r"^package ([\w.]+);", text, re.MULTILINE)[0]
        service = re.findall(r"^service (\w+)", text, re.MULTILINE)[0]
        names = re.findall(r"^\s+rpc (\w+)", text, re.MULTILINE)
        methods |= {f"/{package}.{service}/{name}" for name in names}
    return methods


async def _metadata_seen(opened: grpc.aio.Channel, **arguments: Any) -> dict[str, str]:
    """Returns the metadata that a call arrives with."""
    multicallable: Any = opened.unary_unary(testing.path("Look"))
    return dict(json.loads(await multicallable(b"", **arguments)))


async def _look(request: bytes, servicer_context: Any) -> bytes:
    pairs = [(key, value) for key, value in servicer_context.invocation_metadata()]
    return json.dumps(pairs).encode()


def test_service_config_names_methods_that_exist() -> None:
    """A name that is not in the contracts would be ignored in silence."""
    methods = _contract_methods()
    services = {path.split("/")[1] for path in methods}

    assert set(channel.METHOD_SECONDS) <= methods
    assert set(channel.SERVICE_SECONDS) <= services
    for config in channel.SERVICE_CONFIG["methodConfig"]:
        for name in config["name"]:
            if "method" in name:
                assert f"/{name['service']}/{name['method']}" in methods
            elif name:
                assert name["service"] in services


def test_service_config_has_only_known_keys() -> None:
    """A misplaced or misspelt key is ignored in silence, and a missing one fails every call."""
    config = channel.SERVICE_CONFIG
    retry_keys = {
        "maxAttempts",
        "initialBackoff",
        "maxBackoff",
        "backoffMultiplier",
        "retryableStatusCodes",
    }

    assert set(config) == {
        "loadBalancingConfig",
        "healthCheckConfig",
        "retryThrottling",
        "methodConfig",
    }
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert set(config["retryThrottling"]) == {"maxTokens", "tokenRatio"}
    for method in config["methodConfig"]:
        assert set(method) <= {"name", "waitForReady", "retryPolicy"}
        if policy := method.get("retryPolicy"):
            assert set(policy) == retry_keys
            assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_service_config_has_no_timeout() -> None:
    """GRPC core fires a configured time-out early."""
    assert "timeout" not in json.dumps(channel.SERVICE_CONFIG)


def test_calls_to_one_of_many_replicas_are_not_repeated() -> None:
    """Whoever chooses among replicas repeats on another one; core would repeat on the same."""
    arguments = dict(channel.channel_arguments("tester", is_replica=True))
    config = json.loads(arguments["grpc.service_config"])
    usual = json.loads(dict(channel.channel_arguments("tester"))["grpc.service_config"])

    assert "retryPolicy" in json.dumps(usual)
    assert "retryPolicy" not in json.dumps(config)
    for method in usual["methodConfig"]:
        method.pop("retryPolicy", None)
    assert config == usual


def test_messages_are_never_unlimited() -> None:
    """A peer cannot make a process take any amount of memory."""
    arguments = dict(channel.channel_arguments("tester"))

    assert 0 < arguments["grpc.max_receive_message_length"] <= 4 * 1024 * 1024
    assert 0 < arguments["grpc.max_send_message_length"] <= 4 * 1024 * 1024


async def test_call_carries_caller_and_deadline() -> None:
    """Each call names its caller and has a deadline that nobody had to think of."""
    remaining: list[float] = []

    async def look(request: bytes, servicer_context: Any) -> bytes:
        remaining.append(servicer_context.time_remaining())
        return await _look(request, servicer_context)

    async with testing.serve_and_connect(testing.unary("Look", look)) as opened:
        seen = await _metadata_seen(opened)
        await _metadata_seen(opened, timeout=9)

    assert seen["x-setpoint-caller"] == "tester"
    assert seen["user-agent"].startswith("setpoint-tester ")
    assert "traceparent" not in seen
    assert 1 < remaining[0] < 2.1
    assert 8 < remaining[1] < 9.1


@pytest.mark.parametrize(
    ("method", "seconds"),
    [
        ("/setpoint.inference.v1.InferenceService/Predict", 0.5),
        ("/setpoint.feature.v1.FeatureService/GetOnlineFeatures", 0.15),
        ("/setpoint.monitoring.v1.IngestService/IngestPredictions", 5.0),
        ("/setpoint.registry.v1.RegistryService/GetModel", 2.0),
    ],
)
def test_default_time_is_of_the_method(method: str, seconds: float) -> None:
    """The serving path is hurried, shipping has patience."""
    assert channel._seconds(method) == seconds


async def test_streams_have_a_long_default() -> None:
    """A stream is not cut off by the time of a single answer."""
    remaining: list[float] = []

    async def stream(request: bytes, servicer_context: Any) -> Any:
        remaining.append(servicer_context.time_remaining())
        yield b"x"

    async with testing.serve_and_connect(testing.streaming("Stream", stream)) as opened:
        assert [x async for x in opened.unary_stream(testing.path("Stream"))(b"")] == [b"x"]

    assert remaining[0] > 500


async def test_own_metadata_is_kept() -> None:
    """What the caller adds arrives, and a trace it gives is not replaced."""
    async with testing.serve_and_connect(testing.unary("Look", _look)) as opened:
        metadata = (("x-own", "1"), ("traceparent", _TRACE))
        seen = await _metadata_seen(opened, metadata=metadata)
        seen_aio = await _metadata_seen(opened, metadata=grpc.aio.Metadata(*metadata))

    for each in (seen, seen_aio):
        assert (each["x-own"], each["traceparent"]) == ("1", _TRACE)
        assert each["x-setpoint-caller"] == "tester"


async def test_trace_of_served_call_is_passed_on() -> None:
    """The header that came in goes out, so a trace spans services that make no spans."""
    async with testing.serve_and_connect(testing.unary("Look", _look)) as inner:

        async def relay(request: bytes, _: Any) -> bytes:
            answer: bytes = await inner.unary_unary(testing.path("Look"))(request)
            return answer

        async with testing.serve_and_connect(testing.unary("Look", relay)) as opened:
            seen = await _metadata_seen(opened, metadata=(("traceparent", _TRACE),))
            without = await _metadata_seen(opened)

    assert seen["traceparent"] == _TRACE
    assert "traceparent" not in without


async def test_current_span_goes_before_incoming_trace() -> None:
    """Where there is a span, the next service's work hangs below it."""
    _, trace_id, span_id, _ = _OTHER_TRACE.split("-")
    current = trace.NonRecordingSpan(
        trace.SpanContext(int(trace_id, 16), int(span_id, 16), False, trace.TraceFlags(1))
    )
    async with testing.serve_and_connect(testing.unary("Look", _look)) as opened:
        with trace.use_span(current):
            seen = await _metadata_seen(opened)
            kept = await _metadata_seen(opened, metadata=(("traceparent", _TRACE),))

    assert seen["traceparent"] == _OTHER_TRACE
    assert kept["traceparent"] == _TRACE


async def test_registered_methods_work() -> None:
    """Newer generated stubs ask for registered methods."""
    async with testing.serve_and_connect(testing.unary("Look", _look)) as opened:
        multicallable = opened.unary_unary(
            testing.path("Look"),
            request_serializer=bytes.upper,
            response_deserializer=json.loads,
            _registered_method=True,
        )
        assert ["x-setpoint-caller", "tester"] in await multicallable(b"x")


async def test_cancelled_caller_cancels_call() -> None:
    """Cancelling a task that waits for an answer reaches the peer, and is not swallowed here."""
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: bytes, _: Any) -> bytes:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return request

    async with testing.serve_and_connect(testing.unary("Hang", hang)) as opened:
        waiting = asyncio.ensure_future(opened.unary_unary(testing.path("Hang"))(b"", timeout=30))
        await reached.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(30):
            await cancelled.wait()


def _naming(name: bytes) -> testing.Handlers:
    async def answer(request: bytes, _: Any) -> bytes:
        return name

    return testing.unary("Name", answer)


async def test_replicas_share_calls_and_dead_ones_are_left_out() -> None:
    """Calls go round the replicas that serve; one that drains or dies costs no failed call."""
    async with testing.serve(_naming(b"one")) as one:
        two = server.Server("example")
        two.add(testing.registering(_naming(b"two")), object(), testing.SERVICE)
        await two.start()
        await two.set_ready(True)
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"
        async with channel.connect(target, client="tester") as opened:
            multicallable = opened.unary_unary(testing.path("Name"))
            async with asyncio.timeout(10):
                seen: set[bytes] = set()
                while len(seen) < 2:
                    seen.add(await multicallable(b""))
            await two.drain()
            async with asyncio.timeout(30):
                # Its own word takes a moment to arrive; until then it still answers.
                while (drained := {await multicallable(b"") for _ in range(10)}) != {b"one"}:
                    await asyncio.sleep(0.01)
            await two.stop(0)
            dead = {await multicallable(b"") for _ in range(10)}

    assert drained == dead == {b"one"}


async def test_several_addresses_are_one_channel() -> None:
    """Addresses with commas are called in turn, and a dead one is left out."""
    answering = []
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for number in range(2):

            async def answer(request: bytes, _: Any, number: int = number) -> bytes:
                answering.append(number)
                return request

            served = await stack.enter_async_context(testing.serve(testing.unary("Ask", answer)))
            addresses.append(served.address)
        opened = await stack.enter_async_context(
            channel.connect(",".join(addresses), client="tester")
        )
        async with asyncio.timeout(20):
            while set(answering) != {0, 1}:
                await opened.unary_unary(testing.path("Ask"))(b"", timeout=10)


async def test_restarted_peer_is_found_soon() -> None:
    """After a restart calls go through again within a few seconds, not after 20."""
    async with testing.serve(_naming(b"one")) as first:
        port = first.port
        opened = channel.connect(first.address, client="tester")
        multicallable = opened.unary_unary(testing.path("Name"))
        assert await multicallable(b"") == b"one"
    with pytest.raises(grpc.aio.AioRpcError):
        await multicallable(b"")

    started = time.monotonic()
    async with testing.serve(_naming(b"two"), server.ServerOptions(port=port)):
        assert await multicallable(b"", wait_for_ready=True, timeout=15) == b"two"
    await opened.close()

    assert time.monotonic() - started < 8


async def test_channel_tells_state() -> None:
    """The channel can be asked and waited for like grpc.aio's own."""
    async with (
        testing.serve(_naming(b"one")) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        assert opened.get_state() is grpc.ChannelConnectivity.IDLE
        async with asyncio.timeout(10):
            await opened.channel_ready()
        assert opened.get_state() is grpc.ChannelConnectivity.READY
        assert isinstance(opened, grpc.aio.Channel)
