"""Many predictions of one caller, in columns from end to end."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from setpoint_columns import Column, Columns, DataType
from setpoint_router import ports
from setpoint_router.domain import refusal, table, values
from setpoint_router.domain.degradation import Degradation, DegradationKind
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import AssignmentReason, Field
from setpoint_router.domain.work import Work
from setpoint_router.service import callers_batch
from setpoint_router.service.places import Places
from setpoint_router.service.predictor import Origin, left_error
from setpoint_router.service.shadows import Shadows
from setpoint_router.service.stages import Stages, VersionUnavailable, inference_error
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids

_LOGGER = logging.getLogger(__name__)

MAX_ROWS = 10_000
PIECE_BYTES = 1_500_000
"""Of one call or record, so that none comes near the 4 MiB of a message."""

_RECORD_BYTES = 150
"""Of a row in a record beside its inputs and outputs."""

_VALUE_BYTES = 8
"""Of a value that a version computes, or that features come back with."""

_PROVENANCE_BYTES = 9
"""Of status and event time beside each input that did not come from the caller."""


class BatchPredictor:
    """Answers batches."""

    def __init__(
        self,
        *,
        routes: Callable[[str], ServingRoute],
        stages: Stages,
        shadows: Shadows,
        recorder: ports.Recorder,
        clock: clocks.Clock,
        calls_at_once: int,
        batches_at_once: int,
        observer: ports.Observer,
    ) -> None:
        self._routes = routes
        self._stages = stages
        self._shadows = shadows
        self._recorder = recorder
        self._clock = clock
        self._calls_at_once = calls_at_once
        self._observer = observer
        self._places = Places(batches_at_once)
        self._running: set[asyncio.Task[Any]] = set()
        """Whoever asks."""
        self._recording: set[asyncio.Task[Any]] = set()
        """Records on their way; they are made even when the caller leaves meanwhile."""

    @property
    def is_full(self) -> bool:
        """Whether a further batch would be refused."""
        return self._places.are_taken

    async def drain(self) -> None:
        """End what is still on its way, whose callers are gone, and wait until its records are kept."""
        running = set(self._running)
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running)
        while self._recording:
            await asyncio.wait(self._recording)

    async def predict(
        self, ask: callers_batch.BatchAsk, origin: Origin, *, waits: bool = False
    ) -> callers_batch.BatchAnswer:
        """Answer many predictions.

        Args:
            ask: What is asked.
            origin: Where it comes from.
            waits: Wait for a place among the batches, in turn, rather than be refused.

        Raises:
            SetpointError: The batch as a whole is wrong or cannot be answered.
        """
        route = self._routes(ask.route)
        self._stages.admit(route.route.content.spool_full_policy)
        if not await self._places.take(origin.deadline if waits else None):
            self._observer.refused(errors.Reason.OVERLOADED)
            raise refusal.overloaded()
        asking = asyncio.current_task()
        if asking is None:
            raise AssertionError("a coroutine runs in a task")
        self._running.add(asking)
        try:
            return await self._predict(ask, origin, route)
        finally:
            self._running.discard(asking)
            self._places.give_back()

    async def _predict(
        self, ask: callers_batch.BatchAsk, origin: Origin, route: ServingRoute
    ) -> callers_batch.BatchAnswer:
        if ask.rows.rows > MAX_ROWS:
            raise errors.invalid(
                "rows", ask.rows.rows, f"must be at most {MAX_ROWS}", errors.Reason.TOO_LARGE
            )
        batch = callers_batch.Batch(ask, origin, route, self._clock.now_us())
        callers_batch.check_names(batch)
        pieces = self._pieces(batch)
        for plan in dict.fromkeys(plan for plan, _ in pieces):
            # Before any row is answered: a batch that is wrong as a whole has no predictions.
            callers_batch.check_columns(batch, plan)
        replicas = max(self._stages.replicas(plan) for plan in route.plans)
        turns = asyncio.Semaphore(self._calls_at_once * replicas)

        async def run(plan: Plan, rows: callers_batch.Rows) -> None:
            async with turns:
                try:
                    await self._run(batch, plan, rows, is_fallback=False)
                except Exception as error:
                    # The other pieces are answered whatever became of this one.
                    await self._fail_unexpectedly(batch, plan, rows, error)

        try:
            await asyncio.gather(*(run(plan, rows) for plan, rows in pieces))
        except asyncio.CancelledError:
            # What ran is cancelled with the caller. That these rows were asked about is kept.
            for plan, rows in pieces:
                self._note_left(batch, plan, rows[~batch.is_told[rows]])
            raise
        answer = self._answer(batch)
        for work in batch.copied:
            self._shadows.offer(work)
        return answer

    def _pieces(self, batch: callers_batch.Batch) -> list[tuple[Plan, callers_batch.Rows]]:
        """Divide the rows by plan, and into pieces that fit into messages."""
        pieces = []
        for plan in batch.route.plans:
            rows = np.flatnonzero(batch.plans == plan.index)
            version = plan.version
            size = table.row_bytes(batch.ask.rows) + _RECORD_BYTES
            size += _VALUE_BYTES * len(version.outputs) * (1 + len(plan.members))
            if not batch.is_given:
                columns = len(version.features) + len(version.request_fields)
                size += columns * (_VALUE_BYTES + _PROVENANCE_BYTES)
            count = -(-len(rows) * size // PIECE_BYTES)
            pieces += [(plan, each) for each in np.array_split(rows, count or 1) if len(each)]
        return pieces

    async def _run(
        self, batch: callers_batch.Batch, plan: Plan, rows: callers_batch.Rows, *, is_fallback: bool
    ) -> None:
        """Take some rows through all stages."""
        good, bad = callers_batch.parted(batch, plan, rows)
        if len(bad[0]):
            work = batch.work(plan, bad[0])
            work.errors = dict(enumerate(bad[1]))
            await self._finish(batch, work, bad[0])
        if not len(good):
            return
        work = batch.work(plan, good)
        if is_fallback:
            work.reasons = np.full(len(good), AssignmentReason.FALLBACK)
            work.common = (_fallen_back(batch, good),)
        await self._fill(batch, work, good)
        self._stages.check(work)
        try:
            await self._stages.run(work)
        except VersionUnavailable as gone:
            fallback = batch.route.fallback
            if (
                fallback is not None
                and not is_fallback
                and fallback is not plan
                and callers_batch.suits(batch, fallback)
            ):
                await self._run(batch, fallback, rows[np.isin(rows, good)], is_fallback=True)
                return
            work.fail_rest(inference_error(gone.error))
        await self._finish(batch, work, good)

    async def _fill(self, batch: callers_batch.Batch, work: Work, rows: callers_batch.Rows) -> None:
        """Give a work its inputs."""
        version, sent = work.plan.version, callers_batch.some(batch.ask.rows, rows)
        work.sent = sent
        if batch.is_given:
            inputs = table.fitted(sent, version.inputs, may_be_null=True, bad={})
            self._stages.take_given(work, inputs)
            return
        if version.feature_set is None:
            raise AssertionError("entities were accepted for a version without features")
        entities = table.fitted(sent, version.key_columns, may_be_null=True, bad={})
        requested = table.fitted(sent, version.request_fields, may_be_null=True, bad={})
        work.entities = entities
        work.started_us = self._clock.now_us()
        fetched = await self._stages.fetch(
            version.feature_set,
            values.with_sent(entities, requested, version.sent_request_fields),
            work.event_times,
            work.deadline,
            work.lead,
        )
        self._stages.take_features(work, fetched, requested, None)

    async def _fail_unexpectedly(
        self, batch: callers_batch.Batch, plan: Plan, rows: callers_batch.Rows, error: Exception
    ) -> None:
        """Record rows as failed by a defect, whose text goes to the log alone."""
        error_id = ids.uuid7()
        _LOGGER.error("%d rows of a batch failed, error %s", len(rows), error_id, exc_info=error)
        known = [batch.errors[row] for row in rows.tolist()]
        work = batch.work(plan, rows)
        work.errors = {at: each for at, each in enumerate(known) if each is not None}
        work.fail_rest(refusal.defect(error_id))
        batch.keep(work, rows)
        batch.is_told[rows] = True
        await asyncio.shield(self._start(self._record_failed(work)))

    def _note_left(self, batch: callers_batch.Batch, plan: Plan, rows: callers_batch.Rows) -> None:
        """Begin to record rows whose caller has left before they were answered."""
        if not len(rows):
            return
        work = batch.work(plan, rows)
        known = {at: batch.bad[row] for at, row in enumerate(rows.tolist()) if row in batch.bad}
        work.errors = known
        work.fail_rest(left_error(batch.origin.deadline))
        batch.is_told[rows] = True
        _ = self._start(self._record_failed(work))

    async def _record_failed(self, work: Work) -> None:
        try:
            await self._stages.finish(work)
        except Exception:
            _LOGGER.exception("%d failed predictions could not be recorded", work.rows)
            self._observer.unrecorded(work.rows)

    def _start(self, record: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(record, name="record of a batch")
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)
        return task

    async def _finish(
        self, batch: callers_batch.Batch, work: Work, rows: callers_batch.Rows
    ) -> None:
        batch.is_told[rows] = True
        await asyncio.shield(self._start(self._stages.finish(work)))
        batch.keep(work, rows)
        if work.plan.shadows:
            batch.copied.append(work)

    def _answer(self, batch: callers_batch.Batch) -> callers_batch.BatchAnswer:
        count = batch.ask.rows.rows
        found = batch.errors
        codes = np.zeros(count, np.int32)
        texts: list[str | None] = [None] * count
        if found.count(None) != count:
            texts = [None if each is None else self._recorder.error_text(each) for each in found]
            codes[:] = [0 if each is None else self._recorder.code_of(each) for each in found]
        results = Columns(
            count,
            [
                batch.id_column,
                Column("version", DataType.INT64, batch.versions.astype(np.int64)),
                Column("slot", DataType.INT32, batch.slots.astype(np.int32)),
                Column("reason", DataType.INT32, batch.reasons.astype(np.int32)),
                Column("status", DataType.INT32, codes),
                _text_column("error", texts),
                _text_column("degradations", batch.degradations),
            ],
        )
        outputs = [table.spread(pieces, count) for pieces in batch.outputs.values()]
        return callers_batch.BatchAnswer(
            results, Columns(count, outputs), batch.route.route.revision, found
        )


def _text_column(name: str, texts: Sequence[str | None]) -> Column:
    """Return texts as a column; mostly there are none."""
    if texts.count(None) == len(texts):
        return values.null_column(Field(name, DataType.STRING), len(texts))
    return Column.from_list(name, texts, DataType.STRING)


def _fallen_back(batch: callers_batch.Batch, rows: callers_batch.Rows) -> Degradation:
    return Degradation(DegradationKind.FALLBACK_VERSION, str(batch.versions[rows[0]]))
