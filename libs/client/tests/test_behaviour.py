import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from opentelemetry import trace

from setpoint.router.v1 import router_service_pb2
from setpoint_client import AsyncClient, Client, RetryPolicy, errors, typed_error
from setpoint_client.options import ClientOptions, ClientSettings
from setpoint_testkit import free_port

_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def _failure(server: Any, code: grpc.StatusCode, *details: Any, **more: Any) -> None:
    failure = sys.modules[type(server).__module__].Failure
    server.failure = failure(code, details=list(details), **more)


def test_errors_are_typed_by_reason(client: Any, server: Any) -> None:
    """Reason, metadata, violations and the time to wait come through as sent."""
    info = error_details_pb2.ErrorInfo(
        reason="ROUTE_NOT_FOUND", domain="setpoint", metadata={"route": "r"}
    )
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="route", description="'r' is no route")
    retry = error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)
    )
    _failure(server, grpc.StatusCode.NOT_FOUND, info, bad, retry)
    with pytest.raises(errors.NotFoundError, match="told to fail") as caught:
        client.predict("r")
    error = caught.value
    assert error.reason is errors.Reason.ROUTE_NOT_FOUND
    assert error.metadata == {"route": "r"}
    assert error.violations == (errors.FieldViolation("route", "'r' is no route"),)
    assert error.retry_after_seconds == 1.5
    assert isinstance(error.__cause__, grpc.RpcError)


def test_unknown_reasons_keep_their_kind(client: Any, server: Any) -> None:
    """A reason of a newer server is an error of the right kind that still tells it."""
    info = error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="setpoint")
    _failure(server, grpc.StatusCode.FAILED_PRECONDITION, info)
    with pytest.raises(errors.FailedPreconditionError) as caught:
        client.predict("r")
    assert caught.value.metadata == {"unknown_reason": "FROM_THE_FUTURE"}


def test_every_call_has_a_deadline_and_a_name(client: Any, server: Any) -> None:
    """A call without a time-out of its own still ends, and says who calls."""
    client.predict("r")
    client.get_prediction("x")
    assert 0 < server.remaining[0] < 2.5
    assert 0 < server.remaining[1] < 5.5
    assert {each["x-setpoint-caller"] for each in server.metadata} == {"tests"}


def test_deadline_ends_the_call(client: Any, server: Any) -> None:
    """A server that takes too long is given up, while it goes on, and not asked again."""
    server.gate.clear()
    seconds = 0.1
    while not server.requests:
        # On a machine that pauses, time may be over before the server is asked.
        with pytest.raises(errors.DeadlineExceededError):
            client.get_prediction("x", timeout=seconds)
        seconds *= 2
    server.gate.set()
    assert len(server.requests) == 1


def test_safe_calls_are_repeated(client: Any, server: Any) -> None:
    """A read, and a write with an id, survive a server that is away for a moment."""
    _failure(server, _UNAVAILABLE, times=2)
    assert client.get_prediction("x").prediction_id == "x"
    assert len(server.requests) == 3
    _failure(server, _UNAVAILABLE, times=1)
    client.write_features("v", [{"carrier": "UA", "event_time": 1}])
    assert server.requests[-1].batch_id == server.requests[-2].batch_id


def test_repeats_are_bounded(client: Any, server: Any) -> None:
    """After the last attempt the error is raised."""
    _failure(server, _UNAVAILABLE)
    with pytest.raises(errors.UnavailableError):
        client.get_prediction("x")
    assert len(server.requests) == 4


def test_predictions_are_never_repeated(client: Any, server: Any) -> None:
    """Each prediction is recorded, so the client does not make a second one by itself."""
    _failure(server, _UNAVAILABLE)
    for call in (client.predict, lambda route: client.predict_batch(route, [{"x": 1}])):
        server.requests.clear()
        with pytest.raises(errors.UnavailableError):
            call("r")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_only_unavailable_is_repeated(client: Any, server: Any, code: grpc.StatusCode) -> None:
    """Every other failure is raised at once."""
    _failure(server, code)
    with pytest.raises(errors.SetpointError):
        client.get_prediction("x")
    assert len(server.requests) == 1


def test_servers_may_forbid_repeats(client: Any, server: Any) -> None:
    """A server that has tried in vain itself is not asked again."""
    _failure(server, _UNAVAILABLE, trailing=[("grpc-retry-pushback-ms", "-1")])
    with pytest.raises(errors.UnavailableError):
        client.get_prediction("x")
    assert len(server.requests) == 1


def test_absent_server_is_unavailable() -> None:
    """Nobody listening is the typed error, within the deadline."""
    address = f"127.0.0.1:{free_port()}"
    with Client(monitoring_address=address) as client:
        start = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            client.get_prediction("x", timeout=20)
        assert time.monotonic() - start < 20


