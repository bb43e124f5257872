"""What happens to a work, stage by stage: features, checks, inference, record.

The stages know nothing of queues. A stage that fails for some rows marks them and goes on with the
others; a stage that fails for all says so to its caller, who may know a way out.
"""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns
from setpoint_router import ports
from setpoint_router.domain import refusal, values
from setpoint_router.domain.degradation import (
    KIND_OF_STATUS,
    Degradation,
    DegradationKind,
    FeatureStatus,
)
from setpoint_router.domain.ensemble import Ensemble
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.route import FeatureFailurePolicy, FeatureSet, Field, SpoolFullPolicy
from setpoint_router.domain.work import NO_TIME, Mark, Trace, Work, assembled
from setpoint_router.service import ensemble, halving
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

MINIMUM_SECONDS = 0.001
"""A call with less time than this is not made."""

ANSWER_SECONDS = 0.02
"""Kept back from the callers' time when inference is called, to record and answer in."""

MAX_RECORD_BYTES = 2 * 1024 * 1024
"""A message has at most 4 MiB; a row alone stays below half of it."""

_FRESH = bytes([FeatureStatus.FRESH])
_GIVEN = bytes([FeatureStatus.GIVEN])
_MISSING = bytes([FeatureStatus.MISSING])
_NO_TIME = np.int64(NO_TIME).tobytes()
_SKIPPED = Degradation(DegradationKind.CHECKS_SKIPPED, "")
_FROM_HISTORY = DegradationKind.FEATURES_FROM_HISTORY
_UNRECORDED = Degradation(DegradationKind.UNRECORDED, "")
_TOLD_AS_THEY_ARE = (
    errors.InvalidArgumentError,
    errors.ResourceExhaustedError,
    errors.DeadlineExceededError,
)
_GONE = (errors.NotFoundError, errors.FailedPreconditionError, errors.UnavailableError)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the calls behind the router may take."""

    features_seconds: float = 0.15
    inference_seconds: float = 5.0


class VersionUnavailable(Exception):
    """The version of a work cannot answer now, though its rows are fine; another one might."""

    def __init__(self, error: errors.SetpointError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a call for features went."""

    answer: ports.FeatureAnswer | None
    """Nulls in rows without an answer; None when no row has one."""
    errors: Mapping[int, errors.SetpointError]
    """Rows without an answer, and why."""
    microseconds: int
    mark: Mark | None


