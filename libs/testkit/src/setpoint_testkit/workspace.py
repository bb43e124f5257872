"""A folder for one test run, removed when it ends, and also later if it ended badly."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

PREFIX = "run-"
LOCK = "lock"


def _base(root: pathlib.Path) -> pathlib.Path:
    """Returns `var/testkit` of the checkout, or a temporary folder where that cannot be made."""
    folder = root / "var" / "testkit"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return pathlib.Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else pathlib.Path(tempfile.gettempdir())


@contextlib.contextmanager
def run_folder(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a new folder that belongs to this process alone.

    Args:
        root: the checkout; the folder lies below its `var/`.
    """
    base = _base(root)
    with _alone(base):
        _remove_abandoned(base)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # Servers that run as another user must be able to enter.
        folder.chmod(0o755)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def _alone(base: pathlib.Path) -> Iterator[None]:
    """Keeps runs that start at the same moment apart: a folder that has no lock yet looks abandoned."""
    descriptor = os.open(base / f"{LOCK}-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(base: pathlib.Path) -> None:
    """Removes folders of runs that were killed: nobody holds their lock any more."""
    for lock in base.glob(f"{PREFIX}*/{LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            # In use, or of another user.
            continue
        finally:
            os.close(descriptor)
