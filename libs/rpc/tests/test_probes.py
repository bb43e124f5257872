import asyncio
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from setpoint_rpc import channel, probes, server, testing
from setpoint_runtime import errors


async def _echo(request: bytes, _: Any) -> bytes:
    if request == b"bad":
        raise errors.invalid("request", request, "must be good")
    return request


async def _get(port: int, target: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Returns status, headers and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    raw = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Returns every sample by its name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_calls() -> None:
    """Calls are counted by service, method and code, timed, and gone from the gauge after."""
    async with testing.serve(testing.unary("Echo", _echo)) as served:
        async with channel.connect(served.address, client="tester") as opened:
            multicallable = opened.unary_unary(testing.path("Echo"))
            for _ in range(3):
                await multicallable(b"x")
            await asyncio.gather(multicallable(b"bad"), return_exceptions=True)
        status, headers, body = await _get(served.metrics_port, "/metrics")

    samples = _samples(body)
    labels = (("method", "Echo"), ("service", testing.SERVICE))
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert int(headers["content-length"]) == len(body.encode())
    handled = "setpoint_rpc_server_handled_total"
    assert samples[handled, (("code", "OK"), *labels)] == 3
    assert samples[handled, (("code", "INVALID_ARGUMENT"), *labels)] == 1
    assert samples["setpoint_rpc_server_seconds_count", labels] == 4
    assert samples["setpoint_rpc_server_seconds_bucket", (("le", "+Inf"), *labels)] == 4
    assert 0 < samples["setpoint_rpc_server_seconds_sum", labels] < 4
    assert samples["setpoint_rpc_server_in_flight", labels] == 0
    assert samples["setpoint_loop_lag_seconds", ()] < 2
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


async def test_metrics_show_calls_in_flight() -> None:
    """A call being served is in the gauge."""
    reached, release = asyncio.Event(), asyncio.Event()

    async def hold(request: bytes, _: Any) -> bytes:
        reached.set()
        await release.wait()
        return request

    async with (
        testing.serve(testing.unary("Hold", hold)) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        held = asyncio.ensure_future(opened.unary_unary(testing.path("Hold"))(b"", timeout=30))
        await reached.wait()
        _, _, body = await _get(served.metrics_port, "/metrics")
        release.set()
        await held

    labels = (("method", "Hold"), ("service", testing.SERVICE))
    assert _samples(body)["setpoint_rpc_server_in_flight", labels] == 1


async def test_labels_are_bounded() -> None:
    """Methods that callers make up do not become series."""
    async with testing.serve(testing.unary("Echo", _echo)) as served:
        async with channel.connect(served.address, client="tester") as opened:
            made_up = [opened.unary_unary(testing.path(f"Made{i}"))(b"") for i in range(20)]
            await asyncio.gather(*made_up, return_exceptions=True)
        _, _, body = await _get(served.metrics_port, "/metrics")

    assert "Made" not in body


async def test_probes_follow_server() -> None:
    """/readyz mirrors readiness, /livez does not depend on it."""
    built = server.Server("example")
    await built.start()
    port = built.metrics_port
    assert (await _get(port, "/livez"))[0] == 200
    assert (await _get(port, "/readyz"))[0] == 503
    await built.set_ready(True)
    assert (await _get(port, "/readyz?verbose"))[0] == 200
    await built.drain()
    assert (await _get(port, "/readyz"))[0] == 503
    assert (await _get(port, "/livez"))[0] == 200
    await built.stop(0)


async def test_probes_answer_while_wiring() -> None:
    """A start that takes long, as with a migration, is alive and not ready."""
    built = server.Server("example")
    await built.bind()
    assert (await _get(built.metrics_port, "/livez"))[0] == 200
    assert (await _get(built.metrics_port, "/readyz"))[0] == 503
    await built.stop(0)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/", 404), ("GET", "/../etc/passwd", 404), ("POST", "/metrics", 405)],
)
async def test_other_requests_are_refused(method: str, target: str, status: int) -> None:
    """Only three paths exist, and only for reading."""
    async with testing.serve(testing.unary("Echo", _echo)) as served:
        assert (await _get(served.metrics_port, target, method))[0] == status


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\xff" * 100, b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 5_000]
)
async def test_garbage_disturbs_nobody(garbage: bytes) -> None:
    """A connection that speaks no HTTP is closed; the next probe is answered."""
    async with testing.serve(testing.unary("Echo", _echo)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.metrics_port)
        writer.write(garbage)
        writer.write_eof()
        # Being cut off while still sending may arrive as a reset.
        await asyncio.gather(reader.read(), return_exceptions=True)
        writer.close()
        assert (await _get(served.metrics_port, "/livez"))[0] == 200


async def test_loop_lag_is_seen() -> None:
    """A loop that was blocked shows by how much."""
    lag = probes.LoopLag()
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.6)
    await asyncio.sleep(0.001)
    assert lag.seconds() > 0.2
    assert lag.is_alive()
    lag.stop()


async def test_blocked_loop_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the process does not count as alive."""
    monkeypatch.setattr(probes, "MAXIMUM_LAG_SECONDS", 0.3)
    lag = probes.LoopLag()
    lag.start()
    time.sleep(0.8)
    assert not lag.is_alive()
    async with asyncio.timeout(30):
        while not lag.is_alive():
            await asyncio.sleep(0.01)
    lag.stop()
