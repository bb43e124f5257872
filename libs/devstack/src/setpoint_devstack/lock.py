"""One stack per folder, also when the one before was killed.

Two advisory locks of the kernel, which no crash can leave behind. `lock` belongs to the process
that runs the stack. `children.lock` is inherited by the guards: as long as one of them is still
ending its process, a new stack waits, instead of meeting ports and data that are in use.
"""

import asyncio
import fcntl
import os
import pathlib
import time

from setpoint_devstack import errors

LOCK = "lock"
CHILDREN_LOCK = "children.lock"
CHILDREN_SECONDS = 60.0
POLL_SECONDS = 0.05


def _open(path: pathlib.Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(folder: pathlib.Path) -> bool:
    """Says whether a live process runs a stack on the folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """Holds a stack's folder.

    Args:
        folder: the stack's folder, which exists.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._own: int | None = None
        self._children: int | None = None

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that guards keep open."""
        return () if self._children is None else (self._children,)

    async def acquire(self, timeout_seconds: float = CHILDREN_SECONDS) -> None:
        """Takes the folder.

        Raises:
            AlreadyRunningError: if another process holds it.
            DevstackError: if processes of a killed stack do not end in time.
        """
        own = _open(self._folder / LOCK)
        if not _try(own):
            holder = os.pread(own, 32, 0).decode(errors="replace").strip()
            os.close(own)
            raise errors.AlreadyRunningError(
                f"a stack already runs on {self._folder} (process {holder or 'unknown'}); "
                "stop it first or choose another folder"
            )
        os.ftruncate(own, 0)
        os.pwrite(own, f"{os.getpid()}\n".encode(), 0)
        self._own = own
        try:
            await self._acquire_children(timeout_seconds)
        except BaseException:
            self.release()
            raise

    async def _acquire_children(self, timeout_seconds: float) -> None:
        self._children = _open(self._folder / CHILDREN_LOCK)
        deadline = time.monotonic() + timeout_seconds
        while not _try(self._children):
            if time.monotonic() > deadline:
                raise errors.DevstackError(
                    f"processes of an earlier stack on {self._folder} do not end"
                )
            await asyncio.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Gives the folder back; doing so twice is fine."""
        for descriptor in (self._children, self._own):
            if descriptor is not None:
                os.close(descriptor)
        self._own = self._children = None
