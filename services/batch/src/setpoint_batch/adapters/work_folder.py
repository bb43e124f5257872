"""The folder of artifacts on this machine; nothing in it is needed for good."""

from __future__ import annotations

import contextlib
from pathlib import Path

ARTIFACTS = "artifacts"


class WorkFolder:
    """Implements `ports.Leftovers`."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._artifacts = folder / ARTIFACTS

    def remove_unused(self, since_seconds: float) -> int:
        """Remove what nobody has used since a time, in seconds UTC; say how many files that were."""
        removed = 0
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._artifacts.iterdir()):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < since_seconds:
                        path.unlink()
                        removed += 1
        return removed
