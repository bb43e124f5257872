"""The guard alone, as another program would start it."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from setpoint_devstack import guard, process

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
FAMILY_SCRIPT = """
import subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleeper, start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""
FAMILY = [sys.executable, "-c", FAMILY_SCRIPT]
BOUND_SECONDS = 15.0

Start = Callable[..., process.GuardedProcess]
WaitUntil = Callable[[Callable[[], bool]], None]
IsGone = Callable[[int], bool]


@pytest.fixture
def start(tmp_path: pathlib.Path, wait_until: WaitUntil) -> Iterator[Start]:
    """Starts commands under a guard and stops what the test leaves running."""
    started: list[process.GuardedProcess] = []

    def begin(command: list[str], **options: object) -> process.GuardedProcess:
        child = process.GuardedProcess("child", command, tmp_path / "child.log", **options)  # type: ignore[arg-type]
        child.start()
        started.append(child)
        wait_until(lambda: child.log.read_text() != "" or not child.running)
        return child

    yield begin
    for child in started:
        child.stop_blocking()


def test_runs_a_command_to_its_end(start: Start) -> None:
    """The exit code and the output of the command come back."""
    child = start([sys.executable, "-c", "print('hello'); raise SystemExit(7)"])
    assert child.join_blocking(BOUND_SECONDS) == 7
    assert process.tail(child.log) == ["hello"]


def test_says_which_signal_ended_the_command(start: Start) -> None:
    """A command ended by a signal is told from one that ended by itself."""
    child = start(SLEEP)
    child.signal(signal.SIGKILL)
    code = child.join_blocking(BOUND_SECONDS)
    assert process.describe_exit(code) == "killed by SIGKILL"
    assert process.describe_exit(3) == "exit code 3"


def test_names_a_command_that_does_not_exist(start: Start) -> None:
    """A program that cannot be started is an exit code and a line in the log."""
    child = start(["/nowhere/at-all"])
    assert child.join_blocking(BOUND_SECONDS) == guard.EXIT_NOT_STARTED
    assert "/nowhere/at-all" in "\n".join(process.tail(child.log))


def test_stops_politely(start: Start, is_gone: IsGone) -> None:
    """A stop sends the polite signal first."""
    child = start(SLEEP)
    pid = child.pid
    assert child.stop_blocking() == process.SIGNAL_BASE + signal.SIGTERM
    assert is_gone(pid)


def test_kills_what_ignores_the_polite_signal(start: Start) -> None:
    """After the grace there is no more asking."""
    child = start(STUBBORN, grace_seconds=0.3)
    begin = time.monotonic()
    assert child.stop_blocking() == process.SIGNAL_BASE + signal.SIGKILL
    assert 0.3 <= time.monotonic() - begin < BOUND_SECONDS


def test_ends_what_the_command_leaves_behind(
    start: Start, wait_until: WaitUntil, is_gone: IsGone
) -> None:
    """A grandchild in a session of its own ends as well, since the guard adopts it."""
    child = start(FAMILY)
    wait_until(lambda: "child" in child.log.read_text())
    grandchild = int(child.log.read_text().split()[1])
    child.signal(signal.SIGKILL)
    child.join_blocking(BOUND_SECONDS)
    wait_until(lambda: is_gone(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_ends_with_its_guard(start: Start, wait_until: WaitUntil, is_gone: IsGone) -> None:
    """When the guard itself is killed, the kernel ends the command."""
    child = start(SLEEP)
    pid = child.pid
    os.kill(child.guard_pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))


def test_ends_when_the_starter_closes_its_pipe(tmp_path: pathlib.Path, is_gone: IsGone) -> None:
    """The end of the pipe alone, as on systems without Linux's help, is enough."""
    read, write = os.pipe()
    status_read, status_write = os.pipe()
    starter = subprocess.Popen(
        [
            *(sys.executable, "-m", "setpoint_devstack.guard"),
            *(f"--parent-fd={read}", f"--status-fd={status_write}", "--", *SLEEP),
        ],
        pass_fds=(read, status_write),
        stdout=subprocess.DEVNULL,
    )
    os.close(read)
    os.close(status_write)
    with os.fdopen(status_read) as status:
        pid = int(status.readline())
    os.close(write)
    assert starter.wait(BOUND_SECONDS) == process.SIGNAL_BASE + signal.SIGTERM
    assert is_gone(pid)


@pytest.mark.parametrize("command", [SLEEP, STUBBORN, FAMILY])
def test_ends_after_kill_of_the_starter(
    tmp_path: pathlib.Path, command: list[str], wait_until: WaitUntil, is_gone: IsGone
) -> None:
    """However the starter ends, no process of its command is left."""
    script = (
        "import pathlib, sys, time\n"
        "from setpoint_devstack import process\n"
        f"child = process.GuardedProcess('child', {command!r}, pathlib.Path(sys.argv[1]), grace_seconds=0.5)\n"
        "child.start()\n"
        "print(child.pid, child.guard_pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "child.log"
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pids = [int(pid) for pid in starter.stdout.readline().split()]
    wait_until(lambda: log.exists() and log.read_text() != "")
    pids += [child.pid for child in psutil.Process(pids[0]).children(recursive=True)]
    starter.kill()
    starter.communicate()
    wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_keeps_inherited_descriptors_from_the_command(start: Start, tmp_path: pathlib.Path) -> None:
    """A lock given to the guard is not open in the command."""
    with (tmp_path / "lock").open("w") as lock:
        child = start(
            [sys.executable, "-c", "import os; print(sorted(os.listdir('/dev/fd')))"],
            inherited=[lock.fileno()],
        )
        child.join_blocking(BOUND_SECONDS)
    # 0 to 2, and the one that listdir itself has open.
    assert process.tail(child.log) == ["['0', '1', '2', '3']"]
