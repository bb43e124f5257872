"""Many predictions of one caller, in columns from end to end."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_router import ports
from setpoint_router.domain import assignment, degradation, identity, refusal, table, values
from setpoint_router.domain.degradation import Degradation, DegradationKind
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import MAX_KEY_LENGTH, AssignmentReason, Field
from setpoint_router.domain.work import Work
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

_KEY_SEPARATOR = "\x1f"
_RECORD_BYTES = 150
"""Of a row in a record beside its inputs and outputs."""

_VALUE_BYTES = 8
"""Of a value that a version computes, or that features come back with."""

_PROVENANCE_BYTES = 9
"""Of status and event time beside each input that did not come from the caller."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class BatchAsk:
    """What a caller asks about many rows."""

    route: str
    rows: Columns
    assignment_key_column: str = ""
    event_time_column: str = ""
    event_time: int = 0


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What is answered, rows as asked."""

    results: Columns
    outputs: Columns
    route_revision: int
    failures: Sequence[errors.SetpointError | None]
    """Why each row failed that did."""


class _Batch:
    """One caller's rows with what each of them got."""

    def __init__(self, ask: BatchAsk, origin: Origin, route: ServingRoute, now_us: int) -> None:
        count = ask.rows.rows
        self.ask = ask
        self.origin = origin
        self.route = route
        self.arrival_time = now_us
        self.is_given = is_given(ask.rows, route)
        self.ids = identity.prediction_ids(count, now_us)
        self.id_column = _id_column(self.ids)
        self.event_times = _event_times(ask, now_us)
        self.bad: table.RowErrors = {}
        self.keys: npt.NDArray[np.object_] | None = self._keys()
        """The assignment key of each row; None when that is its prediction id."""
        self.slots = self._slots(route.route.content.salt)
        self.plans, self.reasons = self._assigned()
        versions = np.array([plan.version.version for plan in route.plans], np.int64)
        self.versions = versions[self.plans]
        self.degradations: list[str | None] = [None] * count
        self.errors: list[errors.SetpointError | None] = [None] * count
        self.is_told = np.zeros(count, np.bool_)
        """Rows whose record has been made, or is being made."""
        self.outputs: dict[str, list[tuple[Rows, Column]]] = {}
        self.copied: list[Work] = []
        """Works that shadows may get copies of, once the caller has its answer."""

    def _keys(self) -> npt.NDArray[np.object_] | None:
        """Return what callers named as keys; rows without a usable one are bad."""
        rows, name = self.ask.rows, self.ask.assignment_key_column
        if name:
            return self._key_texts(_key_column(rows, name), takes_nulls=False)
        if self.is_given:
            return None
        names = sorted(each for each in rows.names if each in self.route.plans[0].names.entities)
        columns = [
            self._key_texts(_key_column(rows, each), takes_nulls=True).tolist() for each in names
        ]
        joined = np.empty(rows.rows, object)
        joined[:] = [_KEY_SEPARATOR.join(parts) for parts in zip(*columns, strict=True)]
        return joined

    def _assigned(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Return the position of each row's plan, and why it is that one."""
        route = self.route
        plans = np.frombuffer(route.by_slot, np.uint16).astype(np.intp)[self.slots]
        reasons = np.full(len(plans), int(route.slot_reason), np.int32)
        if (baseline := route.baseline) is not None:
            slots, layer = self._slots(baseline.layer.salt), baseline.layer
            is_outside = (slots < layer.first_slot) | (slots >= layer.end_slot)
            plans[is_outside] = baseline.plan.index
            reasons[is_outside] = AssignmentReason.LAYER
        if route.overrides:
            for row, key in enumerate(self._key_list()):
                override = route.overrides.get(key)
                if override is not None:
                    plans[row] = override.index
                    reasons[row] = AssignmentReason.OVERRIDE
        return plans, reasons

    def _slots(self, salt: str) -> npt.NDArray[np.int32]:
        """Return the slot of each row, from the caller's own bytes where they are the keys."""
        column = self._key_source()
        if column is None:
            return assignment.slots_of(salt, self._key_list())
        return assignment.slots_of_texts(salt, *column.text_bounds())

    def _key_list(self) -> list[str]:
        keys: list[str] = self.ids.texts() if self.keys is None else self.keys.tolist()
        return keys

    def _key_source(self) -> Column | None:
        """Return the column that holds every row's key as it is; None when keys are made of more."""
        if self.keys is None:
            return self.id_column
        rows, name = self.ask.rows, self.ask.assignment_key_column
        if not name and not self.is_given:
            entities = [each for each in rows.names if each in self.route.plans[0].names.entities]
            name = entities[0] if len(entities) == 1 else ""
        column = rows.by_name.get(name)
        if column is None or column.dtype is not DataType.STRING or column.validity is not None:
            return None
        return None if self.bad else column

    def _key_texts(self, column: Column, *, takes_nulls: bool) -> npt.NDArray[np.object_]:
        listed = column.to_list()
        for row, each in enumerate(listed):
            if each is None:
                listed[row] = ""
                if not takes_nulls:
                    path = f'rows["{column.name}"][{row}]'
                    self.bad.setdefault(row, values.null_refused(path))
            elif column.dtype is DataType.STRING and len(each) > MAX_KEY_LENGTH:
                path, rule = (
                    f'rows["{column.name}"][{row}]',
                    f"must have at most {MAX_KEY_LENGTH} characters",
                )
                self.bad.setdefault(row, errors.invalid(path, each, rule, errors.Reason.TOO_LARGE))
                listed[row] = each[:MAX_KEY_LENGTH]
        texts = np.empty(len(listed), object)
        texts[:] = [each if each.__class__ is str else str(each) for each in listed]
        return texts

    def work(self, plan: Plan, rows: Rows) -> Work:
        """Return a work of some rows that a plan serves."""
        made = Work(plan, len(rows), is_given=self.is_given)
        at = _span(rows)
        ids = self.ids.take(at)
        made.prediction_ids = ids
        made.keys = ids if self.keys is None else self.keys[at].tolist()
        made.slots = self.slots[at]
        # The reasons of a work may change; they belong to it alone.
        made.reasons = self.reasons[at].copy()
        made.event_times = self.event_times[at]
        made.arrival_times = np.full(len(rows), self.arrival_time, np.int64)
        made.callers = [self.origin.caller] * len(rows)
        made.deadline = self.origin.deadline
        made.started_us = made.prepared_us = self.arrival_time
        if self.origin.callers_own is not None:
            made.callers_own = [self.origin.callers_own] * len(rows)
        if self.origin.trace is not None:
            made.traces = [self.origin.trace] * len(rows)
        return made

    def keep(self, work: Work, rows: Rows) -> None:
        """Take over what became of a work."""
        for at, error in work.errors.items():
            self.errors[int(rows[at])] = error
        if work.common or work.degradations:
            for at, row in enumerate(rows.tolist()):
                found = work.degradations_of(at)
                self.degradations[row] = degradation.to_text(found) or None
        span = _span(rows)
        self.versions[span] = work.plan.version.version
        self.reasons[span] = work.reasons
        if work.outputs is not None:
            for column in work.outputs.columns:
                self.outputs.setdefault(column.name, []).append((rows, column))


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

    async def predict(self, ask: BatchAsk, origin: Origin, *, waits: bool = False) -> BatchAnswer:
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

    async def _predict(self, ask: BatchAsk, origin: Origin, route: ServingRoute) -> BatchAnswer:
        if ask.rows.rows > MAX_ROWS:
            raise errors.invalid(
                "rows", ask.rows.rows, f"must be at most {MAX_ROWS}", errors.Reason.TOO_LARGE
            )
        batch = _Batch(ask, origin, route, self._clock.now_us())
        _check_names(batch)
        pieces = self._pieces(batch)
        for plan in dict.fromkeys(plan for plan, _ in pieces):
            # Before any row is answered: a batch that is wrong as a whole has no predictions.
            _check_columns(batch, plan)
        replicas = max(self._stages.replicas(plan) for plan in route.plans)
        turns = asyncio.Semaphore(self._calls_at_once * replicas)

        async def run(plan: Plan, rows: Rows) -> None:
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

    def _pieces(self, batch: _Batch) -> list[tuple[Plan, Rows]]:
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

    async def _run(self, batch: _Batch, plan: Plan, rows: Rows, *, is_fallback: bool) -> None:
        """Take some rows through all stages."""
        good, bad = _parted(batch, plan, rows)
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
                and _suits(batch, fallback)
            ):
                await self._run(batch, fallback, rows[np.isin(rows, good)], is_fallback=True)
                return
            work.fail_rest(inference_error(gone.error))
        await self._finish(batch, work, good)

    async def _fill(self, batch: _Batch, work: Work, rows: Rows) -> None:
        """Give a work its inputs."""
        version, sent = work.plan.version, _some(batch.ask.rows, rows)
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
        self, batch: _Batch, plan: Plan, rows: Rows, error: Exception
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

    def _note_left(self, batch: _Batch, plan: Plan, rows: Rows) -> None:
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

    async def _finish(self, batch: _Batch, work: Work, rows: Rows) -> None:
        batch.is_told[rows] = True
        await asyncio.shield(self._start(self._stages.finish(work)))
        batch.keep(work, rows)
        if work.plan.shadows:
            batch.copied.append(work)

    def _answer(self, batch: _Batch) -> BatchAnswer:
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
        return BatchAnswer(results, Columns(count, outputs), batch.route.route.revision, found)


