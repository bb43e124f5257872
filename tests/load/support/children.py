"""Processes beside the stack: what is compared with it, and what takes its traces."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from setpoint_devstack import ports, process

ROOT = Path(__file__).resolve().parents[3]
READY_SECONDS = 60.0
POLL_SECONDS = 0.05
QUIET_SHARE = 0.1
"""Of one core, by all watched processes together: what idle services need."""
QUIET_WINDOW_SECONDS = 0.5


@contextlib.asynccontextmanager
async def running(
    name: str,
    arguments: Sequence[str],
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    python: Path | None = None,
) -> AsyncIterator[process.GuardedProcess]:
    """Runs a Python program until the end of the block; it listens when the block begins.

    Args:
        name: What messages call it.
        arguments: What follows `python`.
        port: Where it is going to listen.
        folder: Where its log goes.
        environment: Variables beside this process's own.
        python: The interpreter, when it is not this one.

    Raises:
        RuntimeError: It ended or did not listen in time; with its last lines.
    """
    child = process.GuardedProcess(
        name,
        [str(python or sys.executable), *arguments],
        folder / f"{name}.log",
        environment={**os.environ, **(environment or {})},
        folder=ROOT,
        grace_seconds=2.0,
    )
    child.start()
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not await _listens(port):
            if not child.running or time.monotonic() > deadline:
                lines = "\n".join(process.tail(child.log))
                raise RuntimeError(f"{name} does not listen; its last lines:\n{lines}")
            await asyncio.sleep(POLL_SECONDS)
        yield child
    finally:
        await child.stop()


async def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, (ports.LOOPBACK, port))
        except OSError:
            return False
    return True


async def settle(pids: Iterable[int], limit_seconds: float) -> bool:
    """Waits until processes, and theirs, do next to nothing; says whether that came in time.

    What was asked of a stack goes on a while after its answers: records are shipped and stored,
    spans are sent. The next measurement is not to pay for that.
    """
    watched = [psutil.Process(pid) for pid in pids]
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        before = _busy_seconds(watched)
        await asyncio.sleep(QUIET_WINDOW_SECONDS)
        if _busy_seconds(watched) - before <= QUIET_SHARE * QUIET_WINDOW_SECONDS:
            return True
    return False


def _busy_seconds(watched: Sequence[psutil.Process]) -> float:
    """Returns the processor time that processes and their living descendants have used."""
    total = 0.0
    for parent in watched:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = each.cpu_times()
                    total += times.user + times.system
    return total
