"""Whole test runs as child processes, as several people start them on one machine."""

import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

INNER = """
import signal

import asyncpg
import redis

# A run in the background of a shell inherits that it is to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


async def test_uses_both_stores(database_url: str, valkey_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE seen (n int)")
    await connection.close()
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
        client.set("seen", 1)


async def test_waits(database_url: str) -> None:
    print("waiting", database_url, flush=True)
    import asyncio
    await asyncio.sleep(WAIT)
"""


def _start(folder: pathlib.Path, wait_seconds: float) -> subprocess.Popen[str]:
    (folder / "test_inner.py").write_text(INNER.replace("WAIT", str(wait_seconds)))
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_runs_side_by_side(tmp_path: pathlib.Path) -> None:
    """Several runs in one folder at the same time do not see each other."""
    runs = [_start(tmp_path, 1.0) for _ in range(3)]
    for run in runs:
        output, _ = run.communicate(timeout=50)
        assert run.returncode == 0, output
        assert "2 passed" in output
    left = [path for path in (tmp_path / "var" / "testkit").iterdir() if path.is_dir()]
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_leaves_no_server_behind(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    """A run that is killed or interrupted takes its servers with it."""
    run = _start(tmp_path, 600)
    assert run.stdout is not None
    for line in run.stdout:
        if "waiting" in line:
            break
    children = psutil.Process(run.pid).children(recursive=True)
    assert {"postgres", "valkey-server"} <= {child.name() for child in children}
    run.send_signal(number)
    run.communicate(timeout=30)
    deadline = time.monotonic() + 15
    while any(child.is_running() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
