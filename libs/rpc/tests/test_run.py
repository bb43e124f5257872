"""The process as a whole: every test starts a real one and sends it real signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc.aio
import pytest

from setpoint_rpc import channel, run, server, testing
from setpoint_runtime import settings

_SERVICE = """
import asyncio
from contextlib import asynccontextmanager
from setpoint_rpc import run, testing
from setpoint_runtime import settings, tasks

class ExampleSettings(settings.ServiceSettings):
    model_config = settings.settings_config("example")
    database_url: str = "postgresql://setpoint:hunter2@db/setpoint"

async def slow(request, context):
    await asyncio.sleep(float(request))
    return b"done"

@asynccontextmanager
async def build(settings, server, clock):
    server.add(testing.registering(testing.unary("Slow", slow)), object(), testing.SERVICE)
    {wiring}
    print("built", flush=True)
    try:
        yield
    finally:
        print("closed", flush=True)

run.run_service("example", ExampleSettings, build)
"""


@contextmanager
def _process(
    tmp_path: Path,
    wiring: str = "",
    variables: Mapping[str, str] = MappingProxyType({}),
    **environment: str,
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a service in a process of its own; kills it at the end in any case."""
    script = tmp_path / "service.py"
    script.write_text(_SERVICE.format(wiring=textwrap.indent(wiring, " " * 4).strip() or "pass"))
    own = {f"SETPOINT_EXAMPLE_{name}": value for name, value in environment.items()}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables, **own},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _lines(logs: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logs.splitlines() if line.startswith("{")]


async def _ended(process: "subprocess.Popen[str]") -> tuple[str, list[dict[str, Any]]]:
    """Waits for the end; returns what was printed and what was logged."""
    printed, logs = await asyncio.to_thread(process.communicate, timeout=20)
    return printed, _lines(logs)


async def test_call_in_flight_at_sigterm_is_answered(tmp_path: Path) -> None:
    """The drain loses nothing: the call is answered, wiring is closed after it, the code is 0."""
    port = _free_port()
    with _process(tmp_path, PORT=str(port), METRICS_PORT="0", DRAIN_SECONDS="0") as process:
        async with channel.connect(f"127.0.0.1:{port}", client="tester") as opened:
            multicallable = opened.unary_unary(testing.path("Slow"))
            assert await multicallable(b"0", timeout=15, wait_for_ready=True) == b"done"
            call = asyncio.ensure_future(multicallable(b"0.7", timeout=10))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert await call == b"done"
        printed, logs = await _ended(process)

    assert process.returncode == 0
    assert printed.split() == ["built", "closed"]
    events = [line["event"] for line in logs]
    assert events[0] == "starting"
    assert events[-3:] == ["signal", "draining", "stopped"]


async def test_calls_during_drain_are_served(tmp_path: Path) -> None:
    """Until the drain is over, callers that have not looked away yet are still answered."""
    port = _free_port()
    with _process(tmp_path, PORT=str(port), METRICS_PORT="0", DRAIN_SECONDS="60") as process:
        target = f"127.0.0.1:{port}"
        async with channel.connect(target, client="tester") as opened:
            ready = opened.unary_unary(testing.path("Slow"))
            await ready(b"0", timeout=15, wait_for_ready=True)
        # A plain channel does not look at health, like a balancer that has not noticed yet.
        async with grpc.aio.insecure_channel(target) as bare:
            multicallable: Any = bare.unary_unary(testing.path("Slow"))
            await multicallable(b"0", timeout=5)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert await multicallable(b"0", timeout=15) == b"done"
        # Nobody has to wait for the end of the drain.
        process.send_signal(signal.SIGTERM)
        await _ended(process)

    assert process.returncode == 0


async def test_second_sigterm_shortens(tmp_path: Path) -> None:
    """Somebody who asks twice does not wait for the longest call."""
    port = _free_port()
    with _process(tmp_path, PORT=str(port), METRICS_PORT="0", DRAIN_SECONDS="30") as process:
        async with channel.connect(f"127.0.0.1:{port}", client="tester") as opened:
            multicallable = opened.unary_unary(testing.path("Slow"))
            await multicallable(b"0", timeout=15, wait_for_ready=True)
            call = asyncio.ensure_future(multicallable(b"60", timeout=60))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(call, return_exceptions=True)
        printed, _ = await _ended(process)

    assert time.monotonic() - started < 20
    assert process.returncode == 0
    assert "closed" in printed


async def test_sigterm_while_starting_ends_at_once(tmp_path: Path) -> None:
    """A start that waits for something can be called off, and cleans up after itself."""
    wiring = """
print("waiting", flush=True)
try:
    await asyncio.sleep(60)
finally:
    print("given up", flush=True)
"""
    with _process(tmp_path, wiring, METRICS_PORT="0") as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "waiting\n"
        process.send_signal(signal.SIGTERM)
        printed, _ = await _ended(process)

    assert process.returncode == 0
    assert printed == "given up\n"


