import grpc
import grpc.aio
import pytest

from setpoint_rpc import channel, testing
from setpoint_rpc.http2 import endpoints, frames
from setpoint_rpc.http2 import listener as http2_listener
from setpoint_rpc.http2 import testing as http2_testing
from setpoint_runtime import errors

BUSY = errors.ResourceExhaustedError(
    errors.Reason.OVERLOADED, "busy", retry_after_seconds=0.25, metadata={"of": "test"}
)


async def test_door_turns_away_before_reading() -> None:
    """A call turned away hears the whole error, whatever it sent; the others are served."""
    closed, served = True, []

    async def echo(request: bytes, _: object) -> bytes:
        served.append(request)
        return request

    def door(_: int) -> errors.SetpointError | None:
        return BUSY if closed else None

    async with (
        testing.serve(testing.unary("Echo", echo), doors={"Echo": door}) as server,
        channel.connect(server.address, client="tester") as opened,
    ):
        call = opened.unary_unary(testing.path("Echo"))
        for request in (b"", b"short", b"x" * 4_000_000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            error = channel.from_rpc_error(caught.value)
            assert (error.reason, error.message) == (errors.Reason.OVERLOADED, "busy")
            assert (error.retry_after_seconds, error.metadata) == (0.25, {"of": "test"})
        assert served == []
        closed = False
        assert await call(b"now", timeout=20) == b"now"
        assert served == [b"now"]
        samples = {
            sample.labels["code"]: sample.value
            for metric in server.metrics_registry.collect()
            for sample in metric.samples
            if "code" in sample.labels
        }
    assert samples.get("RESOURCE_EXHAUSTED") == 3


async def test_door_makes_a_refusal_once() -> None:
    """The same error gets the same handler again; errors made anew do not fill the memory."""
    from setpoint_rpc import handlers, metrics

    given: list[errors.SetpointError] = [BUSY]
    guard = handlers.Guard(1.0, 1)
    method = handlers.Method("s", "m", metrics.MethodStats("s", "m"), guard)
    door = handlers.door(lambda _: given[0], method)
    first = door(0)
    assert first is not None
    assert door(0) is first
    for _ in range(1_000):
        given[0] = errors.UnavailableError(errors.Reason.UNAVAILABLE, "another")
        assert door(0) is not first
    kept = [cell.cell_contents for cell in door.__closure__ or ()]
    assert max(len(each) for each in kept if isinstance(each, dict)) <= 64


async def test_door_hears_of_calls_that_are_about_to_begin() -> None:
    """Calls that come together are counted before the first of them has had its turn."""
    told: list[int] = []

    async def echo(request: bytes, _: object) -> bytes:
        return request

    endpoint = endpoints.Endpoint(echo, takes_stream=False, yields=False, read=bytes, write=bytes)
    refusal = endpoints.Refusal.of(BUSY, lambda: None)

    def find(_: str, beginning: int) -> endpoints.Endpoint | endpoints.Refusal:
        told.append(beginning)
        return refusal if beginning >= 3 else endpoint

    listener = http2_listener.Listener(
        find, maximum_message=1024, maximum_age_seconds=3_600, age_grace_seconds=30
    )
    wire = http2_testing.Wire(listener)
    for stream in range(1, 21, 2):
        wire.ask(stream, b"x")
    assert told == [0, 1, 2, *[3] * 7]
    # One of them is given up before its first turn.
    wire.feed(frames.reset(1, frames.ErrorCode.CANCEL))
    await wire.until(lambda: not listener.running)
    assert listener.beginning == 0
    wire.ask(21, b"x")
    assert told[-1] == 0
    await wire.until(lambda: 21 in wire.answers and wire.answers[21].is_ended)
