"""What a process in the sandbox cannot do, tried by one."""

import json
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