async def test_dead_task_stops_process(tmp_path: Path) -> None:
    """A process without its background task ends with code 1 and says why."""
    wiring = """
owner = tasks.TaskOwner(server.task_failed)
async def die():
    await asyncio.sleep(0.1)
    raise RuntimeError("shipper broke")
_ = owner.start("shipper", die())
"""
    with _process(tmp_path, wiring, METRICS_PORT="0", DRAIN_SECONDS="0") as process:
        printed, logs = await _ended(process)

    assert process.returncode == 1
    assert printed.split() == ["built", "closed"]
    assert logs[-1]["failure"] == "background task shipper died: RuntimeError"
    assert any("shipper broke" in line.get("exception", "") for line in logs)


async def test_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    """Before anything is wired the taken port is named with its setting, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with _process(tmp_path, PORT=port, METRICS_PORT="0") as process:
            printed, logs = await _ended(process)

    assert process.returncode == 1
    assert printed == ""
    assert "set SETPOINT_EXAMPLE_PORT" in logs[-1]["failure"]
    assert all("exception" not in line for line in logs)


async def test_failing_wiring_is_logged(tmp_path: Path) -> None:
    """An exception while wiring is in the log with its traceback; the code is 1."""
    wiring = 'raise RuntimeError("no such table")'
    with _process(tmp_path, wiring, METRICS_PORT="0") as process:
        _, logs = await _ended(process)

    assert process.returncode == 1
    assert any("no such table" in line.get("exception", "") for line in logs)


async def test_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    """A wrong value is named by its variable, without a traceback and without the value."""
    with _process(tmp_path, PORT="hunter2") as process:
        _, errors = await asyncio.to_thread(process.communicate, timeout=20)

    assert process.returncode == 2
    assert errors.startswith("SETPOINT_EXAMPLE_PORT: ")
    assert len(errors.splitlines()) == 1
    assert "hunter2" not in errors


async def test_collector_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A process whose spans nobody takes ends within seconds of its signal."""
    wiring = """
import setpoint_telemetry
span = setpoint_telemetry.SpanRecord(name="x", trace_id=1, span_id=1, start_us=1, end_us=2)
assert setpoint_telemetry.emit([span]) == 1
await asyncio.sleep(1.5)
server.request_stop("enough")
"""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with _process(tmp_path, wiring, variables, METRICS_PORT="0", DRAIN_SECONDS="0") as process:
            await _ended(process)

    assert process.returncode == 1


async def test_settings_are_logged_without_secrets(tmp_path: Path) -> None:
    """The first line shows the settings in force, and no password."""
    wiring = 'server.request_stop("enough")'
    with _process(tmp_path, wiring, METRICS_PORT="0", DRAIN_SECONDS="0") as process:
        _, logs = await _ended(process)

    assert logs[0]["settings"]["database_url"] == "postgresql://setpoint:***@db/setpoint"
    assert "hunter2" not in json.dumps(logs)


class _Settings(settings.ServiceSettings):
    drain_seconds: float = 0.0


async def test_serving_runs_in_foreign_loop() -> None:
    """Tests run a service inside their own loop, ready on entry and closed on exit."""
    steps: list[str] = []

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    @asynccontextmanager
    async def build(given: _Settings, built: server.Server, clock: Any) -> AsyncIterator[None]:
        built.add(testing.registering(testing.unary("Echo", echo)), object(), testing.SERVICE)
        steps.append("built")
        yield
        assert built.draining.is_set()
        steps.append("closed")

    async with (
        run.serving("example", _Settings(), build) as served,
        channel.connect(served.address, client="tester") as opened,
    ):
        assert await opened.unary_unary(testing.path("Echo"))(b"x") == b"x"

    assert steps == ["built", "closed"]


async def test_serving_cleans_up_when_wiring_fails() -> None:
    """A build that fails leaves no port behind."""
    ports: list[int] = []

    @asynccontextmanager
    async def build(given: _Settings, built: server.Server, clock: Any) -> AsyncIterator[None]:
        ports.append(built.metrics_port)
        if given.port == 0:
            raise RuntimeError("no database")
        yield

    with pytest.raises(RuntimeError, match="no database"):
        async with run.serving("example", _Settings(), build):
            pass

    with socket.create_server(("127.0.0.1", ports[0])):
        pass


async def test_collector_leaves_a_started_process_alone(tmp_path: Path) -> None:
    """What a service consists of once it is ready is never searched for garbage again."""
    wiring = (
        "import gc\n"
        "set_ready = server.set_ready\n"
        "async def noted(ready):\n"
        "    print(gc.get_freeze_count(), gc.get_threshold()[0], flush=True)\n"
        "    await set_ready(ready)\n"
        "server.set_ready = noted"
    )
    with _process(tmp_path, wiring, PORT=str(_free_port())) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "built\n"
        frozen, threshold = (await asyncio.to_thread(process.stdout.readline)).split()
        process.send_signal(signal.SIGTERM)
        await _ended(process)
    assert int(frozen) > 10_000
    assert int(threshold) > 10_000
