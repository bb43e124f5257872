"""Many definitions at once: first what would happen, then all of it or nothing."""

import functools

from setpoint_feature import ports
from setpoint_feature.domain import catalog, changes, checks
from setpoint_feature.service import snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors


class Planner:
    """Plans and applies definitions, and keeps changes from live models."""

    def __init__(
        self,
        store: ports.DefinitionStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        live: ports.LiveModels | None,
    ) -> None:
        """Uses a store for writing; without `live` there is no registry, and no model lives."""
        self._store = store
        self._known = known
        self._clock = clock
        self._live = live

    async def plan(self, wanted: changes.Wanted) -> tuple[int, list[changes.Planned]]:
        """Returns what applying definitions would do, and the revision of all definitions that this holds for.

        Raises:
            SetpointError: Definitions are wrong; see `changes.plan`.
        """
        await self._known.refresh()
        known = self._known.catalog
        planned = changes.plan(known, wanted, self._clock.now_us())
        return known.revision, await self._judged(known, planned)

    async def apply(
        self,
        wish: ports.Wish,
        wanted: changes.Wanted,
        revision: int,
        *,
        actor: str,
        reason: str,
        force: bool,
    ) -> tuple[ports.Applied, bool]:
        """Applies definitions as planned at a revision; returns what was done, and whether the call is a replay.

        Raises:
            AbortedError: ETAG_MISMATCH, when the definitions are at another revision.
            FailedPreconditionError: IN_USE, when live models would be harmed and nobody forces it.
            UnavailableError: Whether they would be harmed cannot be known, and nobody forces it.
            SetpointError: Definitions are wrong; see `changes.plan`.
        """
        _check_people(actor, reason, force=force)
        now = self._clock.now_us()
        consequences: list[changes.Planned] = []
        judged_at = None
        if not await self._store.is_answered(wish):
            await self._known.refresh()
            known = self._known.catalog
            # Another revision is refused by the store, whatever the plan for this one is.
            if known.revision == revision:
                judged_at = revision
                consequences = await self._judged(known, changes.plan(known, wanted, now))
            error = None if force else changes.refusal(consequences)
            if error is not None:
                raise error
        told = {(each.change.kind, each.change.name): each for each in consequences}

        def plan_again(stored: catalog.Catalog) -> list[changes.Planned]:
            # The same revision, hence the same plan; what it does to others was asked before, unless the caller
            # named a revision that there was not yet.
            if judged_at != revision:
                raise errors.AbortedError(
                    errors.Reason.ETAG_MISMATCH,
                    f"the definitions have come to revision {revision} only now; plan again",
                    metadata={"planned": str(revision), "current": str(revision)},
                )
            found = changes.plan(stored.with_functions(self._known.catalog.functions), wanted, now)
            return [told.get((each.change.kind, each.change.name), each) for each in found]

        overridden = force and changes.refusal(consequences) is not None
        applied = ports.Applied(revision, actor, reason, overridden, now, ())
        stored, replayed = await self._store.apply(wish, applied, plan_again)
        await self._known.refresh()
        return stored, replayed

    async def allow(self, wish: ports.Wish, wanted: changes.Wanted) -> None:
        """Refuses a single registration that would harm live models.

        Raises:
            SetpointError: As `apply` without force.
        """
        if await self._store.is_answered(wish):
            return
        await self._known.refresh()
        known = self._known.catalog
        try:
            planned = changes.plan(known, wanted, self._clock.now_us())
        except errors.SetpointError:
            # What is wrong is told by the registration itself, in its own words.
            return
        if changes.left(known, planned):
            error = changes.refusal(await self._judged(known, planned))
            if error is not None:
                raise error

    async def applied(self, before: int, limit: int) -> list[ports.Applied]:
        """Returns what was applied below a revision, newest first."""
        return await self._store.applied(before, limit)

    async def _judged(
        self, known: catalog.Catalog, planned: list[changes.Planned]
    ) -> list[changes.Planned]:
        """Returns a plan with what follows for others; the registry is asked where something may."""
        judge = functools.partial(changes.judged, known, planned)
        is_moved = any(
            each.change.action in (changes.Action.NEW_VERSION, changes.Action.RESTORE)
            for each in planned
        )
        if self._live is None or not is_moved:
            return judge(())
        try:
            return judge(await self._live.uses())
        except errors.SetpointError:
            return judge(None)


def _check_people(actor: str, reason: str, *, force: bool) -> None:
    for field, text in (("actor", actor), ("reason", reason)):
        if len(text) > checks.MAX_DESCRIPTION:
            rule = f"must have at most {checks.MAX_DESCRIPTION} characters"
            raise errors.invalid(field, text, rule, errors.Reason.TOO_LARGE)
    if force and not reason.strip():
        raise errors.invalid(
            "reason", reason, "must say why when forced", errors.Reason.MISSING_FIELD
        )
