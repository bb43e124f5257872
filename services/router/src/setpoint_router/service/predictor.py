"""One prediction at a time for each caller, many at a time for everything behind the router."""

import asyncio
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from setpoint_router import ports
from setpoint_router.domain import refusal, values
from setpoint_router.domain.degradation import Degradation, DegradationKind
from setpoint_router.domain.limit import RETRY_SECONDS, AdaptiveLimit, Pace
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import MAX_KEY_LENGTH, AssignmentReason, FeatureSet
from setpoint_router.domain.work import CallersOwn, Job, Trace, Work, joined
from setpoint_router.service.coalescer import Bounds, Coalescer
from setpoint_router.service.shadows import Shadows
from setpoint_router.service.shared_call import AbandonedError, SharedCall
from setpoint_router.service.stages import Fetched, Stages, VersionUnavailable, inference_error
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

_LOGGER = logging.getLogger(__name__)

MAX_REQUEST_ID_LENGTH = 128
"""Characters of a caller's own id that are recorded; ours have 36, other protocols say nothing."""

LONGEST_HOLD_SECONDS = 0.01
"""How long a call for features that is over keeps the next one from beginning."""


class Ask(Protocol):
    """What a caller asks."""

    @property
    def route(self) -> str:
        """Name of the route."""
        ...

    @property
    def assignment_key(self) -> str:
        """What the version is assigned by; may be empty."""
        ...

    @property
    def event_time(self) -> int:
        """When the question is asked; 0 means now."""
        ...

    @property
    def entities(self) -> Mapping[str, Any]:
        """Entity keys by name; empty when all inputs are given."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from."""

    caller: str
    trace: Trace | None
    deadline: float
    """In seconds of `time.monotonic`."""
    callers_own: CallersOwn | None = None
    """What was said beside the question."""

    def named(self, request_id: str) -> "Origin":
        """Return the same with the caller's own id of the request."""
        headers = () if self.callers_own is None else self.callers_own.headers
        own = CallersOwn(request_id[:MAX_REQUEST_ID_LENGTH], headers)
        return dataclasses.replace(self, callers_own=own)


class OpenWork(Work):
    """A work on its way from features to inference, and a sign for when it is over."""

    __slots__ = ("over",)

    def __init__(self, plan: Plan, rows: int, *, is_given: bool) -> None:
        super().__init__(plan, rows, is_given=is_given)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Lane:
    """The queues of one plan."""

    __slots__ = ("features", "given", "paces", "prepared")

    def __init__(
        self,
        features: "Coalescer[Job] | None",
        given: "Coalescer[Job]",
        prepared: "Coalescer[OpenWork]",
    ) -> None:
        self.features = features
        """Requests that need features; shared by all plans of one feature set."""
        self.given = given
        """Requests that bring all inputs."""
        self.prepared = prepared
        """Works that have their features."""
        self.paces = Pace(), Pace()
        """No-load latencies, with features and with all inputs given."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way here."""
        return self.given.is_idle and self.prepared.is_idle


