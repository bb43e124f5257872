"""The spool: what is acknowledged is on disk, whatever happens to the process and the file."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from setpoint_router.adapters.spool import folder, frame, reader, writer
from setpoint_runtime import errors

START = folder.Position(0, 0)
END = folder.Position(2**62, 0)


@contextlib.asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[writer.Writer]:
    """Runs a writer for the length of a block."""
    options.setdefault("cap_bytes", 64 * 1024 * 1024)
    made = writer.Writer(folder.Folder(path), **options)
    made.open()
    try:
        yield made
    finally:
        await made.close()


def payloads(path: Path, damages: list[reader.Damage] | None = None) -> list[bytes]:
    """Returns everything that can be read, as the shipper reads it."""
    spool = folder.Folder(path)
    last = max(spool.segments(), default=0)
    end = folder.Position(last, spool.size(last))
    position, found = START, []
    while position < end:
        piece = reader.read(spool, position, end, 4096)
        found += [each.payload for each in piece.frames]
        if damages is not None:
            damages += piece.damages
        assert piece.next > position
        position = piece.next
    return found


async def test_append_survives_reopen(tmp_path: Path) -> None:
    """Shows that records come back in order over several lives of the process."""
    wanted = []
    for life in range(3):
        async with opened(tmp_path) as spool:
            for number in range(5):
                wanted.append(f"{life}-{number}".encode() * number)
                await spool.append(wanted[-1])
    assert payloads(tmp_path) == wanted


async def test_append_together_shares_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that records handed over while the disk is busy share one fdatasync."""
    syncs = 0
    real = os.fdatasync

    def counted(handle: int) -> None:
        nonlocal syncs
        syncs += 1
        real(handle)

    monkeypatch.setattr(os, "fdatasync", counted)
    async with opened(tmp_path, commit_seconds=0.01) as spool:
        await asyncio.gather(*(spool.append(b"x" * 100) for _ in range(500)))
    assert len(payloads(tmp_path)) == 500
    assert syncs <= 10


async def test_append_starts_new_segments(tmp_path: Path) -> None:
    """Shows that a small cap makes small segments, and that reading goes through all of them."""
    wanted = [bytes([number]) * 3_000 for number in range(20)]
    async with opened(tmp_path, cap_bytes=100_000) as spool:
        for each in wanted:
            await spool.append(each)
    assert len(folder.Folder(tmp_path).segments()) >= 3
    assert payloads(tmp_path) == wanted


async def test_append_beyond_cap_refused(tmp_path: Path) -> None:
    """Shows that the cap holds, and that freed bytes can be used again."""
    async with opened(tmp_path, cap_bytes=10_000) as spool:
        for _ in range(9):
            await spool.append(b"x" * 1_000)
        with pytest.raises(errors.ResourceExhaustedError) as caught:
            await spool.append(b"x" * 1_000)
        assert caught.value.reason is errors.Reason.SPOOL_FULL
        spool.freed(5_000)
        await spool.append(b"y")
    assert payloads(tmp_path)[-1] == b"y"


async def test_append_without_room_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows with a real limit of the kernel that a full disk refuses, leaves nothing half, and heals."""
    failures: list[str] = []
    now = 1.0
    # Neither may a pause of the machine be the writer's, nor is the time of it waited for.
    monkeypatch.setattr(
        writer, "time", types.SimpleNamespace(monotonic=lambda: now, sleep=time.sleep)
    )
    async with opened(tmp_path, on_failure=failures.append) as spool:
        await spool.append(b"before")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
        try:
            with pytest.raises(errors.ResourceExhaustedError):
                await spool.append(b"x" * 5_000)
            assert spool.is_full
            with pytest.raises(errors.ResourceExhaustedError):
                await spool.append(b"too early")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        now += writer.RETRY_SECONDS
        await spool.append(b"after")
    assert failures
    assert payloads(tmp_path) == [b"before", b"after"]


async def test_failed_sync_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Shows that after EIO the same file is never trusted again, and no record is lost or doubled."""
    real, failing = os.fdatasync, [True]

    def broken(handle: int) -> None:
        if failing.pop() if failing else False:
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    async with opened(tmp_path) as spool:
        await spool.append(b"first")
        before = len(folder.Folder(tmp_path).segments())
        failing[:] = [True]
        monkeypatch.setattr(os, "fdatasync", broken)
        await spool.append(b"second")
        await spool.append(b"third")
        assert len(folder.Folder(tmp_path).segments()) == before + 1
    assert payloads(tmp_path) == [b"first", b"second", b"third"]
    assert "going on in a new one" in caplog.text