class Stages:
    """The stages with what they need."""

    def __init__(
        self,
        *,
        features: ports.Features,
        inference: ports.Inference,
        checks: ports.Checks,
        codec: ports.Codec,
        recorder: ports.Recorder,
        spool: ports.Spool,
        observer: ports.Observer,
        clock: clocks.Clock,
        limits: Limits,
    ) -> None:
        self._features = features
        self._inference = inference
        self._checks = checks
        self._codec = codec
        self._recorder = recorder
        self._spool = spool
        self._observer = observer
        self._clock = clock
        self._limits = limits

    # Features.

    async def fetch(
        self,
        feature_set: FeatureSet,
        entities: Columns,
        times: Sequence[int] | npt.NDArray[Any],
        deadline: float,
        lead: Trace | None,
    ) -> Fetched:
        """Ask for features once for all; a row that makes the call fail is found and fails alone.

        Args:
            feature_set: Which features.
            entities: Of whom.
            times: When each question is asked.
            deadline: Until when, in seconds of `time.monotonic`.
            lead: The trace that the call belongs to.
        """
        started_us = self._clock.now_us()
        started = time.perf_counter()
        until = min(deadline, time.monotonic() + self._limits.features_seconds)
        header, span_id = _call_of(lead)

        async def ask(rows: halving.Rows) -> ports.FeatureAnswer:
            seconds = until - time.monotonic()
            if seconds < MINIMUM_SECONDS:
                raise errors.DeadlineExceededError(
                    errors.Reason.DEADLINE_EXCEEDED, "no time was left to ask for features"
                )
            if len(rows) == entities.rows:
                asked, asked_times = entities, times
            else:
                asked, asked_times = entities.take(rows), np.asarray(times)[rows]
            return await self._features.fetch(
                feature_set, asked, _compact(asked_times), seconds, header
            )

        attempt = halving.Halving(ask)
        await attempt.run(np.arange(entities.rows))
        microseconds = int((time.perf_counter() - started) * 1e6)
        mark = None
        if lead is not None:
            mark = Mark(
                "features",
                lead.trace_id,
                span_id,
                lead.span_id,
                started_us,
                started_us + microseconds,
                entities.rows,
            )
        answer = _assembled_features(attempt.parts, entities.rows)
        return Fetched(answer, attempt.errors, microseconds, mark)

    def take_features(self, work: Work, fetched: Fetched, requested: Columns, rows: Any) -> None:
        """Give a work its inputs: features, then what the request gave.

        Args:
            work: The work.
            fetched: How the call went.
            requested: The request fields of the work's rows.
            rows: Rows of the call that are the work's, None when all are.
        """
        work.features_us = fetched.microseconds
        if fetched.mark is not None:
            work.marks.append(fetched.mark)
        features, answer, failed = work.plan.version.features, fetched.answer, fetched.errors
        if answer is not None and not _fits(answer, features):
            failed = dict.fromkeys(range(answer.features.rows), _strange_features(answer))
            answer = None
        if rows is not None:
            answer = None if answer is None else _taken(answer, rows)
            failed = {at: failed[row] for at, row in enumerate(rows.tolist()) if row in failed}
        if failed:
            self._do_without_features(work, failed)
        if answer is None:
            answer = _no_features(features, work.rows)
        else:
            _flag_statuses(work, answer, features, failed)
            if answer.history_views:
                flags = [Degradation(_FROM_HISTORY, view) for view in answer.history_views]
                work.common = (*work.common, *flags)
        work.inputs = Columns(work.rows, [*answer.features.columns, *requested.columns])
        given = len(requested)
        work.statuses = [*answer.statuses, *[_GIVEN * work.rows] * given]
        work.value_times = [*answer.value_times, *[_NO_TIME * work.rows] * given]

    def _do_without_features(self, work: Work, failed: Mapping[int, errors.SetpointError]) -> None:
        """Fail or flag rows without features as the route says.

        A question that is wrong in itself fails with its own error; there is nothing to do without.
        """
        plan = work.plan
        policy = plan.route.content.feature_failure_policy
        may_go_on = policy is FeatureFailurePolicy.ANSWER_WITH_NULLS and all(
            each.name in plan.nullable
            for each in plan.version.features
            if each.name in plan.input_types
        )
        flag = Degradation(
            DegradationKind.FEATURES_UNAVAILABLE, plan.feature_set.name if plan.feature_set else ""
        )
        flagged = []
        for row, error in failed.items():
            if isinstance(error, errors.InvalidArgumentError):
                work.fail(row, error)
            elif may_go_on:
                flagged.append(row)
            else:
                work.fail(row, _features_error(error))
        if len(flagged) == work.rows:
            work.common = (*work.common, flag)
            return
        for row in flagged:
            work.flag(row, flag)

    def take_given(self, work: Work, inputs: Columns) -> None:
        """Give a work the inputs that its callers gave."""
        work.inputs = inputs
        work.statuses = [_GIVEN * work.rows] * len(inputs)
        work.value_times = [_NO_TIME * work.rows] * len(inputs)

    # Checks.

    def check(self, work: Work) -> None:
        """Judge the inputs of a work; rows that must not go on fail, others are flagged."""
        inputs, feature_set = work.inputs, work.plan.feature_set
        if inputs is None:
            return
        started = time.perf_counter()
        _refuse_nulls(work, inputs)
        if feature_set is not None:
            if self._checks.is_expected:
                work.common = (*work.common, _SKIPPED)
            else:
                self._judge(work, feature_set.name, inputs)
        work.checks_us = int((time.perf_counter() - started) * 1e6)
        work.prepared_us = self._clock.now_us()

    def _judge(self, work: Work, feature_set: str, inputs: Columns) -> None:
        verdict = self._checks.judge(feature_set, inputs)
        if verdict is None:
            return
        for row, error in verdict.rejected:
            work.fail(row, error)
        for row, rule_id in verdict.flagged:
            work.flag(row, Degradation(DegradationKind.RULE_FLAGGED, rule_id))

    # Inference.

    def replicas(self, plan: Plan) -> int:
        """Return among how many replicas a plan's calls are divided; of an ensemble, its first member's."""
        return self._inference.replicas(plan.members[0] if plan.members else plan)

    async def run(self, work: Work) -> None:
        """Run the version on the rows that may go on.

        Raises:
            VersionUnavailable: It cannot answer for reasons of its own.
        """
        rows = work.open_rows()
        if not len(rows) or work.inputs is None:
            return
        lead = work.lead
        header, span_id = _call_of(lead)
        started_us = self._clock.now_us()
        work.waited_us = max(0, started_us - work.prepared_us)
        started = time.perf_counter()

        try:
            if work.plan.ensemble is None:
                await self._ask(work, rows, header)
            else:
                await self._ask_together(work, work.plan.ensemble, rows, header)
        finally:
            microseconds = int((time.perf_counter() - started) * 1e6)
            work.inference_us = microseconds
            if lead is not None:
                work.marks.append(
                    Mark(
                        "inference",
                        lead.trace_id,
                        span_id,
                        lead.span_id,
                        started_us,
                        started_us + microseconds,
                        len(rows),
                    )
                )

    async def _ask(self, work: Work, rows: halving.Rows, header: str | None) -> None:
        """Ask the version of a work; each row gets an answer or an error."""

        async def ask(asked: halving.Rows) -> ports.Answer:
            try:
                return await self.predict(work, asked, header)
            except _GONE as error:
                if len(asked) == len(rows):
                    raise VersionUnavailable(error) from error
                raise

        attempt = halving.Halving(ask)
        await attempt.run(rows)
        for row, error in attempt.errors.items():
            work.fail(row, inference_error(error))
        parts = attempt.parts
        work.outputs = assembled([(at, each.outputs) for at, each in parts], work.rows)
        work.replicas = [(at, each.replica) for at, each in parts]

    async def _ask_together(
        self, work: Work, found: Ensemble, rows: halving.Rows, header: str | None
    ) -> None:
        """Ask the members of an ensemble; each row gets their common answer or an error."""

        async def ask(member: Work) -> errors.SetpointError | None:
            try:
                await self._ask(member, rows, header)
            except VersionUnavailable as gone:
                return gone.error
            return None

        if len(rows) == work.rows:
            self._encoded(work)
        error = await ensemble.answer(work, found, rows, ask)
        if error is not None:
            raise VersionUnavailable(error)

    def _encoded(self, work: Work) -> Any:
        if work.encoded_inputs is None:
            work.encoded_inputs = self._codec.encode(_inputs(work))
        return work.encoded_inputs

    async def predict(
        self, work: Work, rows: npt.NDArray[np.intp], header: str | None
    ) -> ports.Answer:
        """Run the version on some rows of a work.

        Raises:
            SetpointError: It did not answer.
        """
        seconds = min(
            self._limits.inference_seconds, work.deadline - time.monotonic() - ANSWER_SECONDS
        )
        if seconds < MINIMUM_SECONDS:
            raise errors.DeadlineExceededError(
                errors.Reason.DEADLINE_EXCEEDED, "no time was left to ask for the answer"
            )
        if len(rows) == work.rows:
            encoded = self._encoded(work)
        else:
            encoded = self._codec.encode(_inputs(work).take(rows))
        try:
            answer = await self._inference.predict(work.plan, encoded, seconds, header)
        except errors.DeadlineExceededError as error:
            if seconds < self._limits.inference_seconds:
                # The callers gave no more time; another version would have none at all.
                raise
            raise errors.UnavailableError(
                errors.Reason.INFERENCE_UNAVAILABLE,
                f"inference did not answer within {seconds:g} s",
            ) from error
        if answer.outputs.rows != len(rows):
            raise errors.InternalError(
                errors.Reason.INFERENCE_FAILED,
                f"inference answered {answer.outputs.rows} rows when {len(rows)} were asked",
            )
        return answer

    # Record and reply.

    async def finish(self, work: Work) -> Sequence[Any]:
        """Record a work, on disk, and return the replies of its rows.

        Rows that failed have no reply. Where the record cannot be kept, the route's policy decides.
        """
        work.reply_time = self._clock.now_us()
        try:
            kept = [self._spool.append(each) for each in self._payloads(work)]
            replies = self._replies(work)
            for each in kept:
                await each
        except errors.ResourceExhaustedError as error:
            replies = self._unrecorded(work, error)
        self._observer.answered(work)
        return replies

    def _payloads(self, work: Work) -> list[bytes]:
        """Return the records of a work, most of the time one; none is too large to be shipped."""
        payload = self._recorder.record(work)
        if len(payload) <= MAX_RECORD_BYTES or work.rows == 1:
            return [payload]
        middle = work.rows // 2
        halves = range(middle), range(middle, work.rows)
        return [each for half in halves for each in self._payloads(work.take(half))]

    def _unrecorded(self, work: Work, error: errors.SetpointError) -> Sequence[Any]:
        self._observer.unrecorded(work.rows)
        if work.plan.route.content.spool_full_policy is SpoolFullPolicy.REJECT:
            # Rows that have failed already keep their own error, which says more.
            work.fail_rest(error)
        else:
            work.common = (*work.common, _UNRECORDED)
        return self._replies(work)

    def _replies(self, work: Work) -> Sequence[Any]:
        """Return replies for jobs; a caller's own batch is answered in columns."""
        return () if work.jobs is None else self._recorder.replies(work)

    def admit(self, plan_policy: SpoolFullPolicy) -> None:
        """Turn a request away before any work when its record could not be kept.

        Raises:
            ResourceExhaustedError: The spool is full and the route does not answer without records.
        """
        if self._spool.is_full and plan_policy is SpoolFullPolicy.REJECT:
            raise refusal.spool_full()


