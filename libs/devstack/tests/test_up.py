"""The foreground commands, as child processes of the test."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from setpoint_devstack import __main__ as command
from setpoint_devstack import lock, ports, stack, up

WaitUntil = Callable[[Callable[[], bool]], None]
STAND_IN = pathlib.Path(__file__).parent / "stand_in.py"
_UP = """
import pathlib, sys
from setpoint_devstack import catalogue, up

service = catalogue.Service(
    "inference", int(sys.argv[3]), database=False, command=(sys.executable, sys.argv[2], "inference")
)
sys.exit(up.run(pathlib.Path(sys.argv[1]), [service]))
"""


def _start(folder: pathlib.Path, habit: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _UP, str(folder), str(STAND_IN), str(ports.free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "STAND_IN_INFERENCE": habit},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_until_told_to_stop(
    tmp_path: pathlib.Path, wait_until: WaitUntil, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM stop everything in order, with exit code 0."""
    running = _start(tmp_path)
    wait_until(lambda: stack.running_addresses(tmp_path) is not None)
    running.send_signal(number)
    output, _ = running.communicate(timeout=30)
    assert running.returncode == 0, output
    assert "inference  │ 00:00:00.000 INFO  ready" in output
    assert "setpoint   │ everything is ready" in output
    assert "stopped (exit code 0)" in output
    assert not lock.is_held(tmp_path)


def test_stops_while_it_is_starting(tmp_path: pathlib.Path, wait_until: WaitUntil) -> None:
    """A signal before everything is ready is no reason to wait for that."""
    running = _start(tmp_path, "slow")
    wait_until(lambda: lock.is_held(tmp_path))
    running.terminate()
    output, _ = running.communicate(timeout=30)
    assert running.returncode == 0, output
    assert not lock.is_held(tmp_path)


def test_stops_at_once_when_told_twice(tmp_path: pathlib.Path, wait_until: WaitUntil) -> None:
    """A second signal kills what takes its time."""
    running = _start(tmp_path, "stubborn")
    wait_until(lambda: stack.running_addresses(tmp_path) is not None)
    running.terminate()
    assert running.stdout is not None
    for line in running.stdout:
        if "once more" in line:
            break
    running.terminate()
    output, _ = running.communicate(timeout=8)
    assert running.returncode == 0
    assert "killed by SIGKILL" in output


def test_fails_when_a_service_dies(tmp_path: pathlib.Path) -> None:
    """The exit code says so, and the output says what the service said last."""
    running = _start(tmp_path, "die")
    output, _ = running.communicate(timeout=30)
    assert running.returncode == up.EXIT_FAILED
    assert "inference ended (exit code 3)" in output
    assert "the disk is on fire" in output


def test_refuses_a_second_one(tmp_path: pathlib.Path, wait_until: WaitUntil) -> None:
    """A second stack on the folder is told of the first and leaves it running."""
    running = _start(tmp_path)
    wait_until(lambda: stack.running_addresses(tmp_path) is not None)
    second = _start(tmp_path)
    output, _ = second.communicate(timeout=30)
    assert second.returncode == up.EXIT_FAILED
    assert f"already runs on {tmp_path} (process {running.pid})" in output
    assert stack.running_addresses(tmp_path) is not None
    running.terminate()
    running.communicate(timeout=30)
    assert running.returncode == 0


def test_refuses_an_unknown_service(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong name is an exit code and a list of the right ones."""
    assert command.main(["up", "rooter", "--directory", str(tmp_path)]) == up.EXIT_FAILED
    assert "no service is called 'rooter'; there are registry" in capsys.readouterr().out


def test_runs_the_stores_alone(tmp_path: pathlib.Path, wait_until: WaitUntil) -> None:
    """The variables of the services are there once both are ready, for this user's eyes alone."""
    options = ["--directory", str(tmp_path), f"--postgres-port={ports.free_port()}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "setpoint_devstack", "stores", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    file = tmp_path / up.STORES_FILE
    wait_until(lambda: file.exists() or running.poll() is not None)
    assert file.stat().st_mode & 0o077 == 0
    shell = (
        f"set -a && . '{file}' && echo $SETPOINT_ROUTER_DATABASE_URL $SETPOINT_FEATURE_VALKEY_URL"
    )
    found = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("postgresql://setpoint_router:")
    assert " redis://" in found.stdout
    running.terminate()
    output, _ = running.communicate(timeout=30)
    assert running.returncode == 0, output
    assert not file.exists()
