"""Artifacts and manifests on disk. Nothing read from here is believed without its digest."""

import contextlib
import logging
import os
import pathlib
import tempfile

from setpoint_artifacts import digest as digests
from setpoint_artifacts import refusal

_LOGGER = logging.getLogger(__name__)


class ArtifactCache:
    """A folder of artifacts by digest, and of manifests by version; every method blocks.

    A failing disk makes loads slower, not impossible: what cannot be written is only not kept.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        """Use a folder; it is made when something is written."""
        self._artifacts = pathlib.Path(directory) / "artifacts"
        self._manifests = pathlib.Path(directory) / "manifests"
        self._max_bytes = max_bytes

    def artifact(self, digest: str, size: int) -> bytes | None:
        """Return the bytes of a digest, or None; damaged bytes are removed."""
        path = self._artifacts / digest
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            # Of the very bytes that are returned: the file may change a moment later.
            digests.verify(data, digest, size)
        except refusal.RefusedError as error:
            _LOGGER.warning("removing the damaged cache file of %s: %s", digest, error.message)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def put_artifact(self, digest: str, data: bytes) -> None:
        """Keep verified bytes, and remove what is unused for longest beyond the limit."""
        self._put(self._artifacts / digest, data)
        self._prune(digest)

    def manifest(self, model: str, version: int) -> bytes | None:
        """Return a manifest as it was kept, or None."""
        try:
            return (self._manifests / model / str(version)).read_bytes()
        except OSError:
            return None

    def put_manifest(self, model: str, version: int, content: bytes) -> None:
        """Keep a manifest."""
        self._put(self._manifests / model / str(version), content)

    def _put(self, path: pathlib.Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                try:
                    file.write(data)
                    file.close()
                    pathlib.Path(file.name).replace(path)
                except BaseException:
                    pathlib.Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            _LOGGER.warning("cannot keep %s in the cache: %s", path.name, error)

    def _prune(self, newest: str) -> None:
        with contextlib.suppress(OSError):
            found = [(path, path.stat()) for path in self._artifacts.iterdir()]
            total = sum(stat.st_size for _, stat in found)
            for path, stat in sorted(found, key=lambda item: item[1].st_mtime):
                if total <= self._max_bytes:
                    return
                if path.name != newest:
                    path.unlink(missing_ok=True)
                    total -= stat.st_size
