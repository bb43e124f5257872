"""All replicas together: who is there, which versions they hold, and who takes a call."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from setpoint_router.adapters.replicas import discovery
from setpoint_router.adapters.replicas.discovery import Addresses, Target
from setpoint_router.adapters.replicas.replica import Replica, State, VersionKey
from setpoint_router.domain import outliers, placement
from setpoint_router.domain.latency import Latencies
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, tasks

PULSE_SECONDS = 0.25
"""A replica that has calls in flight and ends none for so long is asked whether it lives."""

RETIRE_SECONDS = 30.0
"""Longest time that a replica which has left is kept for what still needs it."""

FIRST_LOOK_SECONDS = 2.0
"""The start waits so long for the first answer of DNS, and not at all for replicas."""

LOAD_AGAIN_MOST = 32
"""A version that cannot be loaded ahead of its calls is tried again after the first pause, after
twice of it, and so on, up to so many times of it."""

RENEWALS = 3
"""In the time of a lease, so that one that gets lost ends none."""

MOST_RENEWED = 1_000
"""Versions of one renewal."""

_RANKS = {State.SERVING: 0, State.UNKNOWN: 1, State.NOT_SERVING: 2}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet behaves."""

    copies: int = 3
    """Replicas that hold a version."""
    load_factor: float = 1.25
    """Most rows in flight on a replica, as a multiple of the mean of those that hold the version."""
    stall_seconds: float = 0.5
    """A replica that does not say in this time that it lives has stalled."""
    resolve_seconds: float = 5.0
    """Between two looks at DNS."""
    load_again_seconds: float = 2.0
    """First pause before a version that could not be loaded ahead of its calls is tried again."""
    lease_seconds: float = 300.0
    """How long a replica keeps a version after this router has last needed it."""
    ejection: outliers.Policy = field(default_factory=outliers.Policy)


class Placement:
    """One version: who answers for it."""

    __slots__ = ("candidates", "epoch", "key", "latencies", "others")

    def __init__(self, key: VersionKey) -> None:
        """Begin without anybody."""
        self.key = key
        self.epoch = -1
        self.candidates: list[Replica] = []
        """Those who share the calls, the preferred one first."""
        self.others: list[Replica] = []
        """Those to turn to when the candidates fail, best first."""
        self.latencies = Latencies()

    def choose(self, rows: int, factor: float) -> Replica:
        """Return the replica for so many rows."""
        candidates = self.candidates
        if len(candidates) == 1:
            return candidates[0]
        return candidates[placement.choose([each.rows for each in candidates], rows, factor)]

    def another(self, tried: Collection[Replica], rows: int, factor: float) -> Replica | None:
        """Return a replica that was not tried yet, None when all of any use were."""
        left = [each for each in self.candidates if each not in tried]
        if left:
            return left[placement.choose([each.rows for each in left], rows, factor)]
        return next((each for each in self.others if each not in tried), None)


