"""The last good routes in a file, so that a router starts and serves while the database is away."""

import logging
from collections.abc import Sequence
from pathlib import Path

from setpoint_router.convert import stored
from setpoint_router.domain.route import Route

_LOGGER = logging.getLogger(__name__)


class RouteFile:
    """One file with all current revisions."""

    def __init__(self, path: Path) -> None:
        """Use a file, which need not exist."""
        self._path = path

    def read(self) -> list[Route] | None:
        """Return the routes, None when there is no file or it cannot be trusted."""
        try:
            return stored.routes_from_snapshot(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            _LOGGER.exception("the last good routes in %s cannot be used", self._path)
            return None

    def write(self, routes: Sequence[Route]) -> None:
        """Replace the file; readers see the old or the new one.

        Raises:
            OSError: The disk refuses.
        """
        scratch = self._path.with_name(self._path.name + ".new")
        scratch.write_bytes(stored.snapshot_bytes(routes))
        scratch.replace(self._path)