def test_raw_stubs_share_the_channels(server: Any) -> None:
    """Everything else of the contract is one attribute away, with the same typed errors."""
    with Client(**server.settings()) as client:
        request = router_service_pb2.GetRouteRequest(name="r")
        assert client.stubs.router.GetRoute(request, timeout=20).route.name == "r"
        _failure(server, grpc.StatusCode.NOT_FOUND)
        with pytest.raises(grpc.RpcError) as caught:
            client.stubs.router.GetRoute(request, timeout=20)
        assert isinstance(typed_error(caught.value), errors.NotFoundError)


async def test_raw_async_stubs_are_awaited(async_client: AsyncClient, server: Any) -> None:
    """The async client's stubs are the generated ones on grpc.aio."""
    request = router_service_pb2.GetRouteRequest(name="r")
    answer = await async_client.stubs.router.GetRoute(request, timeout=20)
    assert answer.route.name == "r"
    _failure(server, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await async_client.stubs.router.GetRoute(request, timeout=20)
    assert isinstance(typed_error(caught.value), errors.NotFoundError)


async def test_async_calls_run_side_by_side(async_client: AsyncClient, server: Any) -> None:
    """Many tasks share one client."""
    answers = await asyncio.gather(*(async_client.predict("r") for _ in range(20)))
    assert len(answers) == len(server.requests) == 20


async def test_cancelled_call_is_not_repeated(async_client: AsyncClient, server: Any) -> None:
    """Cancelling a task cancels its call and nothing else happens."""
    server.gate.clear()
    task = asyncio.create_task(async_client.get_prediction("x", timeout=20))
    async with asyncio.timeout(20):
        while not server.requests:
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.gate.set()
    await async_client.get_prediction("y")
    assert [request.prediction_id for request in server.requests] == ["x", "y"]


def test_async_client_belongs_to_one_loop(server: Any) -> None:
    """A second event loop is refused in words instead of hanging."""

    async def use(client: AsyncClient) -> None:
        await client.predict("r")

    client = AsyncClient(**server.settings())

    async def use_and_close() -> None:
        await use(client)
        await client.close()

    with pytest.raises(RuntimeError, match="closed"):
        _in_thread(use_and_close, lambda: use(client))
    other = AsyncClient(**server.settings())
    with pytest.raises(RuntimeError, match="another event loop"):
        _in_thread(lambda: use(other), lambda: use(other))


def _in_thread(*steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        for step in steps:
            pool.submit(asyncio.run, step()).result(20)


def test_threads_share_a_client(server: Any) -> None:
    """Threads that start at the same moment get one channel and right answers."""
    with Client(**server.settings()) as client:
        barrier = threading.Barrier(8)

        def work(number: int) -> str:
            barrier.wait(10)
            return client.get_prediction(f"p{number}").prediction_id

        with futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [f"p{number}" for number in range(8)]
        assert len(client._channels) == 1


_PROCESSES = """
import multiprocessing, os, sys
from setpoint_client import Client

def predict(address):
    with Client(router_address=address) as client:
        return client.predict("r").outputs["probability"]

if __name__ == "__main__":
    address = sys.argv[1]
    client = Client(router_address=address)
    assert client.predict("r").prediction_id
    child = os.fork()
    if child == 0:
        try:
            client.predict("r")
        except RuntimeError as error:
            os._exit(0 if "before fork" in str(error) else 2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(predict, (address,)) == 0.25
    client.close()
"""


def test_client_in_other_processes(server: Any, tmp_path: Path) -> None:
    """A forked child is told to make its own client instead of hanging; spawned workers just work."""
    script = tmp_path / "processes.py"
    script.write_text(_PROCESSES)
    command = [sys.executable, "-W", "ignore", str(script), server.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_closed_client_says_so(server: Any) -> None:
    """A closed client fails in words."""
    client = Client(**server.settings())
    client.predict("r")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.predict("r")


def test_current_trace_is_passed_on(server: Any) -> None:
    """A program that traces gets its trace through to the server."""
    context = trace.SpanContext(0xAB, 0xCD, is_remote=False, trace_flags=trace.TraceFlags(1))
    with Client(**server.settings()) as client, trace.use_span(trace.NonRecordingSpan(context)):
        client.predict("r")
    assert server.metadata[0]["traceparent"] == f"00-{0xAB:032x}-{0xCD:016x}-01"


def test_settings_and_options_are_the_same_list() -> None:
    """What may be given is what there is, and a misspelt setting is refused."""
    assert set(ClientSettings.__annotations__) == set(ClientOptions.__dataclass_fields__)
    with pytest.raises(TypeError, match="router_adress"):
        Client(router_adress="127.0.0.1:1")  # type: ignore[call-arg]


def test_retry_policy_can_be_switched_off(server: Any) -> None:
    """One attempt means one attempt."""
    _failure(server, _UNAVAILABLE)
    settings = {**server.settings(), "retry": RetryPolicy(max_attempts=1)}
    with Client(**settings) as client, pytest.raises(errors.UnavailableError):
        client.get_prediction("x")
    assert len(server.requests) == 1
