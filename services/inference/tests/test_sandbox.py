"""What a process in the sandbox cannot do, tried by one."""

import json
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from setpoint_inference.adapters import sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

SCRIPT = """
import json, os, socket, sys
from setpoint_inference.adapters import sandbox
held = sandbox.enter(1 << 30, has_left_network=sandbox.leave_network())

def tried(work):
    try:
        work()
    except BaseException as error:
        return type(error).__name__
    return "done"

def connect():
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5).close()

secret = sys.argv[1]
print(json.dumps({
    "held": held,
    "read": tried(lambda: open(secret).read()),
    "write": tried(lambda: open(secret + ".new", "w").write("x")),
    "list": tried(lambda: os.listdir(os.path.dirname(secret))),
    "connect": tried(connect),
    "execute": tried(lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"])),
    "memory": tried(lambda: bytearray(2 << 30)),
    "import": tried(lambda: __import__("decimal")),
    "compute": tried(lambda: sum(range(10))),
}))
"""


def test_process_is_confined(tmp_path: Path) -> None:
    """It reads and writes no file of ours, reaches no server, starts no program, and has its memory
    bounded; what Python needs still works.
    """
    secret = tmp_path / "secret"
    secret.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        finished = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, str(secret), str(port)],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
        )
    found = json.loads(finished.stdout)
    held = sandbox.Held(*found.pop("held"))
    if not held.is_whole:
        pytest.skip(f"this kernel cannot isolate: {held}")
    assert found.pop("connect") in ("PermissionError", "OSError")
    assert found == {
        "read": "PermissionError",
        "write": "PermissionError",
        "list": "PermissionError",
        "execute": "PermissionError",
        "memory": "MemoryError",
        "import": "done",
        "compute": "done",
    }
    assert not secret.with_suffix(".new").exists()


CALLS = """
import ctypes, errno, json, os, platform, resource, signal, socket, sys, threading
from setpoint_inference.adapters import seccomp

def tried(work):
    try:
        work()
    except BaseException as error:
        return type(error).__name__
    return "done"

stop, seen = threading.Event(), []
other = threading.Thread(target=lambda: (stop.wait(), seen.append(tried(socket.socket))))
other.start()
library = ctypes.CDLL(None, use_errno=True)
held = seccomp.refuse_calls(library)
stop.set()
other.join()

def call(number, *given):
    ctypes.set_errno(0)
    library.syscall(number, *(given or (0, 0, 0)))
    return "refused" if ctypes.get_errno() == errno.EPERM else "done"

x86 = platform.machine() == "x86_64"
mine, parent = os.getpid(), os.getppid()
tkill, queue, queue_thread, send = (200, 129, 297, 424) if x86 else (130, 138, 240, 424)
limit = resource.RLIMIT_NOFILE

print(json.dumps({
    "held": held,
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)),
    "udp": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "unix": tried(lambda: socket.socket(socket.AF_UNIX)),
    "other thread": seen[0],
    "execute": tried(lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"])),
    "io_uring_setup": call(425),
    "x32": call(0x40000000 + 39),
    "kill": tried(lambda: os.kill(parent, 0)),
    "kill group": tried(lambda: os.kill(0, 0)),
    "kill all": tried(lambda: os.kill(-1, 0)),
    "kill a wide number": call(62 if x86 else 129, ctypes.c_long(parent | mine << 32), 0),
    "tkill": call(tkill, parent, 0),
    "tgkill": call(234 if x86 else 131, parent, parent, 0),
    "rt_sigqueueinfo": call(queue, parent, 0, 0),
    "rt_tgsigqueueinfo": call(queue_thread, parent, parent, 0, 0),
    "pidfd_send_signal": call(send, 0, 0, 0, 0),
    "limits": tried(lambda: resource.prlimit(parent, limit)),
    "kill itself": tried(lambda: os.kill(mine, 0)),
    "signal a thread": tried(lambda: signal.pthread_kill(threading.get_ident(), 0)),
    "own limits": tried(lambda: resource.setrlimit(limit, resource.getrlimit(limit))),
    "own limits by number": tried(lambda: resource.prlimit(mine, limit)),
    "files": tried(lambda: open(sys.executable, "rb").read(10)),
    "pipes": tried(os.pipe),
    "import": tried(lambda: __import__("decimal")),
}))
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter is made for these"
)
def test_filter_holds_without_namespaces() -> None:
    """Where a container gives no namespaces the filter alone keeps every thread from every network, and
    from signals to any other process and its limits; what a process does to itself goes on.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        finished = subprocess.run(
            [sys.executable, "-I", "-c", CALLS, str(port)],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
        )
    found = json.loads(finished.stdout)
    if not found.pop("held"):
        pytest.skip("this kernel filters no calls")
    assert found == {
        "connect": "PermissionError",
        "udp": "PermissionError",
        "unix": "PermissionError",
        "other thread": "PermissionError",
        "execute": "PermissionError",
        "io_uring_setup": "refused",
        "x32": "refused",
        "kill": "PermissionError",
        "kill group": "PermissionError",
        "kill all": "PermissionError",
        "kill a wide number": "refused",
        "tkill": "refused",
        "tgkill": "refused",
        "rt_sigqueueinfo": "refused",
        "rt_tgsigqueueinfo": "refused",
        "pidfd_send_signal": "refused",
        "limits": "PermissionError",
        "kill itself": "done",
        "signal a thread": "done",
        "own limits": "done",
        "own limits by number": "done",
        "files": "done",
        "pipes": "done",
        "import": "done",
    }


ABORT = """
import ctypes, os
from setpoint_inference.adapters import seccomp

seccomp.refuse_calls(ctypes.CDLL(None, use_errno=True))
os.abort()
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter is made for these"
)
def test_filter_lets_a_process_abort() -> None:
    """A library that gives up still ends its own process, by the signal that tells so."""
    ended = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            ABORT,
        ],
        check=False,
        capture_output=True,
        cwd="/",
    )
    assert ended.returncode == -signal.SIGABRT
