"""The folder of segments, which may be a bucket.

A file appears under its name all at once: on a local disk it is written beside its place, synced and
renamed; object stores show a file only when it is complete.
"""

import contextlib
import os
import pathlib
import uuid
from typing import Final

import fsspec
import fsspec.implementations.local

from setpoint_runtime import errors

PART_SUFFIX: Final = ".part"
_MICROSECONDS: Final = 1_000_000


class SegmentFolder:
    """Keeps files by their path in the folder; all calls block."""

    def __init__(self, url: str, store_id: str) -> None:
        """Opens a folder by path or URL; nothing is made yet.

        Args:
            url: The folder; several histories may share it.
            store_id: Name of this history, whose files lie in a folder of its own.
        """
        self._files, root = fsspec.core.url_to_fs(url)
        self._top = root
        self._root = f"{root.rstrip('/')}/{store_id}"
        self._is_local = isinstance(self._files, fsspec.implementations.local.LocalFileSystem)

    def write(self, path: str, data: bytes) -> None:
        """Stores a file, for good once this returns.

        Raises:
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE; nothing appears under the path.
        """
        try:
            if self._is_local:
                self._write_local(pathlib.Path(self._root) / path, data)
            else:
                self._files.pipe_file(f"{self._root}/{path}", data)
        except OSError as error:
            raise self._unavailable("written to", error) from error

    def _write_local(self, final: pathlib.Path, data: bytes) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f"{final.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.rename(part, final)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def rename(self, part: pathlib.Path, final: pathlib.Path) -> None:
        """Gives a complete file its name, and makes that survive a power cut."""
        part.replace(final)
        descriptor = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes | None:
        """Returns the bytes of a file, None when the folder is there and the file is not.

        Raises:
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
        """
        try:
            return bytes(self._files.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError as error:
            if self._exists():
                return None
            raise self._unavailable("read", error) from error
        except OSError as error:
            raise self._unavailable("read", error) from error

    def _exists(self) -> bool:
        try:
            return bool(self._files.exists(self._root))
        except OSError as error:
            raise self._unavailable("read", error) from error

    def modified(self) -> dict[str, int]:
        """Returns when each file was last changed, in microseconds, unfinished ones included.

        Raises:
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
        """
        try:
            # What another process did is not in a listing that was kept.
            self._files.invalidate_cache()
            found = {}
            for name in self._files.find(self._root):
                # One that is gone by now, or has got its final name, is not the end of the others.
                with contextlib.suppress(FileNotFoundError):
                    moment = self._files.modified(name).timestamp()
                    found[name[len(self._root) + 1 :]] = int(moment * _MICROSECONDS)
            found.pop("", None)
            return found
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unavailable("listed", error) from error

    def remove(self, path: str) -> None:
        """Removes a file, if it is there.

        Raises:
            UnavailableError: SEGMENT_FOLDER_UNAVAILABLE.
        """
        try:
            self._files.rm_file(f"{self._root}/{path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unavailable("cleaned", error) from error

    def _unavailable(self, what: str, error: OSError) -> errors.UnavailableError:
        return errors.UnavailableError(
            errors.Reason.SEGMENT_FOLDER_UNAVAILABLE,
            f"the folder of segments {self._top} cannot be {what}: "
            f"{error.strerror or type(error).__name__}",
            metadata={"folder": self._top},
            retry_after_seconds=1.0,
        )
