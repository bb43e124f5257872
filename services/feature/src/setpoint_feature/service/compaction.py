"""The owned task that moves older rows into segments, merges segments, and applies retention.

A change is a file first and a transaction after: the file is complete, synced and read back before the
transaction lists it and takes away what it replaces. A crash before the commit leaves a file that nothing
refers to; one after it leaves files that are listed as replaced. Both are removed later, when no read that
began before can still want them.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from setpoint_feature import ports
from setpoint_feature.domain import plan, retention, run, segments, thinning
from setpoint_feature.service import snapshot
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)
_NEVER: Final = -(1 << 63)


@dataclass(slots=True)
class Place:
    """How much of a view lies where, as of the last look."""

    recent_rows: int = 0
    segment_rows: int = 0
    segments: int = 0
    segment_bytes: int = 0


@dataclass(slots=True)
class Counts:
    """What this process has done so far."""

    moves: int = 0
    moved_rows: int = 0
    merges: int = 0
    thinnings: int = 0
    removed_rows: int = 0
    """Rows that retention removed."""
    removed_files: int = 0
    failures: int = 0
    places: dict[str, Place] = field(default_factory=dict)
    """By view and version."""


class Compactor:
    """Keeps the history where it belongs."""

    def __init__(
        self,
        store: ports.SegmentStore,
        known: snapshot.Snapshot,
        clock: clocks.Clock,
        limits: segments.Limits,
        times: tuple[float, float],
    ) -> None:
        """Prepares; `run` does the work.

        Args:
            store: Makes and removes segments.
            known: The views and how far they reach.
            clock: Tells when files are old enough to go, and what retention reaches.
            limits: When rows move.
            times: Seconds between two looks, and how long files stay that nothing refers to.
        """
        self._store = store
        self._known = known
        self._clock = clock
        self._limits = limits
        self._poll_seconds, grace_seconds = times
        self._grace = int(grace_seconds * 1_000_000)
        self._failing = ""
        self.counts = Counts()

    async def run(self) -> None:
        """Looks again and again, for as long as the process lives."""
        while True:
            await self.tick()
            await asyncio.sleep(self._poll_seconds)

    async def tick(self) -> None:
        """Looks once; what fails stays as it was and is tried again at the next look."""
        failures: list[errors.SetpointError] = []
        try:
            async with self._store.turn() as turn:
                if turn is None:
                    return
                await self._look(turn, failures)
        except _EXPECTED as error:
            failures.append(error)
        self._tell(failures)

    async def _look(self, turn: ports.SegmentTurn, failures: list[errors.SetpointError]) -> None:
        live = await turn.live()
        views, revision = self._known.catalog.compiled_views(), self._known.catalog.revision
        # Every event of a window counts, not the greatest row alone.
        sources = {view.stream for view in views if view.blueprint is not None}
        for view in views:
            work = _Work(self._store, turn, view, live.get(view.number, []), self.counts)
            try:
                await work.move(self._known.last_sequences.get(view.number, 0), self._limits)
                await work.merge(self._limits, self._clock)
                if view.number not in sources:
                    await work.thin(self._clock.now_us(), revision)
            except _EXPECTED as error:
                # One damaged segment must not keep the other views from moving.
                failures.append(error)
            name = f"{view.view.name}@{view.view.version}"
            self.counts.places[name] = work.place(self._known.last_sequences.get(view.number, 0))
        await self._clean(turn)

    async def _clean(self, turn: ports.SegmentTurn) -> None:
        """Removes files that nobody needs any more."""
        before = self._clock.now_us() - self._grace
        for segment in await turn.retired(before):
            await self._store.remove(segment.path)
            await turn.forget(segment)
            self.counts.removed_files += 1
        # Listed before the paths are read: what is not listed by then is of nobody, as only the owner
        # of the turn writes files.
        files = await self._store.files()
        listed = await turn.paths()
        for path, modified in files.items():
            if path not in listed and modified <= before:
                _LOGGER.info("removing the file %s, which no segment refers to", path)
                await self._store.remove(path)
                self.counts.removed_files += 1

    def _tell(self, failures: Sequence[errors.SetpointError]) -> None:
        """Says what fails once, and that it is over."""
        self.counts.failures += len(failures)
        text = "; ".join(str(error) for error in failures)
        if text and text != self._failing:
            # A database that is away is told by everything else, and definitions are known in a moment; what is
            # wrong with files is told by this alone.
            level = (
                logging.WARNING
                if all(error.reason in _PASSING for error in failures)
                else logging.ERROR
            )
            _LOGGER.log(level, "history is not compacted, rows stay where they are: %s", text)
        elif self._failing and not text:
            _LOGGER.info("history is compacted again")
        self._failing = text


_PASSING: Final = (errors.Reason.DATABASE_UNAVAILABLE, errors.Reason.ETAG_MISMATCH)
_EXPECTED: Final = (errors.UnavailableError, errors.DataLossError, errors.AbortedError)


class _Work:
    """What is done about one view in one turn."""

    def __init__(
        self,
        store: ports.SegmentStore,
        turn: ports.SegmentTurn,
        view: plan.CompiledView,
        live: Sequence[segments.Segment],
        counts: Counts,
    ) -> None:
        self._store = store
        self._turn = turn
        self._view = view
        self._live = list(live)
        self._counts = counts

    async def move(self, last: int, limits: segments.Limits) -> None:
        """Moves rows out of the database as long as it is worthwhile."""
        while True:
            after = self._live[-1].last if self._live else 0
            upto = segments.move_upto(after, last, limits)
            if upto is None:
                return
            content = await self._recent(after, upto, limits.segment_bytes)
            # The rows may end before the range does, when they are large.
            upto = int(content.sequences.max())
            added = await self._store.write(self._view.number, (after + 1, upto), content, _NEVER)
            # A turn may be long, and the next rows need the room.
            del content
            await self._turn.move(added)
            self._live.append(added)
            self._counts.moves += 1
            self._counts.moved_rows += added.rows

    async def _recent(self, after: int, upto: int, most_bytes: int) -> run.Run:
        """Returns the first rows of a range, sorted; unsorted ones do not outlive this."""
        found = await self._store.recent(self._view.number, after, upto, most_bytes)
        width = self._view.layout.row_bytes
        return await asyncio.to_thread(run.Run.build, found.keys, found.rows, width)

    async def merge(self, limits: segments.Limits, clock: clocks.Clock) -> None:
        """Merges small neighbours."""
        while group := segments.to_merge(self._live, limits):
            runs = [await self._store.open(each) for each in group]
            content = await asyncio.to_thread(run.Run.merge, runs, [None] * len(runs))
            thinned = min(each.thinned for each in group)
            del runs
            await self._replace(group, content, thinned, clock.now_us(), None)
            del content
            self._counts.merges += 1

    async def thin(self, now: int, revision: int) -> None:
        """Removes rows that retention lets go, as long as definitions are at the revision that says so."""
        kept_for = self._view.view.retention
        horizon = now - kept_for
        rule = self._view.rule
        due = segments.to_thin(self._live, kept_for, now)
        if not due:
            return
        runs = [await self._store.open(each) for each in self._live]
        # What goes loses against rows that stay, so rewriting one segment changes nothing for the others.
        held = await asyncio.to_thread(thinning.holders, runs, rule, horizon)
        for segment in due:
            place = self._live.index(segment)
            content = runs[place]
            rows = await asyncio.to_thread(thinning.needed, content, held[place], rule, horizon)
            gone = len(content) - len(rows)
            if gone < max(1, segments.THINNED_SHARE * len(content)):
                self._store.release()
                await self._turn.thinned(segment, horizon)
                self._live[place] = dataclasses.replace(segment, thinned=horizon)
                continue
            kept = await asyncio.to_thread(content.take, rows)
            left = retention.Retained(horizon, self._live[-1].last, gone)
            removed = ports.Removed(left, revision)
            await self._replace((segment,), kept, horizon, now, removed)
            self._counts.thinnings += 1
            self._counts.removed_rows += gone

    async def _replace(
        self,
        old: Sequence[segments.Segment],
        content: run.Run,
        thinned: int,
        now: int,
        removed: ports.Removed | None,
    ) -> None:
        span = old[0].first, old[-1].last
        new = await self._store.write(self._view.number, span, content, thinned)
        await self._turn.replace(old, new, now, removed)
        start = self._live.index(old[0])
        self._live[start : start + len(old)] = [new]
        self._store.release(old)

    def place(self, last: int) -> Place:
        """Returns how much of the view lies where."""
        after = self._live[-1].last if self._live else 0
        return Place(
            recent_rows=last - after,
            segment_rows=sum(each.rows for each in self._live),
            segments=len(self._live),
            segment_bytes=sum(each.size for each in self._live),
        )
