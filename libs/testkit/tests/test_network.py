import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_testkit import network

# A documentation address: nothing answers there, and nothing is asked.
ELSEWHERE = ("192.0.2.1", 9)


async def test_refuses_other_machines() -> None:
    """No kind of Python socket reaches beyond this machine."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        pytest.raises(network.NetworkBlockedError, match=r"192\.0\.2\.1"),
    ):
        stream.connect(ELSEWHERE)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(network.NetworkBlockedError),
    ):
        datagrams.sendto(b"x", ELSEWHERE)
    with pytest.raises(network.NetworkBlockedError):
        await asyncio.open_connection(*ELSEWHERE)


async def test_lets_loopback_pass() -> None:
    """This machine is reached by name, by either protocol, and by file."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 1).close()
        socket.create_connection(("localhost", server.getsockname()[1]), 1).close()
    first, second = socket.socketpair()
    first.close()
    second.close()
    assert network.is_local(socket.AF_UNIX, "/run/socket")
    assert network.is_local(socket.AF_INET6, ("::1", 1, 0, 0))


def test_can_be_switched_off() -> None:
    """A guard that is off refuses nothing."""
    guard = network.NetworkGuard()
    guard.enable()
    guard.disable()
    assert not guard.active


@given(address=st.ip_addresses())
def test_knows_loopback_addresses(address: object) -> None:
    """Exactly the loopback addresses are local."""
    family = socket.AF_INET if "." in str(address) else socket.AF_INET6
    assert network.is_local(family, (str(address), 1)) == getattr(address, "is_loopback")  # noqa: B009
