"""Copies of answered predictions for versions that answer nobody.

A copy begins when its caller has been answered, so nothing that a shadow does can delay or fail
that. Each shadow has a queue of its own with one call at a time, in small pieces between which the
loop turns. Copies are the first to go: while the router has other things to do, or a shadow cannot
keep up, they are dropped and counted.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Columns
from setpoint_router import ports
from setpoint_router.domain import identity, table, values
from setpoint_router.domain.degradation import OF_INPUTS
from setpoint_router.domain.plan import Plan, ServingRoute, ShadowPlan
from setpoint_router.domain.route import AssignmentReason, Field
from setpoint_router.domain.work import Work
from setpoint_router.service.coalescer import Bounds, Coalescer
from setpoint_router.service.stages import Stages, VersionUnavailable, inference_error
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

_LOGGER = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""For everything behind the router that one piece needs."""

STOP_SECONDS = 0.5
"""How long a router that stops waits for its shadows."""

LOADED = "LOADED"
QUEUE_FULL = "QUEUE_FULL"
FAILED = "FAILED"
STOPPED = "STOPPED"
"""Why copies are dropped."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Copy:
    """Some rows of an answered work, for one shadow."""

    work: Work
    at: Rows
    slots: npt.NDArray[np.int32]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.at)


class Shadows:
    """Asks shadows when there is time."""

    def __init__(
        self,
        *,
        stages: Stages,
        codec: ports.Codec,
        observer: ports.ShadowObserver,
        clock: clocks.Clock,
        bounds: Bounds,
        is_loaded: Callable[[], bool],
    ) -> None:
        """Prepare the shadows.

        Args:
            stages: What happens to a work; it counts apart from what callers are answered.
            codec: Reads requests again for versions that need other inputs.
            observer: Counts.
            clock: Time.
            bounds: How much the queue of each shadow carries.
            is_loaded: Says whether the router has other things to do.
        """
        self._stages = stages
        self._codec = codec
        self._observer = observer
        self._clock = clock
        self._bounds = bounds
        self._is_loaded = is_loaded
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Plan, Coalescer[Copy]] = {}
        self._is_closed = False

    def offer(self, work: Work) -> None:
        """Take note of a work whose callers have just been answered; their replies leave first."""
        self._loop.call_soon(self._choose, work)

    def purge(self, current: Iterable[ServingRoute]) -> None:
        """Forget the queues of shadows that no route has any more."""
        used = {each.plan for route in current for plan in route.plans for each in plan.shadows}
        for plan in [each for each in self._lanes if each not in used]:
            if self._lanes[plan].is_idle:
                del self._lanes[plan]

    async def drain(self) -> None:
        """Wait until the shadows have answered what was offered."""
        # What was offered in this turn is chosen in the next one.
        await asyncio.sleep(0)
        for lane in list(self._lanes.values()):
            await lane.drain()

    async def close(self) -> None:
        """Take no more, wait a moment for what is on its way, and drop the rest."""
        self._is_closed = True
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.drain()
        except TimeoutError:
            for plan, lane in list(self._lanes.items()):
                dropped = await lane.cancel()
                self._observer.dropped(plan, dropped, STOPPED)

    def _choose(self, work: Work) -> None:
        for shadow in work.plan.shadows:
            at, slots = shadow.chosen(work.keys)
            if work.errors:
                # A prediction without an answer has nothing to compare with.
                at = at[~np.isin(at, list(work.errors))]
            if len(at):
                self._submit(shadow, Copy(work, at, slots[at]))

    def _submit(self, shadow: ShadowPlan, copy: Copy) -> None:
        plan = shadow.plan
        if reason := self._obstacle():
            self._observer.dropped(plan, copy.rows, reason)
            return
        lane = self._lanes.get(plan)
        if lane is None:
            lane = Coalescer(functools.partial(self._run, plan), self._bounds)
            self._lanes[plan] = lane
        step = self._bounds.rows
        for start in range(0, copy.rows, step):
            at, slots = copy.at[start : start + step], copy.slots[start : start + step]
            if lane.is_full or not _submitted(lane, Copy(*_alone(copy.work, at), slots)):
                self._observer.dropped(plan, len(at), QUEUE_FULL)

    def _obstacle(self) -> str:
        if self._is_closed:
            return STOPPED
        return LOADED if self._is_loaded() else ""

    async def _run(self, plan: Plan, copies: list[Copy]) -> None:
        for at, copy in enumerate(copies):
            if reason := self._obstacle():
                self._observer.dropped(plan, copy.rows, reason)
                continue
            try:
                await self._answer(plan, copy)
            except asyncio.CancelledError:
                self._observer.dropped(plan, sum(each.rows for each in copies[at:]), STOPPED)
                raise
            except Exception:
                _LOGGER.exception("a shadow's %d copies failed", copy.rows)
                self._observer.dropped(plan, copy.rows, FAILED)

    async def _answer(self, plan: Plan, copy: Copy) -> None:
        """Take one piece through the stages; its answers are records and nothing else."""
        work = self._work(plan, copy)
        if _sees_the_same(copy.work, plan):
            self._share(work, copy)
        else:
            await self._fill(work, copy)
        try:
            await self._stages.run(work)
        except VersionUnavailable as gone:
            work.fail_rest(inference_error(gone.error))
        await self._stages.finish(work)

    def _work(self, plan: Plan, copy: Copy) -> Work:
        of, at, rows = copy.work, copy.at.tolist(), copy.rows
        now_us = self._clock.now_us()
        made = Work(plan, rows, is_given=of.is_given)
        made.prediction_ids = identity.prediction_ids(rows, now_us)
        made.primary_ids = [of.prediction_ids[row] for row in at]
        made.keys = [of.keys[row] for row in at]
        made.slots = copy.slots
        made.reasons = np.full(rows, AssignmentReason.SHADOW)
        made.event_times = [int(of.event_times[row]) for row in at]
        made.arrival_times = [now_us] * rows
        made.callers = [of.callers[row] for row in at]
        made.deadline = time.monotonic() + CALL_SECONDS
        made.started_us = made.prepared_us = now_us
        return made

    def _share(self, work: Work, copy: Copy) -> None:
        """Let the shadow see what the version that answered saw."""
        of = copy.work
        is_whole = copy.rows == of.rows
        seen = of if is_whole else of.take(copy.at.tolist())
        work.entities, work.inputs = seen.entities, seen.inputs
        work.statuses, work.value_times = seen.statuses, seen.value_times
        if is_whole:
            work.encoded_inputs = of.encoded_inputs
        work.common = tuple([each for each in seen.common if each.kind in OF_INPUTS])
        for row, found in seen.degradations.items():
            work.degradations[row] = [each for each in found if each.kind in OF_INPUTS]

    async def _fill(self, work: Work, copy: Copy) -> None:
        """Read the requests again, and fetch the features that the shadow needs."""
        version = work.plan.version
        bad: table.RowErrors = {}
        if work.is_given:
            inputs = self._read(
                copy, version.inputs, "inputs", self._codec.given_row, work.plan, bad
            )
            self._stages.take_given(work, inputs)
        elif version.feature_set is None:
            rule = f"must not be given, since version {version.version} has no feature set"
            work.fail_rest(errors.invalid("entities", "", rule, errors.Reason.UNKNOWN_FIELD))
            return
        else:
            read, plan = self._read, work.plan
            work.entities = read(
                copy, version.key_columns, "entities", self._codec.entity_row, plan, bad
            )
            requested = read(
                copy, version.request_fields, "inputs", self._codec.requested_row, plan, bad
            )
            fetched = await self._stages.fetch(
                version.feature_set,
                values.with_sent(work.entities, requested, version.sent_request_fields),
                work.event_times,
                work.deadline,
                None,
            )
            self._stages.take_features(work, fetched, requested, None)
        for row, error in bad.items():
            work.fail(row, error)
        self._stages.check(work)

    def _read(
        self,
        copy: Copy,
        fields: Sequence[Field],
        path: str,
        reader: Callable[[Any, Plan], Sequence[Any]],
        plan: Plan,
        bad: table.RowErrors,
    ) -> Columns:
        """Return what the requests hold for some fields; rows that lack any are bad, and null."""
        jobs, sent = copy.work.jobs, copy.work.sent
        if jobs is None and sent is not None:
            return _fitted(sent.take(copy.at), fields, bad)
        rows: list[Sequence[Any]] = []
        for at, row in enumerate(copy.at.tolist()):
            try:
                rows.append(reader((jobs or ())[row].source, plan))
            except errors.InvalidArgumentError as error:
                bad.setdefault(at, error)
                rows.append([None] * len(fields))
        columns, strange = values.tabulate(fields, rows, path)
        for at, misfit in strange:
            bad.setdefault(at, misfit)
        return columns


def _alone(work: Work, at: Rows) -> tuple[Work, Rows]:
    """Return some rows of a work without the others, which a queue would keep in memory."""
    if len(at) == work.rows:
        return work, at
    return work.take(at.tolist()), np.arange(len(at))


def _submitted(lane: Coalescer[Copy], piece: Copy) -> bool:
    try:
        lane.submit(piece)
    except errors.ResourceExhaustedError:
        return False
    return True


def _fitted(sent: Columns, fields: Sequence[Field], bad: table.RowErrors) -> Columns:
    try:
        return table.fitted(sent, fields, may_be_null=True, bad=bad)
    except errors.InvalidArgumentError as error:
        # A column is absent or of another type: that is so for every row.
        for row in range(sent.rows):
            bad.setdefault(row, error)
        return Columns(sent.rows, [values.null_column(each, sent.rows) for each in fields])


def _sees_the_same(work: Work, plan: Plan) -> bool:
    """Say whether a version can be asked with the inputs of a work as they are."""
    if not work.is_given:
        return work.plan.feature_set == plan.feature_set
    held = work.plan.input_types
    return all(held.get(each.name) is each.dtype for each in plan.version.inputs)
