"""Predictions on their way: one at a time as jobs, together as works.

A job is one caller's request. A work is what goes through the stages: rows of one plan in columns,
most of the time the jobs of one moment, or a piece of a caller's batch.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns
from setpoint_router.domain.degradation import Degradation
from setpoint_router.domain.ensemble import MemberAnswer
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import AssignmentReason
from setpoint_runtime import errors

NO_TIME = -1
"""Stands for an absent event time of a value, as in the contract."""


class Trace:
    """Where a prediction stands in its caller's trace."""

    __slots__ = ("is_sampled", "parent_span_id", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, parent_span_id: int, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_span_id = parent_span_id
        self.is_sampled = is_sampled


class Mark(NamedTuple):
    """A shared call as traces show it; it belongs to the trace of one prediction."""

    name: str
    trace_id: int
    span_id: int
    parent_span_id: int
    start_us: int
    end_us: int
    rows: int


class CallersOwn(NamedTuple):
    """What a caller said beside the question, for the record alone."""

    request_id: str
    """The caller's own id of the request; may be empty."""
    headers: tuple[tuple[str, str], ...] = ()
    """Metadata that the router was told to keep, at most one value for each key."""


class Waited(Protocol):
    """A call that somebody waits for."""

    def leave(self) -> None:
        """Take note that one of those who wait has left."""
        ...


class Job:
    """One prediction that somebody waits for."""

    __slots__ = (
        "ahead",
        "arrival_time",
        "arrived",
        "call",
        "caller",
        "callers_own",
        "deadline",
        "degradations",
        "entity",
        "event_time",
        "future",
        "is_given",
        "key",
        "plan",
        "prediction_id",
        "reason",
        "route",
        "row",
        "slot",
        "source",
        "trace",
    )

    rows = 1
    """A job counts as one row in a queue."""

    source: Any
    route: ServingRoute
    plan: Plan
    is_given: bool
    row: Sequence[Any]
    entity: Sequence[Any]
    prediction_id: str
    key: str
    slot: int
    reason: AssignmentReason
    event_time: int
    arrival_time: int
    arrived: float
    ahead: int
    deadline: float
    call: "Waited | None"
    """The shared call that it waits for, or has waited for last."""
    caller: str
    callers_own: CallersOwn | None
    trace: Trace | None
    future: "asyncio.Future[Any]"
    degradations: tuple[Degradation, ...]

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()


class Work:
    """Rows of one plan and everything that is known of them so far."""

    __slots__ = (
        "arrival_times",
        "callers",
        "callers_own",
        "checks_us",
        "common",
        "deadline",
        "degradations",
        "encoded_inputs",
        "entities",
        "errors",
        "event_times",
        "features_us",
        "inference_us",
        "inputs",
        "is_given",
        "jobs",
        "keys",
        "marks",
        "members",
        "outputs",
        "plan",
        "prediction_ids",
        "prepared_us",
        "primary_ids",
        "reasons",
        "replicas",
        "reply_time",
        "rows",
        "sent",
        "slots",
        "started_us",
        "statuses",
        "traces",
        "value_times",
        "waited_us",
    )

    def __init__(self, plan: Plan, rows: int, *, is_given: bool) -> None:
        self.plan = plan
        self.rows = rows
        self.is_given = is_given
        self.jobs: Sequence[Job] | None = None
        self.prediction_ids: Sequence[str] = ()
        self.primary_ids: Sequence[str] | None = None
        """For a shadow, the predictions that its rows copy."""
        self.keys: Sequence[str] = ()
        self.slots: Sequence[int] | npt.NDArray[Any] = ()
        self.reasons: Sequence[int] | npt.NDArray[Any] = ()
        self.event_times: Sequence[int] | npt.NDArray[Any] = ()
        self.arrival_times: Sequence[int] | npt.NDArray[Any] = ()
        self.callers: Sequence[str] = ()
        self.traces: Sequence[Trace | None] | None = None
        self.deadline = 0.0
        self.sent: Columns | None = None
        """The rows as the caller of a batch sent them; jobs have their own sources."""
        self.entities: Columns | None = None
        self.inputs: Columns | None = None
        self.encoded_inputs: Any = None
        """The inputs as the transport wants them, once somebody needed that; records use it again."""
        self.statuses: Sequence[bytes] = ()
        self.value_times: Sequence[bytes] = ()
        self.outputs: Columns | None = None
        self.members: Sequence[MemberAnswer] | None = None
        """What the members of an ensemble said."""
        self.replicas: Sequence[tuple[npt.NDArray[np.intp], str]] = ()
        """Addresses of the replicas that answered, with the positions of their rows."""
        self.callers_own: Sequence[CallersOwn | None] | None = None
        """What callers said beside their questions; None when nobody said anything."""
        self.errors: dict[int, errors.SetpointError] = {}
        self.degradations: dict[int, list[Degradation]] = {}
        self.common: tuple[Degradation, ...] = ()
        """Degradations of every row."""
        self.started_us = 0
        """When the first shared call began; until then the rows were queued."""
        self.prepared_us = 0
        """When features and checks were done."""
        self.waited_us = 0
        """Time from then until inference was asked."""
        self.features_us: int | None = None
        self.checks_us: int | None = None
        self.inference_us: int | None = None
        self.reply_time = 0
        self.marks: list[Mark] = []
        """Shared calls, for traces."""

    @classmethod
    def of_jobs(cls, plan: Plan, jobs: Sequence[Job]) -> Self:
        """Returns a work of jobs that share a plan and a form."""
        made = cls(plan, len(jobs), is_given=jobs[0].is_given)
        made.jobs = jobs
        made.prediction_ids = [job.prediction_id for job in jobs]
        made.keys = [job.key for job in jobs]
        made.slots = [job.slot for job in jobs]
        made.reasons = [job.reason for job in jobs]
        made.event_times = [job.event_time for job in jobs]
        made.arrival_times = [job.arrival_time for job in jobs]
        made.callers = [job.caller for job in jobs]
        made.deadline = max([job.deadline for job in jobs])
        traces = [job.trace for job in jobs]
        made.traces = traces if any(traces) else None
        own = [job.callers_own for job in jobs]
        made.callers_own = own if any(own) else None
        for row, job in enumerate(jobs):
            if job.degradations:
                made.degradations[row] = list(job.degradations)
        return made

    def fail(self, row: int, error: errors.SetpointError) -> None:
        """Fail one row, unless it has failed before."""
        self.errors.setdefault(row, error)

    def fail_rest(self, error: errors.SetpointError) -> None:
        """Fail every row that has not failed yet and has no answer."""
        for row in range(self.rows):
            self.errors.setdefault(row, error)

    def flag(self, row: int, degradation: Degradation) -> None:
        """Note a degradation of one row."""
        self.degradations.setdefault(row, []).append(degradation)

    def degradations_of(self, row: int) -> Sequence[Degradation]:
        """Returns everything that was not as it should be with a row."""
        own = self.degradations.get(row)
        return self.common if own is None else (*own, *self.common)

    def open_rows(self) -> npt.NDArray[np.intp]:
        """Returns the rows that still want an answer."""
        jobs, failed = self.jobs, self.errors
        if jobs is None:
            rows = [row for row in range(self.rows) if row not in failed] if failed else None
        elif failed:
            rows = [row for row, job in enumerate(jobs) if row not in failed and not job.is_left]
        else:
            rows = [row for row, job in enumerate(jobs) if not job.is_left]
        return np.arange(self.rows) if rows is None else np.array(rows, np.intp)

    def take(self, rows: Sequence[int]) -> "Work":
        """Returns some rows as a work of their own."""
        indices = np.array(rows, np.intp)
        made = Work(self.plan, len(rows), is_given=self.is_given)
        for name in _COPIED:
            setattr(made, name, getattr(self, name))
        for name in _BY_ROW:
            found = getattr(self, name)
            if found is not None:
                setattr(made, name, [found[row] for row in rows])
        for name in _COLUMNS:
            found = getattr(self, name)
            setattr(made, name, None if found is None else found.take(indices))
        made.statuses = [np.frombuffer(each, np.uint8)[indices].tobytes() for each in self.statuses]
        made.value_times = [
            np.frombuffer(each, "<i8")[indices].tobytes() for each in self.value_times
        ]
        if self.replicas:
            made.replicas = _taken(self.replicas, indices)
        if self.members is not None:
            made.members = [each.take(rows) for each in self.members]
        made.errors = {at: self.errors[row] for at, row in enumerate(rows) if row in self.errors}
        made.degradations = {
            at: list(self.degradations[row])
            for at, row in enumerate(rows)
            if row in self.degradations
        }
        return made

    @property
    def lead(self) -> Trace | None:
        """The first sampled trace, to which the shared calls belong."""
        if self.traces is None:
            return None
        return next((each for each in self.traces if each is not None and each.is_sampled), None)


_COPIED = (
    "deadline",
    "common",
    "started_us",
    "prepared_us",
    "waited_us",
    "features_us",
    "checks_us",
    "inference_us",
    "reply_time",
    "marks",
)
_BY_ROW = (
    "jobs",
    "prediction_ids",
    "primary_ids",
    "keys",
    "slots",
    "reasons",
    "event_times",
    "arrival_times",
    "callers",
    "callers_own",
    "traces",
)
_COLUMNS = ("sent", "entities", "inputs", "outputs")


def _taken(
    parts: Sequence[tuple[npt.NDArray[np.intp], str]], rows: npt.NDArray[np.intp]
) -> list[tuple[npt.NDArray[np.intp], str]]:
    """Returns parts by the new positions of some rows."""
    found = [(np.flatnonzero(np.isin(rows, indices)), name) for indices, name in parts]
    return [(indices, name) for indices, name in found if len(indices)]


def joined(works: Sequence[Work]) -> Work:
    """Returns one work of several works of the same plan, in order.

    Shared calls keep their own traces only in the first work; stage times are those of the slowest.
    """
    if len(works) == 1:
        return works[0]
    jobs = [job for work in works for job in work.jobs or ()]
    made = Work.of_jobs(works[0].plan, jobs)
    made.degradations = {}
    start = 0
    for work in works:
        for row, error in work.errors.items():
            made.errors[start + row] = error
        for row in range(work.rows):
            if found := work.degradations_of(row):
                made.degradations[start + row] = list(found)
        start += work.rows
    made.entities = Columns.concat([_columns(work.entities) for work in works])
    made.inputs = Columns.concat([_columns(work.inputs) for work in works])
    made.statuses = [b"".join(parts) for parts in zip(*(w.statuses for w in works), strict=True)]
    made.value_times = [
        b"".join(parts) for parts in zip(*(w.value_times for w in works), strict=True)
    ]
    made.started_us = min(work.started_us for work in works)
    made.prepared_us = min(work.prepared_us for work in works)
    made.features_us = max((work.features_us or 0) for work in works)
    made.checks_us = max((work.checks_us or 0) for work in works)
    made.marks = [mark for work in works for mark in work.marks]
    return made


def _columns(columns: Columns | None) -> Columns:
    if columns is None:
        raise AssertionError("works are joined once their columns are there")
    return columns


def assembled(parts: Sequence[tuple[npt.NDArray[np.intp], Columns]], rows: int) -> Columns | None:
    """Returns the outputs of some rows as outputs of all, null where there is none.

    Args:
        parts: Rising positions of rows and their outputs; no row is in two parts.
        rows: Number of rows of all.
    """
    if not parts:
        return None
    if len(parts) == 1 and len(parts[0][0]) == rows:
        return parts[0][1]
    together = Columns.concat([columns for _, columns in parts])
    positions = np.full(rows, -1, np.intp)
    positions[np.concatenate([indices for indices, _ in parts])] = np.arange(together.rows)
    return _spread(together, positions)


def _spread(columns: Columns, positions: npt.NDArray[np.intp]) -> Columns:
    """Returns rows at positions, null where a position is negative."""
    present = positions >= 0
    taken = columns.take(np.maximum(positions, 0))
    return Columns(taken.rows, [_with_nulls(each, present) for each in taken.columns])


def _with_nulls(column: Column, present: npt.NDArray[np.bool_]) -> Column:
    valid = present if column.validity is None else present & column.validity
    return Column(column.name, column.dtype, column.values, column.offsets, valid, column.rows)