class Predictor:
    """Answers predictions."""

    def __init__(
        self,
        *,
        routes: Callable[[str], ServingRoute],
        stages: Stages,
        shadows: Shadows,
        codec: ports.Codec,
        observer: ports.Observer,
        clock: clocks.Clock,
        bounds: Bounds,
        limit: AdaptiveLimit,
    ) -> None:
        """Prepare a predictor.

        Args:
            routes: Returns the current revision of a route by name.
            stages: What happens to a work.
            shadows: Who gets copies of what was answered.
            codec: Reads requests.
            observer: Counts.
            clock: Time.
            bounds: How much each queue carries.
            limit: Predictions on their way; further ones are turned away.
        """
        self._routes = routes
        self._stages = stages
        self._shadows = shadows
        self._codec = codec
        self._observer = observer
        self._clock = clock
        self._bounds = bounds
        self._limit = limit
        self._refusals = [refusal.overloaded(seconds) for seconds in RETRY_SECONDS]
        self._waiting = 0
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Plan, Lane] = {}
        self._feature_lanes: dict[FeatureSet, Coalescer[Job]] = {}
        self._failures: Coalescer[_Failed] = Coalescer(self._record_failures, bounds)

    def turned_away(self, beginning: int = 0) -> errors.SetpointError | None:
        """Return why a prediction would be refused whatever it asks, None when it may come.

        Made to be asked before a request is read: refusing costs as little as it can.

        Args:
            beginning: Calls that have been let in and are not on their way yet.
        """
        if self._limit.admits(self._waiting + beginning):
            return None
        self._observer.refused(errors.Reason.OVERLOADED)
        return self._refusals[self._limit.retry_step]

    def admit(self, route: ServingRoute) -> None:
        """Let in a request, all of its predictions or none.

        Raises:
            ResourceExhaustedError: There is too much to do, or no room for records.
        """
        if not self._limit.admits(self._waiting):
            self._observer.refused(errors.Reason.OVERLOADED)
            raise refusal.overloaded(RETRY_SECONDS[self._limit.retry_step])
        try:
            self._stages.admit(route.route.content.spool_full_policy)
        except errors.ResourceExhaustedError as error:
            self._observer.refused(error.reason)
            raise

    async def predict(self, ask: Ask, origin: Origin, *, is_admitted: bool = False) -> Any:
        """Answer one prediction.

        Args:
            ask: What is asked.
            origin: Where it comes from.
            is_admitted: It came with others that have been let in together.

        Raises:
            SetpointError: There is no answer; its kind and reason say why.
        """
        route = self._routes(ask.route)
        if not is_admitted:
            self.admit(route)
        job = self._job(ask, origin, route)
        self._waiting += 1
        try:
            try:
                self._begin(job)
            except errors.SetpointError as error:
                # Turned away at the door is no prediction; anything else is recorded.
                if error.reason is errors.Reason.OVERLOADED:
                    self._observer.refused(error.reason)
                    raise
                self._failures.submit(_Failed(job, error))
            return await job.future
        except asyncio.CancelledError:
            if job.call is not None:
                job.call.leave()
            raise
        finally:
            self._waiting -= 1

    @property
    def waiting(self) -> int:
        """Predictions on their way."""
        return self._waiting

    def purge(self, current: Iterable[ServingRoute]) -> None:
        """Forget the queues of plans that no route uses any more."""
        used = {plan for route in current for plan in route.plans}
        for plan in [each for each in self._lanes if each not in used]:
            if self._lanes[plan].is_idle:
                del self._lanes[plan]
        sets = {plan.feature_set for plan in used}
        for name in [each for each in self._feature_lanes if each not in sets]:
            if self._feature_lanes[name].is_idle:
                del self._feature_lanes[name]

    async def drain(self) -> None:
        """Wait until everything on its way has been recorded."""
        for lane in list(self._feature_lanes.values()):
            await lane.drain()
        for each in list(self._lanes.values()):
            await each.given.drain()
            await each.prepared.drain()
        await self._failures.drain()

    def _job(self, ask: Ask, origin: Origin, route: ServingRoute) -> Job:
        job = Job()
        job.source = ask
        job.route = route
        job.arrival_time = self._clock.now_us()
        job.arrived = self._clock.monotonic()
        job.ahead = self._waiting + 1
        job.event_time = ask.event_time or job.arrival_time
        job.prediction_id = prediction_id = ids.uuid7()
        job.is_given = is_given = not ask.entities
        key = ask.assignment_key
        if not key:
            key = prediction_id if is_given else self._codec.entity_key(ask)
        job.key = key
        job.plan, job.slot, job.reason = route.assign(key)
        job.caller = origin.caller
        job.callers_own = origin.callers_own
        job.call = None
        job.trace = origin.trace
        job.deadline = origin.deadline
        job.degradations = ()
        job.future = self._loop.create_future()
        return job

    def _begin(self, job: Job) -> None:
        """Check what a request holds by itself and queue it.

        Raises:
            SetpointError: The request is wrong, or the queue is full.
        """
        key = job.key
        if len(key) > MAX_KEY_LENGTH:
            # What is recorded of a refused request is bounded too.
            job.key = key[:MAX_KEY_LENGTH]
        if job.event_time < 0:
            raise errors.invalid("event_time", job.event_time, "must not be negative")
        plan = job.plan
        lane = self._lanes.get(plan) or self._make_lane(plan)
        if not job.is_given:
            # Named first: a key that the caller did not send may be made of what is wrong here.
            job.entity = self._codec.entity_row(job.source, plan)
        if len(key) > MAX_KEY_LENGTH:
            rule = f"must have at most {MAX_KEY_LENGTH} characters"
            raise errors.invalid("assignment_key", key, rule, errors.Reason.TOO_LARGE)
        if job.is_given:
            job.row = self._codec.given_row(job.source, plan)
            lane.given.submit(job, job.deadline)
            return
        job.row = self._codec.requested_row(job.source, plan)
        if lane.features is None:
            raise AssertionError("entities were accepted for a version without features")
        lane.features.submit(job, job.deadline - lane.prepared.wait_seconds)

    def _make_lane(self, plan: Plan) -> Lane:
        features = None
        if plan.feature_set is not None:
            features = self._feature_lanes.get(plan.feature_set)
            if features is None:
                features = Coalescer(self._fetch, self._bounds)
                self._feature_lanes[plan.feature_set] = features
        replicas = functools.partial(self._stages.replicas, plan)
        lane = Lane(
            features,
            Coalescer(self._run_given, self._bounds, replicas=replicas),
            Coalescer(self._run_prepared, self._bounds, replicas=replicas),
        )
        self._lanes[plan] = lane
        return lane

    # Batches. Each of them answers for all of its jobs, whatever happens.

    async def _fetch(self, jobs: list[Job]) -> None:
        jobs = self._still_wanted(jobs)
        if not jobs:
            return
        try:
            plan = jobs[0].plan
            entities, _ = values.tabulate(
                plan.version.key_columns, [job.entity for job in jobs], "entities"
            )
            asked = entities
            if sent := plan.version.sent_request_fields:
                # A value that does not fit fails its own row, when the row is prepared.
                requested, _ = values.tabulate(
                    plan.version.request_fields, [job.row for job in jobs], "inputs"
                )
                asked = values.with_sent(entities, requested, sent)
            deadline = max([job.deadline for job in jobs])
            sent_us = self._clock.now_us()
            fetch = self._stages.fetch(
                _feature_set(plan),
                asked,
                [job.event_time for job in jobs],
                deadline,
                _lead(jobs),
            )
            try:
                fetched = await SharedCall(jobs).run(fetch)
            except AbandonedError:
                _ = self._still_wanted(jobs)
                return
            works = _by_plan(jobs)
            for work, rows in works:
                work.started_us = sent_us
                try:
                    work.entities = entities if rows is None else entities.take(rows)
                    self._prepare(work, fetched, rows)
                except Exception as error:
                    self._fail_unexpectedly(work.plan, work.jobs or (), error)
                    work.over.set_result(None)
            # The next batch forms while this one is answered, but a slow version may not hold up
            # the others of its feature set.
            await asyncio.wait([work.over for work, _ in works], timeout=LONGEST_HOLD_SECONDS)
        except Exception as error:
            self._fail_unexpectedly(None, jobs, error)

    def _prepare(self, work: OpenWork, fetched: Fetched, rows: Any) -> None:
        """Give a work its inputs, check them, and queue it for inference."""
        jobs = work.jobs or ()
        requested, bad = values.tabulate(
            work.plan.version.request_fields, [job.row for job in jobs], "inputs"
        )
        for row, error in bad:
            work.fail(row, error)
        self._stages.take_features(work, fetched, requested, rows)
        self._stages.check(work)
        lane = self._lanes.get(work.plan) or self._make_lane(work.plan)
        try:
            lane.prepared.submit(work)
        except errors.ResourceExhaustedError as error:
            self._fail_jobs(jobs, error)
            work.over.set_result(None)

    async def _run_given(self, jobs: list[Job]) -> None:
        jobs = self._still_wanted(jobs)
        if not jobs:
            return
        plan = jobs[0].plan
        try:
            work = Work.of_jobs(plan, jobs)
            work.started_us = self._clock.now_us()
            inputs, bad = values.tabulate(plan.version.inputs, [job.row for job in jobs], "inputs")
            for row, error in bad:
                work.fail(row, error)
            self._stages.take_given(work, inputs)
            self._stages.check(work)
            await self._answer(work)
        except Exception as error:
            self._fail_unexpectedly(plan, jobs, error)

    async def _run_prepared(self, works: list["OpenWork"]) -> None:
        try:
            await self._answer(joined(works))
        except Exception as error:
            for work in works:
                self._fail_unexpectedly(work.plan, work.jobs or (), error)
        finally:
            for work in works:
                if not work.over.done():
                    work.over.set_result(None)

    async def _answer(self, work: Work) -> None:
        """Run a work, record it, and answer its callers.

        The slot is held all the way: batches then grow with the load by themselves, because those
        who have just been answered come back together.
        """
        try:
            await SharedCall(work.jobs or ()).run(self._stages.run(work))
        except VersionUnavailable as gone:
            work = self._fall_back(work, gone.error)
        except AbandonedError:
            # What is left to do is to record that they left.
            pass
        if not work.rows:
            return
        jobs = work.jobs or ()
        _fail_left(work)
        replies = await self._stages.finish(work)
        self._note_pace(work)
        _resolve(work, jobs, replies)
        if work.plan.shadows:
            self._shadows.offer(work)
        else:
            # Spans are built later; that is no reason to keep all that was asked until then.
            work.jobs = None

    def _note_pace(self, work: Work) -> None:
        """Tell the limit how long the youngest of a work took, if there is an answer."""
        lane, jobs = self._lanes.get(work.plan), work.jobs
        if lane is None or not jobs:
            return
        if len(work.errors) == work.rows:
            self._note_loss(jobs)
            return
        youngest, now = jobs[-1], self._clock.monotonic()
        stretch = lane.paces[work.is_given].stretch(
            now - youngest.arrived, youngest.ahead, now, self._limit.tolerance
        )
        self._limit.observe(stretch, youngest.ahead, work.rows)

    def _note_loss(self, jobs: Sequence[Job]) -> None:
        """Tell the limit of predictions that all came to nothing, if they took their time over it.

        What fails at once says nothing of how long an answer takes.
        """
        youngest = jobs[-1]
        lane = self._lanes.get(youngest.plan)
        if lane is None:
            return
        pace, took = lane.paces[youngest.is_given], self._clock.monotonic() - youngest.arrived
        stretch = pace.of(took, self._limit.tolerance)
        if stretch > 1.0:
            self._limit.observe(stretch, youngest.ahead, len(jobs))

    # The fallback version.

    def _fall_back(self, work: Work, error: errors.SetpointError) -> Work:
        """Send the rows that may still be answered to the fallback; return the others."""
        stay = []
        for row, job in enumerate(work.jobs or ()):
            if row in work.errors or job.is_left or not self._moved(job, error):
                stay.append(row)
        shown = inference_error(error)
        for row in stay:
            work.fail(row, shown)
        if len(stay) == work.rows:
            return work
        return work.take(stay)

    def _moved(self, job: Job, error: errors.SetpointError) -> bool:
        """Queue a job for the fallback of its route; say whether that was possible."""
        fallback = job.route.fallback
        if fallback is None or job.plan is fallback:
            return False
        chosen = job.plan, job.reason, job.degradations
        job.degradations = (
            Degradation(DegradationKind.FALLBACK_VERSION, str(job.plan.version.version)),
        )
        job.plan, job.reason = fallback, AssignmentReason.FALLBACK
        try:
            self._begin(job)
        except errors.SetpointError as refused:
            # The chosen version's failure is what the caller should hear of.
            _LOGGER.debug("no fallback for %s: %s after %s", job.prediction_id, refused, error)
            job.plan, job.reason, job.degradations = chosen
            return False
        return True

    # Failures.

    def _still_wanted(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs somebody waits for; the others are recorded and dropped."""
        wanted = [job for job in jobs if not job.is_left]
        if not wanted and jobs:
            self._note_loss(jobs)
        if len(wanted) < len(jobs):
            for job in jobs:
                if job.is_left:
                    self._note_failure(job, left_error(job.deadline))
        return wanted

    def _fail_jobs(self, jobs: Sequence[Job], error: errors.SetpointError) -> None:
        for job in jobs:
            self._note_failure(job, error)

    def _note_failure(self, job: Job, error: errors.SetpointError) -> None:
        try:
            self._failures.submit(_Failed(job, error))
        except errors.ResourceExhaustedError:
            self._observer.unrecorded(1)
            _settle(job, None, error)

    async def _record_failures(self, failed: list["_Failed"]) -> None:
        """Record predictions that never reached inference, and tell their callers."""
        for plan in {each.job.plan: None for each in failed}:
            ours = [each for each in failed if each.job.plan is plan]
            work = Work.of_jobs(plan, [each.job for each in ours])
            for row, each in enumerate(ours):
                work.fail(row, each.error)
            try:
                await self._stages.finish(work)
            except Exception:
                # Not even their failure can be recorded; they still hear of it.
                _LOGGER.exception("%d failed predictions could not be recorded", len(ours))
                self._observer.unrecorded(len(ours))
            _resolve(work, work.jobs or (), [None] * work.rows)

    def _fail_unexpectedly(self, plan: Plan | None, jobs: Sequence[Job], error: Exception) -> None:
        """Record jobs as failed by a defect, whose text goes to the log alone.

        Jobs that another plan has taken over in the meantime are no longer ours.
        """
        ours = [job for job in jobs if plan is None or job.plan is plan]
        error_id = ids.uuid7()
        _LOGGER.error(
            "a batch of %d predictions failed, error %s", len(ours), error_id, exc_info=error
        )
        self._fail_jobs(ours, refusal.defect(error_id))


class _Failed:
    """A prediction that is over before it ran."""

    __slots__ = ("error", "job")
    rows = 1

    def __init__(self, job: Job, error: errors.SetpointError) -> None:
        self.job = job
        self.error = error


def left_error(deadline: float) -> errors.SetpointError:
    """Return what is recorded of a prediction whose caller has left, or had a deadline that passed."""
    if time.monotonic() >= deadline:
        return errors.DeadlineExceededError(
            errors.Reason.DEADLINE_EXCEEDED, "the deadline passed before the answer"
        )
    return CancelledByCaller()


class CancelledByCaller(errors.SetpointError):
    """Nobody waits for the answer any more."""

    is_cancelled = True

    def __init__(self) -> None:
        super().__init__(errors.Reason.DEADLINE_EXCEEDED, "the caller left before the answer")


def _fail_left(work: Work) -> None:
    """Record as failed what nobody waits for any more."""
    for row, job in enumerate(work.jobs or ()):
        if job.is_left:
            work.fail(row, left_error(job.deadline))


def _resolve(work: Work, jobs: Sequence[Job], replies: Sequence[Any]) -> None:
    failed = work.errors
    if failed:
        for row, job in enumerate(jobs):
            _settle(job, replies[row], failed.get(row))
        return
    for job, reply in zip(jobs, replies, strict=True):
        future = job.future
        if not future.done():
            future.set_result(reply)


def _settle(job: Job, reply: Any, error: Exception | None) -> None:
    future = job.future
    if future.done():
        return
    if error is None:
        future.set_result(reply)
    else:
        future.set_exception(error)
        # The caller may leave in this very moment; then nobody looks, which is no defect.
        future.exception()


def _feature_set(plan: Plan) -> FeatureSet:
    if plan.feature_set is None:
        raise AssertionError("only versions with a feature set are asked for features")
    return plan.feature_set


def _lead(jobs: Sequence[Job]) -> Trace | None:
    return next((job.trace for job in jobs if job.trace is not None and job.trace.is_sampled), None)


def _by_plan(jobs: Sequence[Job]) -> list[tuple["OpenWork", Any]]:
    """Return a work for each plan, with its rows among the jobs, None when it has all."""
    plans = {job.plan: None for job in jobs}
    if len(plans) == 1:
        return [(OpenWork.of_jobs(jobs[0].plan, jobs), None)]
    works = []
    for plan in plans:
        rows = [row for row, job in enumerate(jobs) if job.plan is plan]
        work = OpenWork.of_jobs(plan, [jobs[row] for row in rows])
        works.append((work, np.array(rows, np.intp)))
    return works
