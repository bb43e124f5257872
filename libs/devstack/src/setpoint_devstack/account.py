"""Which user PostgreSQL runs as: it refuses to run as root.

An ordinary user simply runs it. Root runs it as `nobody`, which exists everywhere, so no
user has to be created.
"""

import os
import pathlib
import pwd
import stat

from setpoint_devstack import errors, process

USER = "nobody"


def _open_to_others(path: pathlib.Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def unprivileged(*needed: pathlib.Path) -> process.Account | None:
    """Returns the account for a server that must not be root; None if we are not root.

    Args:
        needed: existing folders the server has to reach.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        raise errors.DevstackError(
            f"PostgreSQL does not run as root and the user {USER} is missing"
        ) from None
    closed = not all(_open_to_others(path.resolve()) for path in needed)
    return process.Account(user=entry.pw_uid, group=entry.pw_gid, keep_search=closed)