def inference_error(error: errors.SetpointError) -> errors.SetpointError:
    """Return what callers are told when inference did not answer."""
    is_told = isinstance(error, _TOLD_AS_THEY_ARE)
    if is_told or error.reason is errors.Reason.ENSEMBLE_BELOW_QUORUM:
        return error
    if isinstance(error, _GONE):
        return errors.UnavailableError(
            errors.Reason.INFERENCE_UNAVAILABLE,
            f"inference does not answer: {error.message}",
            metadata={"cause": error.reason.value},
        )
    return errors.InternalError(
        errors.Reason.INFERENCE_FAILED, f"the model failed: {error.message}"
    )


def _features_error(error: errors.SetpointError) -> errors.SetpointError:
    return errors.UnavailableError(
        errors.Reason.FEATURES_UNAVAILABLE,
        f"the feature service did not answer as it should: {error.message}",
        metadata={"cause": error.reason.value},
    )


def _fits(answer: ports.FeatureAnswer, features: Sequence[Field]) -> bool:
    return answer.features.names == tuple([each.name for each in features])


def _strange_features(answer: ports.FeatureAnswer) -> errors.SetpointError:
    return errors.InternalError(
        errors.Reason.INTERNAL,
        f"the feature service answered other columns: {', '.join(answer.features.names)[:200]}",
    )


