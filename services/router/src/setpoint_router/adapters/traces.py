"""Spans of predictions, built from what is known anyway, after the answers.

Each prediction gets a span of its own in its caller's trace. A shared call has one span, in the
trace of the first prediction of the batch, where the spans of feature and inference service hang
below it; the other predictions link to it.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import lru_cache

from opentelemetry.trace import SpanKind

import setpoint_telemetry
from setpoint_router.convert import records
from setpoint_router.domain import degradation
from setpoint_router.domain.values import FLOATS
from setpoint_router.domain.work import Mark, Trace, Work
from setpoint_telemetry import SpanRecord, encoding, names

_LOGGER = logging.getLogger(__name__)

SCOPE = "setpoint.router"
PAUSE_SECONDS = 0.2
MAX_WORKS = 2000
"""Works that wait for their spans; beyond, the oldest go without. The records have everything."""

MAX_VALUES = 48
"""Inputs of a prediction that its span shows; with what else it says it stays within its bounds."""

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
        try:
            setpoint_telemetry.emit(self._spans(work), scope=SCOPE)
        except Exception:
            # Spans are for looking; predictions go on without them, and their records tell more.
            _LOGGER.exception("the spans of %d predictions could not be built", work.rows)

    def _spans(self, work: Work) -> Iterator[SpanRecord]:
        for mark in work.marks:
            if mark.span_id not in self._marks:
                self._remember(mark)
                yield _shared(mark, work)
        if work.jobs is None:
            # The rows of a caller's own batch have the span of their call.
            return
        common = encoding.attributes(_common(work))
        values = _Values(work) if self._with_values else None
        for row, trace in enumerate(work.traces or ()):
            if trace is not None and trace.is_sampled:
                encoded = common if values is None else common + values.of(row)
                yield _prediction(work, row, trace, encoded)

    def _remember(self, mark: Mark) -> None:
        self._marks[mark.span_id] = None
        if len(self._marks) > _REMEMBERED_MARKS:
            self._marks.popitem(last=False)


def _prediction(work: Work, row: int, trace: Trace, encoded: bytes) -> SpanRecord:
    """Returns the span of one prediction, which also has the encoded attributes."""
    attributes: dict[str, str | bool | int | float] = {
        names.PREDICTION_ID: work.prediction_ids[row],
    }
    if found := work.degradations_of(row):
        attributes[names.DEGRADED] = degradation.to_text(found)
    error = work.errors.get(row)
    if error is not None:
        attributes[names.ERROR_REASON] = error.reason.value
    status = 0 if error is None else records.code_of(error)
    encoded += _number(names.SLOT, int(work.slots[row])) + _facts(
        int(work.reasons[row]), work.callers[row], status
    )
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
        encoded=encoded,
        links=[
            (mark.trace_id, mark.span_id) for mark in work.marks if mark.trace_id != trace.trace_id
        ],
    )


@lru_cache(maxsize=10_000)
def _number(name: str, number: int) -> bytes:
    return encoding.attributes({name: number})


@lru_cache(maxsize=1000)
def _facts(reason: int, caller: str, status: int) -> bytes:
    """Returns the attributes that many predictions have in common, whatever their batch."""
    return encoding.attributes(
        {names.ASSIGNMENT_REASON: reason, names.CALLER: caller, names.RPC_STATUS_CODE: status}
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


class _Values:
    """The inputs of a work that may be shown, as attributes of its rows.

    They are taken column by column, rather than value by value for each row, and numbers without
    nulls, which most are, are written together.
    """

    def __init__(self, work: Work) -> None:
        columns = () if work.inputs is None else work.inputs.columns
        hidden = work.plan.version.sensitive_inputs
        shown = [column for column in columns if column.name not in hidden][:MAX_VALUES]
        numbers, self._others = [], []
        for column in shown:
            if column.dtype in FLOATS and column.validity is None:
                numbers.append(column)
            else:
                named = names.FEATURE_VALUE_PREFIX + column.name
                self._others.append((named, column.to_list()))
        self._numbers = _numbers(tuple([each.name for each in numbers]))
        self._rows = list(zip(*(each.to_list() for each in numbers), strict=True))

    def of(self, row: int) -> bytes:
        """Returns the attributes of a row; a null has none."""
        encoded = self._numbers.encode(self._rows[row]) if self._rows else b""
        if self._others:
            others = {name: values[row] for name, values in self._others}
            present = {name: value for name, value in others.items() if value is not None}
            encoded += encoding.attributes(present)
        return encoded


@lru_cache(maxsize=256)
def _numbers(inputs: tuple[str, ...]) -> encoding.Numbers:
    return encoding.Numbers([names.FEATURE_VALUE_PREFIX + name for name in inputs])
