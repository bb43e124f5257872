"""Artifact bytes in a folder, which may be a bucket, by their digest.

An artifact appears under its digest all at once, after every check. On a local disk an upload is
written beside its final place and renamed; elsewhere it is written to the machine's temporary
folder and sent up in one piece. A killed process leaves at most an unfinished upload, which the
next start removes: its owner's file lock is gone.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import mmap
import os
import pathlib
import tempfile
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, BinaryIO

import fsspec
import fsspec.implementations.local

from setpoint_artifacts import external, onnx_model, skops_archive
from setpoint_artifacts.signature import Signature
from setpoint_registry import domain
from setpoint_runtime import errors

PIECE_BYTES = 1024 * 1024
"""Size of a downloaded piece; the contract promises at most this."""

_INSPECTORS = {
    domain.ArtifactFormat.ONNX: onnx_model.inspect,
    domain.ArtifactFormat.SKOPS: skops_archive.inspect,
    domain.ArtifactFormat.EXTERNAL_OIP: external.inspect,
}


class ArtifactFolder:
    """Implements `ports.Artifacts`."""

    def __init__(self, url: str) -> None:
        """Open a folder by path or URL; nothing is made yet."""
        self._files, self._root = fsspec.core.url_to_fs(url)
        is_local = isinstance(self._files, fsspec.implementations.local.LocalFileSystem)
        self._local = pathlib.Path(self._root) if is_local else None
        self._incoming = (
            pathlib.Path(tempfile.gettempdir()) / "setpoint-registry"
            if self._local is None
            else self._local / "incoming"
        )

    def prepare(self) -> None:
        """Make the folder and remove what killed processes left behind; blocks."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        for path in self._incoming.iterdir():
            with contextlib.suppress(OSError), path.open("rb") as file:
                # Another replica still writes to it when the lock is taken.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextlib.asynccontextmanager
    async def receive(self) -> AsyncIterator["IncomingFile"]:
        """Return a place for an upload; what was not kept by the end is gone."""
        incoming = IncomingFile(self, self._incoming / uuid.uuid4().hex)
        try:
            yield incoming
        finally:
            # It waits for what still runs in a thread, and happens also when the task is cancelled.
            await asyncio.shield(asyncio.to_thread(incoming.close))

    async def exists(self, digest: str) -> bool:
        """Say whether bytes are stored under a digest."""
        return bool(await asyncio.to_thread(self._files.exists, self._path(digest)))

    async def read(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in pieces; the last one only if all of them have the digest."""
        found = hashlib.sha256()
        held = b""
        file = await asyncio.to_thread(self._open, digest)
        try:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                if held:
                    yield held
                await asyncio.to_thread(found.update, piece)
                held = piece
        finally:
            file.close()
        if found.hexdigest() != digest:
            raise errors.DataLossError(
                errors.Reason.DIGEST_MISMATCH,
                f"the stored bytes of {digest} are damaged; upload the artifact again",
                metadata={"digest": digest},
            )
        yield held

    def keep(self, path: pathlib.Path, digest: str) -> None:
        """Put a finished file under its digest; blocks.

        Existing bytes are replaced by the same ones, which also repairs damaged ones.
        """
        final = self._path(digest)
        if self._local is None:
            # Object stores show a file only when it is complete.
            self._files.put_file(str(path), final)
            return
        folder = pathlib.Path(final).parent
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(final)
        _sync(folder)

    def _path(self, digest: str) -> str:
        return f"{self._root}/sha256/{digest[:2]}/{digest}"

    def _open(self, digest: str) -> Any:
        try:
            return self._files.open(self._path(digest), "rb")
        except FileNotFoundError:
            raise domain.artifact_not_found(digest) from None


class IncomingFile:
    """Implements `ports.Incoming` with a file and an exclusive lock on it."""

    def __init__(self, folder: ArtifactFolder, path: pathlib.Path) -> None:
        """Make the file; blocks."""
        self._folder = folder
        self._path = path
        self._hash = hashlib.sha256()
        # A write that runs while its upload is cancelled must end before the file is closed.
        self._guard = threading.Lock()
        self._file: BinaryIO = path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        with self._guard:
            if not self._file.closed:
                self._file.write(data)
                self._hash.update(data)

    async def digest(self) -> str:
        """Return the sha256 of what was written."""
        return self._hash.hexdigest()

    async def inspect(self, format: domain.ArtifactFormat) -> Signature:
        """Check the bytes as a format."""
        return await asyncio.to_thread(self._inspect, format)

    def _inspect(self, format: domain.ArtifactFormat) -> Signature:
        with self._guard:
            self._file.flush()
            with (
                self._path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                return _INSPECTORS[format](content)

    async def keep(self) -> None:
        """Make the bytes an artifact under their digest, all at once."""
        await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        with self._guard:
            if self._file.closed:
                return
            self._file.flush()
            os.fsync(self._file.fileno())
            self._folder.keep(self._path, self._hash.hexdigest())

    def close(self) -> None:
        """Remove the file unless it was kept."""
        with self._guard:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _sync(folder: pathlib.Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
