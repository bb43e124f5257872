"""Spans of predictions, built from what is known anyway, after the answers.

Each prediction gets a span of its own in its caller's trace. A shared call has one span, in the
trace of the first prediction of the batch, where the spans of feature and inference service hang
below it; the other predictions link to it.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from opentelemetry.trace import SpanKind

import setpoint_telemetry
from setpoint_router.convert import records
from setpoint_router.domain import degradation
from setpoint_router.domain.work import Mark, Trace, Work
from setpoint_telemetry import SpanRecord, names

SCOPE = "setpoint.router"
PAUSE_SECONDS = 0.2
MAX_WORKS = 2000
"""Works that wait for their spans; beyond, the oldest go without. The records have everything."""

SPANS_A_TURN = 200
"""Spans built before others get their turn on the loop."""

_REMEMBERED_MARKS = 4096


class SpanBuilder:
    """Collects works and builds their spans in the background."""

    def __init__(self, *, with_values: bool = True) -> None:
        """Prepare a builder; `with_values` adds the inputs that are not sensitive."""
        self._works: deque[Work] = deque(maxlen=MAX_WORKS)
        self._marks: OrderedDict[int, None] = OrderedDict()
        self._with_values = with_values

    def answered(self, work: Work) -> None:
        """Take a work whose rows have all been answered."""
        if work.traces is not None and setpoint_telemetry.enabled():
            self._works.append(work)

    async def run(self) -> None:
        """Build spans until cancelled, and then for what is left."""
        try:
            while True:
                await asyncio.sleep(PAUSE_SECONDS)
                while self._works:
                    self._emit(self._works.popleft())
                    await asyncio.sleep(0)
        finally:
            while self._works:
                self._emit(self._works.popleft())

    def _emit(self, work: Work) -> None:
        setpoint_telemetry.emit(self._spans(work), scope=SCOPE)

    def _spans(self, work: Work) -> Iterator[SpanRecord]:
        for mark in work.marks:
            if mark.span_id not in self._marks:
                self._remember(mark)
                yield _shared(mark, work)
        common = _common(work)
        if work.jobs is None:
            # The rows of a caller's own batch have the span of their call.
            return
        # Column by column once, rather than value by value for each row.
        shown, rows = _shown(work) if self._with_values else ((), ())
        for row, trace in enumerate(work.traces or ()):
            if trace is not None and trace.is_sampled:
                values = zip(shown, rows[row], strict=True) if shown else ()
                yield _prediction(work, row, trace, common, values)

    def _remember(self, mark: Mark) -> None:
        self._marks[mark.span_id] = None
        if len(self._marks) > _REMEMBERED_MARKS:
            self._marks.popitem(last=False)


def _prediction(
    work: Work,
    row: int,
    trace: Trace,
    common: dict[str, str | int],
    values: Iterable[tuple[str, str | bool | int | float | None]],
) -> SpanRecord:
    """Returns the span of one prediction; nulls among the values are left out."""
    attributes: dict[str, str | bool | int | float] = {
        **common,
        names.PREDICTION_ID: work.prediction_ids[row],
        names.SLOT: int(work.slots[row]),
        names.ASSIGNMENT_REASON: int(work.reasons[row]),
        names.CALLER: work.callers[row],
    }
    if found := work.degradations_of(row):
        attributes[names.DEGRADED] = degradation.to_text(found)
    error = work.errors.get(row)
    if error is not None:
        attributes[names.ERROR_REASON] = error.reason.value
    attributes[names.RPC_STATUS_CODE] = 0 if error is None else records.code_of(error)
    attributes.update((name, value) for name, value in values if value is not None)
    return SpanRecord(
        name="setpoint.predict",
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_span_id=trace.parent_span_id or None,
        start_us=int(work.arrival_times[row]),
        end_us=work.reply_time,
        kind=SpanKind.SERVER,
        error=None if error is None else error.message,
        attributes=attributes,
        links=[
            (mark.trace_id, mark.span_id) for mark in work.marks if mark.trace_id != trace.trace_id
        ],
    )


def _common(work: Work) -> dict[str, str | int]:
    """Returns what is the same for all rows."""
    plan = work.plan
    found: dict[str, str | int] = {
        names.MODEL: plan.route.content.model,
        names.MODEL_VERSION: plan.version.version,
        names.ROUTE: plan.route.name,
        names.ROUTE_REVISION: plan.route.revision,
        names.BATCH_SIZE: work.rows,
    }
    if plan.feature_set is not None and not work.is_given:
        found[names.FEATURE_SET] = plan.feature_set.name
        found[names.FEATURE_SET_VERSION] = plan.feature_set.version
    return found


def _shared(mark: Mark, work: Work) -> SpanRecord:
    """Returns the span of a shared call."""
    return SpanRecord(
        name=f"setpoint.predict.{mark.name}",
        trace_id=mark.trace_id,
        span_id=mark.span_id,
        parent_span_id=mark.parent_span_id,
        start_us=mark.start_us,
        end_us=mark.end_us,
        kind=SpanKind.CLIENT,
        attributes={**_common(work), names.BATCH_SIZE: mark.rows},
    )


def _shown(work: Work) -> tuple[Sequence[str], Sequence[tuple[Any, ...]]]:
    """Returns the names of the inputs that may be shown, and their values for each row."""
    if work.inputs is None:
        return (), ()
    hidden = work.plan.version.sensitive_inputs
    shown = [column for column in work.inputs.columns if column.name not in hidden]
    rows = list(zip(*(column.to_list() for column in shown), strict=True))
    return [names.FEATURE_VALUE_PREFIX + column.name for column in shown], rows