class Fleet:
    """Keeps the replicas, for the length of an `async with` block."""

    def __init__(
        self,
        addresses: Addresses,
        options: FleetOptions,
        clock: clocks.Clock,
        in_force: Callable[[], Iterable[VersionKey]],
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """Prepare a fleet; enter it to begin.

        Args:
            addresses: Where replicas are.
            options: How it behaves.
            clock: Time.
            in_force: Returns the versions that calls may be for; they are loaded ahead of those.
            on_failure: Told of a task that died.
        """
        self.options = options
        self.replicas: dict[str, Replica] = {}
        self._addresses = addresses
        self._clock = clock
        self._owner = tasks.TaskOwner(on_failure)
        self._in_force = in_force
        self._outliers = outliers.Outliers(options.ejection, clock.monotonic)
        self._placements: dict[VersionKey, Placement] = {}
        self._epoch = 0
        self._tasks: dict[Replica, list[asyncio.Task[None]]] = {}
        self._wanted = asyncio.Event()
        self._retiring: set[Replica] = set()
        self._asked: dict[Replica, asyncio.Task[None]] = {}

    # Membership.

    async def __aenter__(self) -> Self:
        """Find the replicas and begin to follow them."""
        found: tuple[Target, ...] | None = self._addresses.fixed
        if self._addresses.names:
            try:
                async with asyncio.timeout(FIRST_LOOK_SECONDS):
                    found = await discovery.resolved(self._addresses)
            except TimeoutError:
                found = self._addresses.fixed
            _ = self._owner.start("replicas", self._look())
        self.follow(found or ())
        _ = self._owner.start("pulse of replicas", self._pulse())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what follows them, and close all channels."""
        await self._owner.close()
        await asyncio.gather(*(each.close() for each in self.replicas.values()))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.options.resolve_seconds)
            found = await discovery.resolved(self._addresses)
            if found is not None:
                self.follow(found)

    def follow(self, targets: Iterable[Target]) -> None:
        """Make the fleet what discovery says."""
        named = {each.address: each for each in targets}
        for address, target in named.items():
            known = self.replicas.get(address)
            if known is None:
                self._join(target)
            elif known.is_leaving:
                known.is_leaving = False
                self._change(known)
        for replica in list(self.replicas.values()):
            if replica.name not in named and not replica.is_leaving:
                self._leave(replica)

    def _join(self, target: Target) -> None:
        made = Replica(target, self._outliers, self._change)
        self.replicas[made.name] = made
        self._tasks[made] = [
            self._owner.start(f"watch inference at {made.name}", made.watch()),
            self._owner.start(f"load ahead at {made.name}", self._load_ahead(made)),
            self._owner.start(f"renew leases at {made.name}", self._renew(made)),
        ]
        self._change(made)

    def _leave(self, replica: Replica) -> None:
        _LOGGER.info("inference at %s is named no more", replica.name)
        replica.is_leaving = True
        self._change(replica)
        if replica not in self._retiring:
            self._retiring.add(replica)
            _ = self._owner.start(f"retire inference at {replica.name}", self._retire(replica))

    async def _retire(self, replica: Replica) -> None:
        """Let a replica go when its calls have ended and others hold what it held."""
        deadline = self._clock.monotonic() + RETIRE_SECONDS
        while self._is_needed(replica) and self._clock.monotonic() < deadline:
            await asyncio.sleep(PULSE_SECONDS)
            if not replica.is_leaving:
                break
        self._retiring.discard(replica)
        if not replica.is_leaving:
            # It was named again.
            return
        del self.replicas[replica.name]
        self._outliers.leave(replica.standing)
        self._change(replica)
        for task in self._tasks.pop(replica):
            task.cancel()
        await replica.close()

    def _is_needed(self, replica: Replica) -> bool:
        if replica.calls:
            return True
        good = [each for each in self.replicas.values() if each.is_good]
        needed = replica.loaded.intersection(self._in_force())
        return any(not any(key in each.loaded for each in good) for key in needed)

    def _change(self, _: Replica) -> None:
        """Have everything placed anew, and let those load who now should."""
        self._epoch += 1
        self._wake()

    # Placement.

    def placement(self, key: VersionKey) -> Placement:
        """Return who answers for a version.

        Raises:
            UnavailableError: No replica is known.
        """
        found = self._placements.get(key)
        if found is None:
            found = self._placements[key] = Placement(key)
        if found.epoch != self._epoch:
            self._place(found)
        if not found.candidates:
            raise errors.UnavailableError(
                errors.Reason.UNAVAILABLE, "no replica of inference is known"
            )
        return found

    def holders(self, key: VersionKey) -> list[Replica]:
        """Return the replicas that should hold a version: of the good ones, else of any."""
        ranked = self._ranked(key)
        good = [each for each in ranked if each.is_good]
        return (good or ranked)[: self.options.copies]

    def is_ready(self, key: VersionKey) -> bool:
        """Say whether a good replica is known to hold a version."""
        return any(each.is_good and key in each.loaded for each in self.replicas.values())

    def note_loaded(self, key: VersionKey, replica: Replica) -> None:
        """Know that a replica holds a version."""
        if replica.state is State.SERVING and key not in replica.loaded:
            replica.loaded.add(key)
            if key in self._placements:
                self._placements[key].epoch = -1

    def follow_routes(self) -> None:
        """Take note that other versions may be in force."""
        current = set(self._in_force())
        for key in self._placements.keys() - current:
            del self._placements[key]
        for each in self.replicas.values():
            each.loaded &= current
        self._wake()

    def _place(self, found: Placement) -> None:
        """Choose who shares the calls of a version.

        Those who hold it come before those who would have to load it first, so calls move only
        after the version has: a new holder is loaded ahead, and until then the last ones go on,
        also those that are leaving.
        """
        ranked, key = self._ranked(found.key), found.key
        good = [each for each in ranked if each.is_good]
        ready = [each for each in good if key in each.loaded]
        staying = [each for each in ranked if each.is_leaving and key in each.loaded]
        by_hope = sorted(ranked, key=_hope)
        found.candidates = (ready or staying or good or by_hope[:1])[: self.options.copies]
        found.others = [each for each in by_hope if each not in found.candidates]
        found.epoch = self._epoch

    def _ranked(self, key: VersionKey) -> list[Replica]:
        names = placement.ranked(f"{key[0]}/{key[1]}", self.replicas)
        return [self.replicas[name] for name in names]

    # Loading ahead.

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, asyncio.Event()
        wanted.set()

    async def _load_ahead(self, replica: Replica) -> None:
        """Keep a replica loaded with the versions that it should hold, one after the other."""
        failed: set[VersionKey] = set()
        first = pause = self.options.load_again_seconds
        while True:
            wanted = self._wanted
            failing = set()
            for key in self._missing(replica):
                if not replica.is_good:
                    break
                if (error := await self._load(replica, key)) is not None:
                    failing.add(key)
                    if key not in failed:
                        _LOGGER.warning(
                            "version %d of %s is not loaded at %s: %s",
                            *(key[1], key[0], replica.name, error),
                        )
            pause = min(pause * 2, first * LOAD_AGAIN_MOST) if failed & failing else first
            failed = failing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if failing else None):
                    await wanted.wait()

    def _missing(self, replica: Replica) -> list[VersionKey]:
        if not replica.is_good:
            return []
        return [key for key in self._held_by(replica) if key not in replica.loaded]

    def _held_by(self, replica: Replica) -> list[VersionKey]:
        """Return the versions in force that a replica should hold."""
        is_few = sum(each.is_good for each in self.replicas.values()) <= self.options.copies
        current = dict.fromkeys(self._in_force())
        return [key for key in current if is_few or replica in self.holders(key)]

    async def _load(self, replica: Replica, key: VersionKey) -> errors.SetpointError | None:
        """Load a version, and return why that could not be."""
        try:
            await replica.load(key, self.options.lease_seconds)
        except errors.SetpointError as error:
            return error
        self.note_loaded(key, replica)
        return None

    # Leases: a replica keeps what somebody needs, and lets go of it some time after the last one did.

    async def _renew(self, replica: Replica) -> None:
        """Keep what a replica should hold in its memory, calls or no calls, for ever."""
        while True:
            await asyncio.sleep(self.options.lease_seconds / RENEWALS)
            if not replica.is_good:
                continue
            held = self._held_by(replica)
            self._forget_surplus(replica, held)
            needed = [key for key in held if key in replica.loaded]
            for at in range(0, len(needed), MOST_RENEWED):
                await self._renew_some(replica, needed[at : at + MOST_RENEWED])

    async def _renew_some(self, replica: Replica, keys: list[VersionKey]) -> None:
        try:
            lacking = await replica.renew(keys, self.options.lease_seconds)
        except errors.UnimplementedError:
            # One of before there were leases keeps everything.
            return
        except errors.SetpointError as error:
            _LOGGER.warning("the leases at %s are not renewed: %s", replica.name, error)
            return
        if lacking:
            _LOGGER.warning("inference at %s has dropped %d versions", replica.name, len(lacking))
            replica.loaded -= lacking
            self._change(replica)

    def _forget_surplus(self, replica: Replica, held: list[VersionKey]) -> None:
        """Give no more calls to a replica for versions that others hold, since it drops them."""
        surplus = {
            key
            for key in replica.loaded.difference(held)
            if all(key in each.loaded for each in self.holders(key))
        }
        if surplus:
            replica.loaded -= surplus
            self._change(replica)

    # Replicas that fail.

    def note_failure(self, replica: Replica) -> None:
        """Count a call that ended without a word from the replica."""
        replica.failed += 1
        if self._outliers.fail(replica.standing):
            self._eject(replica, "it failed again and again")

    def _eject(self, replica: Replica, why: str) -> None:
        replica.ejected += 1
        seconds = replica.standing.until - self._clock.monotonic()
        _LOGGER.warning("inference at %s is left out for %.3g s: %s", replica.name, seconds, why)
        self._change(replica)

    async def _pulse(self) -> None:
        """Find replicas that have stalled, and those that may come back.

        A slow model is no sign of a stalled replica: the loop that serves says that it lives while
        the model runs. So nobody's calls are given up before the replica itself was asked.
        """
        ended: dict[Replica, int] = {}
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            if len(self.replicas) < 2:
                continue
            for replica in self.replicas.values():
                before = ended.get(replica)
                ended[replica] = now = replica.answered + replica.failed
                is_still = before == now and bool(replica.calls) and not replica.standing.is_out
                if (is_still or self._outliers.is_due(replica.standing)) and (
                    replica not in self._asked
                ):
                    task = self._owner.start(f"pulse of {replica.name}", self._ask(replica))
                    self._asked[replica] = task
            ended = {each: count for each, count in ended.items() if each.name in self.replicas}

    async def _ask(self, replica: Replica) -> None:
        """Ask a replica whether it lives, and draw the conclusion."""
        try:
            is_alive = await replica.is_alive(self.options.stall_seconds)
        finally:
            del self._asked[replica]
        standing = replica.standing
        if standing.is_out:
            if is_alive and self._outliers.is_due(standing):
                self._outliers.readmit(standing)
                _LOGGER.info("inference at %s is let in again", replica.name)
                self._change(replica)
        elif not is_alive and self._outliers.eject(standing):
            self._eject(replica, "it does not answer")
            replica.abandon()


def _hope(replica: Replica) -> tuple[int, bool, bool]:
    return _RANKS[replica.state], replica.standing.is_out, replica.is_leaving
