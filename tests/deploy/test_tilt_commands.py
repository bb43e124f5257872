"""What the Tiltfile asks Tilt to run, run: the stores, and a service on top of them."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.deploy import tilt_stand_ins

from setpoint_devstack import ports

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 40.0
STOP_SECONDS = 20.0


@pytest.fixture
def recording(tmp_path: Path) -> tilt_stand_ins.Recording:
    return tilt_stand_ins.evaluate(ROOT / "Tiltfile", main_dir=tmp_path)


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command as Tilt would, from the Tiltfile's folder, and stops it with SIGTERM."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.1)


def answers(probe: tilt_stand_ins.HttpGetAction, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{probe.host}:{port}{probe.path}", timeout=1) as reply:
            return bool(200 <= reply.status < 400)
    except (urllib.error.URLError, OSError):
        return False


def on_free_ports(command: list[str]) -> list[str]:
    """Moves the stores' command off the default ports, where a stack of yours may run."""
    changed = [sys.executable, *command[1:]]
    for option in ("--postgres-port", "--valkey-port"):
        changed[changed.index(option) + 1] = str(ports.free_port())
    return changed


def test_run_stores_then_service(recording: tilt_stand_ins.Recording) -> None:
    """The probe passes once the stores are up; the service finds them and becomes ready."""
    stores, registry = recording.local["stores"], recording.local["registry"]
    with running(on_free_ports(stores["serve_cmd"]), stores["serve_env"]) as process:
        probe = stores["readiness_probe"].exec.command
        wait_until(lambda: subprocess.run(probe, check=False).returncode == 0, process)
        port, metrics_port = ports.free_port(), ports.free_port()
        moved = {
            "SETPOINT_REGISTRY_PORT": str(port),
            "SETPOINT_REGISTRY_METRICS_PORT": str(metrics_port),
        }
        shell = ["sh", "-c", registry["serve_cmd"].replace(".venv/bin/python", sys.executable)]
        with running(shell, {**registry["serve_env"], **moved}) as service:
            http = registry["readiness_probe"].http_get
            wait_until(lambda: answers(http, metrics_port), service)
        assert service.returncode == 0
    assert process.returncode == 0
