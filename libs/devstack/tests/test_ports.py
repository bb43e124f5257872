import socket
import subprocess
import sys

import pytest

from setpoint_devstack import errors, ports


def test_gives_ports_that_can_be_listened_on() -> None:
    """A port is free, below the ephemeral range, and given once."""
    found = [ports.free_port() for _ in range(20)]
    assert len(set(found)) == 20
    assert all(ports.FIRST_PORT <= port <= ports.LAST_PORT for port in found)
    assert all(ports.is_free(port) for port in found)
    for port in found:
        ports.release(port)


def test_gives_way_when_a_port_is_taken() -> None:
    """A wanted port is given when it is free, else another one."""
    wanted = ports.free_port()
    ports.release(wanted)
    assert ports.prefer(wanted) == wanted
    ports.release(wanted)
    with socket.create_server(("127.0.0.1", wanted)):
        other = ports.prefer(wanted)
    assert other != wanted
    ports.release(other)


def test_keeps_processes_apart() -> None:
    """A port that another process reserved but does not use yet is not given again."""
    script = (
        "import sys\n"
        "from setpoint_devstack import ports\n"
        "print(ports.free_port(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        held = int(other.stdout.readline())
        assert ports.is_free(held)
        given = ports.prefer(held)
        other.communicate("")
    assert given != held
    ports.release(given)
    assert ports.prefer(held) == held
    ports.release(held)


def test_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without free ports is an error, not a loop."""
    monkeypatch.setattr(ports, "is_free", lambda *_: False)
    with pytest.raises(errors.DevstackError, match="no free port"):
        ports.free_port()
