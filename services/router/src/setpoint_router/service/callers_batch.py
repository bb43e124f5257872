"""One caller's rows on their way: who answers each of them, what is wrong with it, what it got."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_router.domain import assignment, degradation, identity, table, values
from setpoint_router.domain.plan import Plan, ServingRoute
from setpoint_router.domain.route import MAX_KEY_LENGTH, AssignmentReason
from setpoint_router.domain.work import Work
from setpoint_router.service.predictor import Origin
from setpoint_runtime import errors

_KEY_SEPARATOR = "\x1f"

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


class Batch:
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
        at = neighbours(rows)
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
        span = neighbours(rows)
        self.versions[span] = work.plan.version.version
        self.reasons[span] = work.reasons
        if work.outputs is not None:
            for column in work.outputs.columns:
                self.outputs.setdefault(column.name, []).append((rows, column))


def neighbours(rows: Rows) -> "Rows | slice":
    """Return rising rows as a slice where they are neighbours, which costs no copy of what they have."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def some(columns: Columns, rows: Rows) -> Columns:
    """Return some rows of columns."""
    span = neighbours(rows)
    return columns.slice(span.start, span.stop) if isinstance(span, slice) else columns.take(span)


def _id_column(ids: identity.PredictionIds) -> Column:
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * identity.ID_LENGTH
    return Column("prediction_id", DataType.STRING, ids.characters.reshape(-1), offsets)


def check_columns(batch: Batch, plan: Plan) -> None:
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
    _ = parted(batch, plan, np.zeros(0, np.intp))


def suits(batch: Batch, plan: Plan) -> bool:
    """Say whether a plan can stand in for another one."""
    try:
        check_columns(batch, plan)
    except errors.InvalidArgumentError:
        return False
    return True


def parted(
    batch: Batch, plan: Plan, rows: Rows
) -> tuple[Rows, tuple[Rows, Sequence[errors.SetpointError]]]:
    """Return the rows that can go on, and the others with what is wrong with them.

    Raises:
        InvalidArgumentError: A column is absent or of another type.
    """
    version, sent = plan.version, some(batch.ask.rows, rows)
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


def check_names(batch: Batch) -> None:
    """Refuse a batch with a column that no version of the route asks for.

    Raises:
        InvalidArgumentError: Names it.
    """
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
