import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from setpoint_artifacts import testing
from setpoint_registry import domain
from setpoint_registry.adapters import artifact_folder
from setpoint_registry.testing import sha256
from setpoint_runtime import errors

ONNX = testing.linear()
DIGEST = sha256(ONNX)


def folder_at(path: Path | str) -> artifact_folder.ArtifactFolder:
    folder = artifact_folder.ArtifactFolder(str(path))
    folder.prepare()
    return folder


async def store(folder: artifact_folder.ArtifactFolder, data: bytes = ONNX) -> None:
    async with folder.receive() as incoming:
        await incoming.write(data)
        await incoming.keep()


def files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()]


async def test_receive_unkept(tmp_path: Path) -> None:
    """What was not kept is gone, also after an error."""
    folder = folder_at(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        async with folder.receive() as incoming:
            await incoming.write(ONNX)
            assert not await folder.exists(DIGEST)
            raise RuntimeError("stop")
    assert files(tmp_path) == []


async def test_receive_inspects(tmp_path: Path) -> None:
    """The signature is read from the bytes that were written."""
    async with folder_at(tmp_path).receive() as incoming:
        await incoming.write(ONNX[:50])
        await incoming.write(ONNX[50:])
        assert (await incoming.inspect(domain.ArtifactFormat.ONNX)).inputs[0].name == "X"
        assert await incoming.digest() == DIGEST


@pytest.mark.parametrize("url", ["memory://bucket/prefix", None])
async def test_keep_and_read(url: str | None, tmp_path: Path) -> None:
    """Bytes come back from a local folder and from any other file system of fsspec."""
    folder = folder_at(url or tmp_path)
    await store(folder)
    assert await folder.exists(DIGEST)
    assert b"".join([piece async for piece in folder.read(DIGEST)]) == ONNX


async def test_read_missing(tmp_path: Path) -> None:
    """Bytes that were lost are not found."""
    with pytest.raises(errors.NotFoundError):
        await anext(folder_at(tmp_path).read(DIGEST))


async def test_cancel_while_writing(tmp_path: Path) -> None:
    """A cancelled upload ends its write and leaves nothing."""
    folder = folder_at(tmp_path)

    async def upload() -> None:
        async with folder.receive() as incoming:
            while True:
                await incoming.write(bytes(1_000_000))

    task = asyncio.create_task(upload())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == []


def test_prepare_keeps_running_uploads(tmp_path: Path) -> None:
    """Another replica's unfinished upload survives the start of this one."""
    folder = folder_at(tmp_path)
    incoming = artifact_folder.IncomingFile(folder, tmp_path / "incoming" / "running")
    folder_at(tmp_path)
    assert len(files(tmp_path)) == 1
    incoming.close()


def test_kill_while_uploading(tmp_path: Path) -> None:
    """Killing the process in an upload leaves no artifact, and the next start cleans up."""
    program = textwrap.dedent("""
        import asyncio, sys
        from setpoint_registry.adapters import artifact_folder

        async def main():
            folder = artifact_folder.ArtifactFolder(sys.argv[1])
            folder.prepare()
            async with folder.receive() as incoming:
                await incoming.write(b"half an artifact" * 1000)
                print("writing", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
    left = files(tmp_path)
    assert [path.parent.name for path in left] == ["incoming"]
    folder_at(tmp_path)
    assert files(tmp_path) == []
