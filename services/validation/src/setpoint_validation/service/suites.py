"""Suites: put, read, list, delete."""

from collections.abc import Sequence

import setpoint_rules as rules
from setpoint_runtime import clock as clocks
from setpoint_runtime import names
from setpoint_validation import ports
from setpoint_validation.domain import suite as suites
from setpoint_validation.service.feed import RuleFeed


class Suites:
    """Keeps suites and lets their watchers know."""

    def __init__(self, store: ports.SuiteStore, feed: RuleFeed, clock: clocks.Clock) -> None:
        """Connect the parts."""
        self._store = store
        self._feed = feed
        self._clock = clock

    async def put(
        self,
        request: ports.Request,
        name: str,
        listed: Sequence[rules.Rule],
        feature_set: str,
        description: str,
    ) -> tuple[suites.Suite, bool]:
        """Store a suite; the flag says that the request was seen before.

        Raises:
            InvalidArgumentError: A field or a rule is wrong.
            AlreadyExistsError: NAME_TAKEN, for a rule's id that another suite of the feature set has.
            FailedPreconditionError: TOO_LARGE, for all that would be pushed.
        """
        made = suites.make(name, listed, feature_set, description, self._clock.now_us())
        stored = await self._store.put_suite(request, made)
        self._feed.poke()
        return stored

    async def get(self, name: str, version: str) -> suites.Suite:
        """Return the latest version of a suite, or the one asked for, also of a deleted one."""
        names.check_name("name", name)
        if version and not suites.is_version(version):
            raise suites.not_found(name, version)
        return await self._store.get_suite(name, version)

    async def list(self, after: str, limit: int) -> tuple[list[suites.Suite], bool]:
        """Return the latest versions by name, those after one, and whether there are more."""
        return await self._store.list_suites(after, limit)

    async def delete(self, request: ports.Request, name: str) -> bool:
        """Delete a suite and say whether the request was seen before; its runs stay."""
        names.check_name("name", name)
        replayed = await self._store.delete_suite(request, name)
        self._feed.poke()
        return replayed