def _span(rows: Rows) -> "Rows | slice":
    """Return rising rows as a slice where they are neighbours, which costs no copy of what they have."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _some(columns: Columns, rows: Rows) -> Columns:
    span = _span(rows)
    return columns.slice(span.start, span.stop) if isinstance(span, slice) else columns.take(span)


def _id_column(ids: identity.PredictionIds) -> Column:
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * identity.ID_LENGTH
    return Column("prediction_id", DataType.STRING, ids.characters.reshape(-1), offsets)


def _text_column(name: str, texts: Sequence[str | None]) -> Column:
    """Return texts as a column; mostly there are none."""
    if texts.count(None) == len(texts):
        return values.null_column(Field(name, DataType.STRING), len(texts))
    return Column.from_list(name, texts, DataType.STRING)


def _fallen_back(batch: _Batch, rows: Rows) -> Degradation:
    return Degradation(DegradationKind.FALLBACK_VERSION, str(batch.versions[rows[0]]))


def _check_columns(batch: _Batch, plan: Plan) -> None:
    """Refuse a batch that a plan cannot answer, whatever its rows hold.

    Raises:
        InvalidArgumentError: A column is absent or of another type.
    """
    version, sent = plan.version, batch.ask.rows
    if not batch.is_given and version.feature_set is None:
        raise errors.invalid(
            "rows",
            ", ".join(sent.names)[:80],
            f"must hold every input, since version {version.version} has no feature set",
            errors.Reason.MISSING_FIELD,
        )
    _ = _parted(batch, plan, np.zeros(0, np.intp))


def _suits(batch: _Batch, plan: Plan) -> bool:
    """Say whether a plan can stand in for another one."""
    try:
        _check_columns(batch, plan)
    except errors.InvalidArgumentError:
        return False
    return True


def _parted(
    batch: _Batch, plan: Plan, rows: Rows
) -> tuple[Rows, tuple[Rows, Sequence[errors.SetpointError]]]:
    """Return the rows that can go on, and the others with what is wrong with them.

    Raises:
        InvalidArgumentError: A column is absent or of another type.
    """
    version, sent = plan.version, _some(batch.ask.rows, rows)
    found: table.RowErrors = {}
    if batch.is_given:
        table.fitted(sent, version.inputs, may_be_null=True, bad=found)
    else:
        table.fitted(
            sent,
            version.key_columns,
            may_be_null=True,
            bad=found,
            max_text_bytes=values.MAX_KEY_BYTES,
        )
        table.fitted(sent, version.request_fields, may_be_null=True, bad=found)
    wrong = {int(rows[at]): error for at, error in found.items()}
    if batch.bad:
        wrong = {row: batch.bad[row] for row in rows.tolist() if row in batch.bad} | wrong
    if not wrong:
        return rows, (rows[:0], ())
    is_bad = np.isin(rows, list(wrong))
    bad = rows[is_bad]
    return rows[~is_bad], (bad, [wrong[row] for row in bad.tolist()])


def is_given(rows: Columns, route: ServingRoute) -> bool:
    """Say whether the rows hold the models' inputs rather than keys to look features up by."""
    names = route.plans[0].names
    if not any(name in names.entities for name in rows.names):
        return True
    return names.given <= set(rows.names) and any(plan.version.features for plan in route.plans)


