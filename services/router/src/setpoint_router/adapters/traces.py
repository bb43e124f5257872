"""Spans of predictions, built from what is known anyway, after the answers.

Each prediction gets a span of its own in its caller's trace. A shared call has one span, in the
trace of the first prediction of the batch, where the spans of feature and inference service hang
below it; the other predictions link to it.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from opentelemetry.trace import SpanKind

import setpoint_telemetry
from setpoint_router.convert import records
from setpoint_router.domain import degradation
from setpoint_router.domain.values import FLOATS
from setpoint_router.domain.work import Mark, Work
from setpoint_telemetry import SpanRecord, encoding, names

_LOGGER = logging.getLogger(__name__)

SCOPE = "setpoint.router"
PAUSE_SECONDS = 0.2
MAX_WORKS = 2000
"""Works that wait for their spans; beyond, the oldest go without. The records have everything."""

MAX_VALUES = 48
"""Inputs of a prediction that its span shows; with what else it says it stays within its bounds."""

TOGETHER_ROWS = 32
"""Predictions whose spans are built in one go, while calls wait."""

_REMEMBERED_MARKS = 4096


class _Answered(NamedTuple):
    """A work that waits for its spans."""

    work: Work
    is_batch: bool
    """It was a piece of a caller's own batch."""


class SpanBuilder:
    """Collects works and builds their spans in the background."""

    def __init__(self, *, with_values: bool = True) -> None:
        """Prepare a builder; `with_values` adds the inputs that are not sensitive."""
        self._works: deque[_Answered] = deque(maxlen=MAX_WORKS)
        self._marks: OrderedDict[int, None] = OrderedDict()
        self._with_values = with_values

    def answered(self, work: Work) -> None:
        """Take a work whose rows have all been answered."""
        if work.traces is not None and setpoint_telemetry.enabled():
            # The rows of a caller's own batch have the span of their call.
            self._works.append(_Answered(work, is_batch=work.jobs is None))

    async def run(self) -> None:
        """Build spans until cancelled, and then for what is left."""
        try:
            while True:
                await asyncio.sleep(PAUSE_SECONDS)
                while self._works:
                    self._emit(self._take())
                    await asyncio.sleep(0)
        finally:
            while self._works:
                self._emit(self._take())

    def _take(self) -> list["_Answered"]:
        """Return the next works: small ones together, since to hand spans over costs more than they do."""
        taken, rows = [], 0
        while self._works and rows < TOGETHER_ROWS:
            taken.append(self._works.popleft())
            rows += taken[-1].work.rows
        return taken

    def _emit(self, works: Sequence["_Answered"]) -> None:
        spans: list[bytes] = []
        for each in works:
            with _reported(each.work.rows):
                spans += self._spans(each)
        with _reported(len(spans)):
            setpoint_telemetry.emit(spans, scope=SCOPE)

    def _spans(self, answered: "_Answered") -> Iterator[bytes]:
        work = answered.work
        for mark in work.marks:
            if mark.span_id not in self._marks:
                self._remember(mark)
                yield encoding.span(_shared(mark, work))
        if not answered.is_batch:
            yield from _predictions(work, _Values(work) if self._with_values else None)

    def _remember(self, mark: Mark) -> None:
        self._marks[mark.span_id] = None
        if len(self._marks) > _REMEMBERED_MARKS:
            self._marks.popitem(last=False)


@contextlib.contextmanager
def _reported(count: int) -> Iterator[None]:
    """Goes on after an error, which the log tells.

    Spans are for looking; predictions go on without them, and their records tell more.
    """
    try:
        yield
    except Exception:
        _LOGGER.exception("the spans of %d predictions could not be built", count)


def _predictions(work: Work, values: "_Values | None") -> Iterator[bytes]:
    """Returns the spans of single predictions that shared their work."""
    alike = encoding.Alike("setpoint.predict", SpanKind.SERVER, work.reply_time)
    common = _common(work) + _number(names.BATCH_SIZE, work.rows)
    marks = [(mark.trace_id, mark.span_id) for mark in work.marks]
    lead_ids, links = {trace_id for trace_id, _ in marks}, encoding.links(marks)
    is_good = not (work.errors or work.degradations or work.common)
    ids, slots, reasons, callers = work.prediction_ids, work.slots, work.reasons, work.callers
    for row, trace in enumerate(work.traces or ()):
        if trace is None or not trace.is_sampled:
            continue
        status, error, extra = (0, None, b"") if is_good else _outcome(work, row)
        trace_id = trace.trace_id
        yield alike.span(
            trace_id,
            trace.span_id,
            trace.parent_span_id,
            int(work.arrival_times[row]),
            b"".join(
                (
                    encoding.text(names.PREDICTION_ID, ids[row]),
                    common,
                    _number(names.SLOT, int(slots[row])),
                    _facts(int(reasons[row]), callers[row], status),
                    extra,
                    b"" if values is None else values.of(row),
                )
            ),
            links
            if trace_id not in lead_ids
            else encoding.links(each for each in marks if each[0] != trace_id),
            error,
        )


def _outcome(work: Work, row: int) -> tuple[int, str | None, bytes]:
    """Returns the status of a prediction, what went wrong, and what its span says of that."""
    said: dict[str, str] = {}
    if found := work.degradations_of(row):
        said[names.DEGRADED] = degradation.to_text(found)
    error = work.errors.get(row)
    if error is None:
        return 0, None, encoding.attributes(said)
    said[names.ERROR_REASON] = error.reason.value
    return records.code_of(error), error.message, encoding.attributes(said)


@lru_cache(maxsize=10_000)
def _number(name: str, number: int) -> bytes:
    return encoding.attributes({name: number})


@lru_cache(maxsize=1000)
def _facts(reason: int, caller: str, status: int) -> bytes:
    """Returns the attributes that many predictions have in common, whatever their batch."""
    return encoding.attributes(
        {names.ASSIGNMENT_REASON: reason, names.CALLER: caller, names.RPC_STATUS_CODE: status}
    )


def _common(work: Work) -> bytes:
    """Returns the attributes of everything that is done for a plan."""
    plan = work.plan
    name = "given_span" if work.is_given else "span"
    found: bytes | None = plan.cache.get(name)
    if found is None:
        said: dict[str, str | int] = {
            names.MODEL: plan.route.content.model,
            names.MODEL_VERSION: plan.version.version,
            names.ROUTE: plan.route.name,
            names.ROUTE_REVISION: plan.route.revision,
        }
        if plan.feature_set is not None and not work.is_given:
            said[names.FEATURE_SET] = plan.feature_set.name
            said[names.FEATURE_SET_VERSION] = plan.feature_set.version
        plan.cache[name] = found = encoding.attributes(said)
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
        encoded=_common(work) + _number(names.BATCH_SIZE, mark.rows),
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