async def test_open_twice_refused(tmp_path: Path) -> None:
    """Shows that two routers cannot share a spool."""
    async with opened(tmp_path):
        with pytest.raises(folder.InUseError):
            writer.Writer(folder.Folder(tmp_path), cap_bytes=10_000).open()


@pytest.mark.parametrize("cut", [1, 7, 23, 24, 30])
async def test_open_cuts_torn_tail(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Shows that a half written last record goes, is kept aside, and all before it stay."""
    async with opened(tmp_path) as spool:
        for number in range(3):
            await spool.append(f"record {number}".encode())
    path = folder.Folder(tmp_path).segment(1)
    path.write_bytes(path.read_bytes()[:-cut])
    async with opened(tmp_path) as spool:
        await spool.append(b"later")
    assert payloads(tmp_path) == [b"record 0", b"record 1", b"later"]
    assert "unfinished" in caplog.text
    assert list((tmp_path / "quarantine").glob("*-torn.bin"))


async def test_read_skips_damage(tmp_path: Path) -> None:
    """Shows that a flipped bit in the middle costs one record, which is shown, and no other."""
    wanted = [f"record {number} ".encode() * 50 for number in range(30)]
    async with opened(tmp_path) as spool:
        for each in wanted:
            await spool.append(each)
    path = folder.Folder(tmp_path).segment(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    damages: list[reader.Damage] = []
    found = payloads(tmp_path, damages)
    assert len(found) == 29
    assert set(found) < set(wanted)
    assert len(damages) == 1
    # A new writer leaves damage with records behind it alone.
    async with opened(tmp_path):
        pass
    assert len(payloads(tmp_path)) == 29


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    strategies.lists(strategies.binary(max_size=60), min_size=1, max_size=8),
    strategies.data(),
)
def test_read_any_flip(bodies: list[bytes], data: strategies.DataObject) -> None:
    """Shows that any flipped bit costs exactly the record it hits, wherever it is."""
    frames = [frame.head_of(number, body) + body for number, body in enumerate(bodies, 1)]
    whole = bytearray(b"".join(frames))
    at = data.draw(strategies.integers(0, len(whole) * 8 - 1))
    whole[at >> 3] ^= 1 << (at & 7)
    found, position = [], 0
    while position is not None and position < len(whole):
        parsed = frame.parse(bytes(whole), position)
        if isinstance(parsed, frame.Frame):
            found.append(parsed.sequence)
            position = parsed.end
        else:
            position = frame.find(bytes(whole), position + 1)  # type: ignore[assignment]  # or None
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    hit = next(number for number, end in enumerate(ends, 1) if (at >> 3) < end)
    assert found == [number for number in range(1, len(bodies) + 1) if number != hit]


async def test_delete_before_keeps_rest(tmp_path: Path) -> None:
    """Shows that only whole segments before a position go."""
    async with opened(tmp_path, cap_bytes=60_000) as spool:
        for number in range(10):
            await spool.append(bytes([number]) * 4_000)
    kept = folder.Folder(tmp_path)
    numbers = kept.segments()
    freed = sum(kept.delete_before(numbers[2]))
    assert kept.segments() == numbers[2:]
    assert freed > 0


def test_read_position_broken(tmp_path: Path) -> None:
    """Shows that an unreadable position means shipping everything again, not a crash."""
    kept = folder.Folder(tmp_path)
    assert kept.read_position() is None
    kept.write_position(folder.Position(3, 70))
    assert kept.read_position() == folder.Position(3, 70)
    (tmp_path / "position.json").write_text("{")
    assert kept.read_position() is None


KILLED = """
import asyncio, sys
from pathlib import Path
from setpoint_router.adapters.spool import folder, writer

async def main():
    spool = writer.Writer(folder.Folder(Path(sys.argv[1])), cap_bytes=1 << 30)
    spool.open()
    async def go(worker):
        for number in range(1_000_000):
            text = f"{worker}-{number}"
            await spool.append(text.encode())
            sys.stdout.write(text + "\\n")
            sys.stdout.flush()
    await asyncio.gather(*(go(worker) for worker in range(8)))

asyncio.run(main())
"""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that appends and says what was acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


async def test_kill_loses_nothing(tmp_path: Path, victim: "subprocess.Popen[str]") -> None:
    """Shows that after kill -9 every acknowledged record is there exactly once."""
    assert victim.stdout is not None
    acknowledged = [victim.stdout.readline().strip() for _ in range(400)]
    victim.send_signal(signal.SIGKILL)
    rest = victim.communicate()[0].splitlines()
    acknowledged += [line for line in rest[:-1] if line]
    async with opened(tmp_path) as spool:
        await spool.append(b"alive")
    found = [each.decode() for each in payloads(tmp_path)]
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    assert found[-1] == "alive"