def _check_names(batch: _Batch) -> None:
    names, ask = batch.route.plans[0].names, batch.ask
    allowed = names.given if batch.is_given else names.requested
    extra = {ask.assignment_key_column, ask.event_time_column}
    table.refuse_unknown(ask.rows, allowed | names.entities | extra)


def _key_column(rows: Columns, name: str) -> Column:
    column = rows.by_name.get(name)
    if column is None:
        raise values.missing(f'rows["{name}"]')
    if column.dtype not in (DataType.STRING, DataType.INT32, DataType.INT64):
        raise errors.invalid(
            f'rows["{name}"]',
            column.dtype.name,
            "must be STRING, INT32 or INT64",
            errors.Reason.WRONG_TYPE,
        )
    return column


def _event_times(ask: BatchAsk, now_us: int) -> npt.NDArray[np.int64]:
    if not ask.event_time_column:
        if ask.event_time < 0:
            raise errors.invalid("event_time", ask.event_time, "must not be negative")
        return np.full(ask.rows.rows, ask.event_time or now_us, np.int64)
    name = ask.event_time_column
    column = ask.rows.by_name.get(name)
    if column is None:
        raise values.missing(f'rows["{name}"]')
    if column.dtype is not DataType.TIMESTAMP or column.validity is not None:
        raise errors.invalid(
            f'rows["{name}"]',
            column.dtype.name,
            "must be TIMESTAMP without nulls",
            errors.Reason.WRONG_TYPE,
        )
    times: npt.NDArray[np.int64] = column.values
    if len(times) and times.min() < 0:
        row = int(times.argmin())
        raise errors.invalid(f'rows["{name}"][{row}]', int(times[row]), "must not be negative")
    return times
