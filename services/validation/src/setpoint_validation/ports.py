"""What validation needs from outside: a store of suites, rules in force, and runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from setpoint_columns import Columns
from setpoint_validation.domain.run import Run
from setpoint_validation.domain.suite import Snapshot, Suite

Piece = Callable[[], Columns]
"""Decodes a piece of a table; called in a thread, because checking megabytes takes its time."""


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a mutating call safe to repeat."""

    request_id: str
    fingerprint: bytes


class RuleSource(Protocol):
    """The rules that routers shall apply."""

    async def get_revision(self) -> int:
        """Return what changes with them."""

    async def get_snapshot(self) -> Snapshot:
        """Return all of them."""


class SuiteStore(RuleSource, Protocol):
    """Suites, every version of them.

    Methods that take a `Request` do their work once per request id, and say whether this call was a repetition.
    """

    async def put_suite(self, request: Request, suite: Suite) -> tuple[Suite, bool]:
        """Make a suite the latest of its name. Raises what the checks in `domain.suite` raise."""

    async def get_suite(self, name: str, version: str) -> Suite:
        """Return the latest version, if the suite is not deleted, or any by its version. Raises NotFoundError."""

    async def get_live_suite(self, name: str, version: str) -> Suite:
        """Return the latest or another version, if the suite is not deleted. Raises NotFoundError."""

    async def list_suites(self, after: str, limit: int) -> tuple[list[Suite], bool]:
        """Return the latest versions by name, those after one, and whether there are more."""

    async def delete_suite(self, request: Request, name: str) -> bool:
        """Delete a suite and say whether this was a repetition. Raises NotFoundError."""


class RunStore(Protocol):
    """Judged tables."""

    async def is_known(self, request_id: str) -> bool:
        """Say whether a request with this id was answered before."""

    async def find_run(self, request: Request) -> Run | None:
        """Return the run that the request made before, if it did. Raises AlreadyExistsError."""

    async def add_run(self, request: Request, run: Run) -> tuple[Run, bool]:
        """Store a run once per request; return the stored one and whether it was there before."""

    async def get_run(self, run_id: str) -> Run:
        """Return a run. Raises NotFoundError."""

    async def list_runs(
        self, suite: str, before: int | None, limit: int
    ) -> tuple[list[Run], int | None]:
        """Return runs, newest first, and where the next page begins if there is one."""