def _inputs(work: Work) -> Columns:
    if work.inputs is None:
        raise AssertionError("a work without inputs is not run")
    return work.inputs


def _call_of(lead: Trace | None) -> tuple[str | None, int]:
    """Return trace header and span id of a shared call; it belongs to the first sampled trace."""
    if lead is None:
        return None, 0
    span_id = getrandbits(64) or 1
    return f"00-{lead.trace_id:032x}-{span_id:016x}-01", span_id


def _compact(times: Sequence[int] | npt.NDArray[Any]) -> Sequence[int]:
    """Return one time when it stands for all."""
    listed: list[int] = times.tolist() if isinstance(times, np.ndarray) else list(times)
    return listed[:1] if listed.count(listed[0]) == len(listed) else listed


def _taken(answer: ports.FeatureAnswer, rows: npt.NDArray[np.intp]) -> ports.FeatureAnswer:
    return ports.FeatureAnswer(
        answer.features.take(rows),
        [np.frombuffer(each, np.uint8)[rows].tobytes() for each in answer.statuses],
        [np.frombuffer(each, "<i8")[rows].tobytes() for each in answer.value_times],
        answer.history_views,
    )


def _flag_statuses(
    work: Work, answer: ports.FeatureAnswer, features: Sequence[Field], failed: Container[int]
) -> None:
    """Flag what is not fresh; rows that got no answer at all have been dealt with."""
    for field, statuses in zip(features, answer.statuses, strict=True):
        if statuses.count(_FRESH) == work.rows:
            continue
        for row, status in enumerate(statuses):
            kind = KIND_OF_STATUS.get(status)  # type: ignore[call-overload]  # IntEnum keys.
            if kind is not None and row not in failed:
                work.flag(row, Degradation(kind, field.name))


def _no_features(features: Sequence[Field], rows: int) -> ports.FeatureAnswer:
    """Return an answer in which nothing is known."""
    return ports.FeatureAnswer(
        Columns(rows, [values.null_column(each, rows) for each in features]),
        [_MISSING * rows] * len(features),
        [_NO_TIME * rows] * len(features),
    )


def _assembled_features(
    parts: Sequence[tuple[halving.Rows, ports.FeatureAnswer]], rows: int
) -> ports.FeatureAnswer | None:
    """Return the answers of some rows as one of all, nothing known where there is none."""
    if len(parts) == 1 and len(parts[0][0]) == rows:
        return parts[0][1]
    features = assembled([(indices, answer.features) for indices, answer in parts], rows)
    if features is None:
        return None
    statuses = np.full((len(features), rows), FeatureStatus.MISSING, np.uint8)
    times = np.full((len(features), rows), NO_TIME, "<i8")
    for indices, answer in parts:
        for at in range(len(features)):
            statuses[at, indices] = np.frombuffer(answer.statuses[at], np.uint8)
            times[at, indices] = np.frombuffer(answer.value_times[at], "<i8")
    return ports.FeatureAnswer(
        features,
        [each.tobytes() for each in statuses],
        [each.tobytes() for each in times],
        list(dict.fromkeys(view for _, answer in parts for view in answer.history_views)),
    )


def _refuse_nulls(work: Work, inputs: Columns) -> None:
    """Fail rows with a null that the model has no form for."""
    wanted, nullable = work.plan.input_types, work.plan.nullable
    for column in inputs.columns:
        if column.validity is None:
            continue
        if column.name in wanted and column.name not in nullable:
            _refuse(work, column)


def _refuse(work: Work, column: Column) -> None:
    mask = column.null_mask()
    if mask is None:
        return
    error = values.null_refused(f'inputs["{column.name}"]')
    for row in np.flatnonzero(mask).tolist():
        work.fail(row, error)
