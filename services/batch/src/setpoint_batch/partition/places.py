"""Files by URL, through fsspec; local ones directly, which is quicker and can be moved at once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from setpoint_batch.partition import failures
from setpoint_runtime import errors

BLOCK_BYTES = 8 * 1024 * 1024
LOCAL = "file://"


def is_local(url: str) -> bool:
    """Says whether a URL names a file of this machine."""
    return url.startswith(LOCAL)


def local_path(url: str) -> Path:
    """Returns the path that a local URL names."""
    return Path(url.removeprefix(LOCAL))


def file_system(url: str) -> tuple[Any, str]:
    """Returns who has a URL, and its path there. Raises InvalidArgumentError."""
    try:
        with failures.reading(url):
            system, path = fsspec.core.url_to_fs(url)
    except (ImportError, TypeError) as error:
        raise failures.invalid_input(url, f"no way to get there: {error}") from error
    return system, str(path)


def check_links(url: str, around: Mapping[str, Any]) -> None:
    """Refuses a local place that lies elsewhere than its name says, outside of what jobs may use.

    Raises:
        PermissionDeniedError: URL_REFUSED.
    """
    if not is_local(url):
        return
    real = os.path.realpath(local_path(url))
    allowed = [each for each in around.get("url_prefixes", (LOCAL + "/",)) if is_local(each)]
    for prefix in allowed:
        folder = os.path.realpath(local_path(prefix))
        if os.path.commonpath([real, folder]) == folder:
            return
    raise errors.PermissionDeniedError(
        errors.Reason.URL_REFUSED,
        f"{url}: is or goes through a symbolic link that leads out of what this service may use",
        metadata={"file": url},
    )


def expand(url: str, endings: tuple[str, ...]) -> list[str]:
    """Returns the files that a URL stands for, by name: itself, those in a folder, or of a pattern.

    Raises:
        NotFoundError: INPUT_NOT_FOUND, if there is none.
    """
    system, path = file_system(url)
    with failures.reading(url):
        if "*" in path:
            found = sorted(system.glob(path))
        elif system.isdir(path):
            found = sorted(each for each in system.ls(path, detail=False) if each.endswith(endings))
        else:
            found = [path] if system.exists(path) else []
        # Hidden files belong to somebody's work in progress.
        files = [each for each in found if posixpath.basename(each)[:1] not in (".", "_")]
        named = [LOCAL + each if is_local(url) else system.unstrip_protocol(each) for each in files]
    if not named:
        raise failures.not_found(url)
    return named


def stamp(url: str) -> str:
    """Returns what changes when a file does: its size, and time or tag."""
    if is_local(url):
        with failures.reading(url):
            found = local_path(url).stat()
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"
    system, path = file_system(url)
    with failures.reading(url):
        return str(system.ukey(path))


def open_input(url: str) -> BinaryIO:
    """Opens a file for reading."""
    with failures.reading(url):
        if is_local(url):
            return local_path(url).open("rb")
        system, path = file_system(url)
        opened: BinaryIO = system.open(path, "rb")
        return opened


def blocks(url: str) -> Iterator[bytes]:
    """Yields a file's bytes in large pieces."""
    with open_input(url) as file:
        while True:
            with failures.reading(url):
                block = file.read(BLOCK_BYTES)
            if not block:
                return
            yield block


def sha256(url: str) -> str:
    """Returns the digest of a file."""
    digest = hashlib.sha256()
    for block in blocks(url):
        digest.update(block)
    return digest.hexdigest()


def exists(url: str) -> bool:
    """Says whether there is a file or folder."""
    with failures.reading(url):
        if is_local(url):
            return local_path(url).exists()
        system, path = file_system(url)
        return bool(system.exists(path))


def read(url: str) -> bytes | None:
    """Returns the bytes of a small file, or None."""
    if not exists(url):
        return None
    with open_input(url) as file, failures.reading(url):
        return file.read()


def names(url: str) -> list[str]:
    """Returns what lies in a folder; nothing where there is none."""
    if not exists(url):
        return []
    system, path = file_system(url)
    with failures.reading(url):
        found = system.ls(path, detail=False)
    return sorted(posixpath.basename(each.rstrip("/")) for each in found)


def make_folder(url: str) -> None:
    """Makes a folder and those above it."""
    system, path = file_system(url)
    with failures.writing(url):
        system.makedirs(path, exist_ok=True)


def remove(url: str) -> None:
    """Removes a file or folder with all that is in it, if it is there."""
    with failures.writing(url):
        if is_local(url):
            path = local_path(url)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        system, path_there = file_system(url)
        if system.exists(path_there):
            system.rm(path_there, recursive=True)


def move(source: str, target: str) -> None:
    """Moves a file or folder; at once where both are local."""
    with failures.writing(target):
        if is_local(source):
            local_path(source).rename(local_path(target))
            sync(local_path(target).parent)
            return
        system, path = file_system(source)
        system.mv(path, file_system(target)[1], recursive=True)


def sync(folder: Path) -> None:
    """Makes what was renamed in a folder outlive a loss of power."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def written(url: str) -> Iterator[Hashing]:
    """Writes a file that is whole, and on disk, or not there.

    Two processes that write the same file do not mix: each has one of its own until it is whole.
    """
    with failures.writing(url):
        if not is_local(url):
            system, path = file_system(url)
            with system.open(path, "wb") as file:
                yield Hashing(file)
            return
        whole = local_path(url)
        partial = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}")
        try:
            with partial.open("xb") as file:
                yield Hashing(file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(whole)
            sync(whole.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


class Hashing:
    """A file that is written once from its beginning, with the digest of what was written."""

    def __init__(self, file: Any) -> None:
        """Write to a file, which somebody else closes."""
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Say how much has been written."""
        return self.size

    def flush(self) -> None:
        """Do nothing: what counts is synced when the file is whole."""

    def close(self) -> None:
        """Do nothing: the one who opened the file closes it."""
        self.closed = True

    def writable(self) -> bool:
        """Say that this can be written."""
        return True

    def readable(self) -> bool:
        """Say that this cannot be read."""
        return False

    def seekable(self) -> bool:
        """Say that writing goes on at the end alone."""
        return False

    @property
    def sha256(self) -> str:
        """The digest of what has been written."""
        return self._digest.hexdigest()


class Digested(io.RawIOBase):
    """A file that is read once from its beginning, with the digest of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        """Read from a file, which somebody else closes."""
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._file.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    def finish(self) -> None:
        """Read what is left."""
        while self.read(BLOCK_BYTES):
            pass

    @property
    def sha256(self) -> str:
        """The digest of what has been read."""
        return self._digest.hexdigest()
