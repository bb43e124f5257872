"""Works: cut, joined, put together again; and what is recorded of them."""

from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies

from setpoint.monitoring.v1 import prediction_pb2
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_router.convert import records
from setpoint_router.domain import degradation, identity, plan, route, work
from setpoint_runtime import errors

STALE = degradation.Degradation(degradation.DegradationKind.FEATURE_STALE, "x")
SKIPPED = degradation.Degradation(degradation.DegradationKind.CHECKS_SKIPPED, "")
VERSION = route.ServedVersion(
    version=1,
    inputs=(route.Field("x", DataType.FLOAT64),),
    outputs=(route.Field("y", DataType.FLOAT64),),
    feature_set=route.FeatureSet("set", "1"),
    sensitive_inputs=("x",),
    score_column="y",
)
ROUTE = route.first_revision(
    route.Content(name="r", model="m", weights={1: 10_000}), (VERSION,), 1_000
)
PLAN = plan.serving_route(ROUTE).plans[0]
TEXTS = strategies.text(max_size=12)


class Waiting:
    """A future that nobody resolves."""

    def done(self) -> bool:
        return False


def made(keys: list[str], **fields: Any) -> work.Work:
    """Returns a work of one row for each key, with everything filled in."""
    jobs = []
    for number, key in enumerate(keys):
        job = work.Job()
        job.callers_own = None
        job.plan, job.is_given, job.key, job.slot = PLAN, False, key, number
        job.prediction_id, job.caller = f"{number:036d}", f"caller {key}"
        job.reason, job.event_time, job.arrival_time = route.AssignmentReason.SLOT, number, 10
        job.deadline, job.degradations = float(number), ()
        job.trace = work.Trace(number + 1, 7, 0, True) if number % 2 else None
        job.future = Waiting()  # type: ignore[assignment]  # all that is looked at
        jobs.append(job)
    found = work.Work.of_jobs(PLAN, jobs)
    rows = len(keys)
    found.entities = Columns(rows, [Column.from_list("k", keys, DataType.STRING)])
    numbers = np.arange(rows, dtype=np.float64)
    found.inputs = Columns(rows, [Column.from_numpy("x", numbers)])
    found.outputs = Columns(rows, [Column.from_numpy("y", numbers * 2)])
    found.statuses = [bytes([1 + number % 4 for number in range(rows)])]
    found.value_times = [np.arange(rows, dtype="<i8").tobytes()]
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def parsed(found: work.Work) -> tuple[prediction_pb2.PredictionRecords, list[dict[str, Any]]]:
    """Returns the record of a work, and its rows as readers see them, fully checked."""
    payload = records.WorkRecorder("me").record(found)
    record = prediction_pb2.PredictionRecords.FromString(payload)
    return record, testing.predictions_of(record).to_rows()


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.lists(TEXTS, min_size=1, max_size=20), strategies.data())
def test_record_tells_everything(keys: list[str], data: strategies.DataObject) -> None:
    """Shows that any keys, failures and degradations come back from a record as they were."""
    found = made(keys, started_us=15, waited_us=2, features_us=3, inference_us=None)
    for row in data.draw(strategies.sets(strategies.integers(0, len(keys) - 1))):
        found.fail(row, errors.invalid("f", row, "must be otherwise"))
    for row in data.draw(strategies.sets(strategies.integers(0, len(keys) - 1))):
        found.flag(row, STALE)
    found.common = data.draw(strategies.sampled_from([(), (SKIPPED,)]))
    record, rows = parsed(found)
    assert (record.route, record.route_revision, record.score_column) == ("r", 1, "y")
    assert (record.model_version.model, record.feature_set.name) == ("m", "set")
    assert list(record.sensitive_inputs) == ["x"]
    assert columns_proto.from_proto(record.entities)["k"].to_list() == keys
    for number, told in enumerate(rows):
        assert (told["assignment_key"], told["slot"]) == (keys[number], number)
        assert told["caller"] == f"caller {keys[number]}"
        failed = found.errors.get(number)
        assert told["status"] == (3 if failed else 0)
        assert told["error"] == (f"INVALID_FIELD: {failed.message}" if failed else None)
        expected = degradation.to_text(found.degradations_of(number)) or None
        assert told["degradations"] == expected
        assert told["trace_id"] == (f"{number + 1:032x}" if number % 2 else None)
        assert (told["queue_microseconds"], told["features_microseconds"]) == (7, 3)
        assert told["inference_microseconds"] is None


def of_batch(rows: int, **fields: Any) -> work.Work:
    """Returns a work of a caller's own batch, whose inputs came with the question."""
    found = work.Work(PLAN, rows, is_given=True)
    found.prediction_ids = identity.prediction_ids(rows, 1)
    found.keys = found.prediction_ids
    found.slots = np.arange(rows, dtype=np.int32)
    found.reasons = np.full(rows, route.AssignmentReason.SLOT, np.int32)
    found.event_times = np.arange(rows)
    found.arrival_times = np.full(rows, 10)
    found.callers = ["me"] * rows
    found.started_us, found.reply_time, found.checks_us = 15, 99, 2
    found.inputs = Columns(rows, [Column.from_numpy("x", np.arange(rows) / 2)])
    found.statuses, found.value_times = [b"\5" * rows], [b"\xff" * 8 * rows]
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def test_record_says_once_what_a_batch_shares() -> None:
    """Shows that what all rows of a batch have in common stands in its record once, and reads as ever."""
    trace = work.Trace(3, 4, 0, True)
    record, rows = parsed(of_batch(1_000, traces=[trace] * 1_000))
    own = columns_proto.from_proto(record.predictions).names
    assert own == ("prediction_id", "event_time", "slot", "status")
    assert not record.input_statuses
    assert not record.input_event_times
    for number, told in enumerate(rows):
        assert told["assignment_key"] == told["prediction_id"]
        assert (told["slot"], told["event_time"]) == (number, number)
        assert (told["arrival_time"], told["reply_time"], told["caller"]) == (10, 99, "me")
        assert (told["trace_id"], told["span_id"]) == (f"{3:032x}", f"{4:016x}")
        assert (told["queue_microseconds"], told["checks_microseconds"]) == (5, 2)
        assert told["features_microseconds"] is told["error"] is told["degradations"] is None
    assert record.ByteSize() < 1_000 * 75


@hypothesis.given(
    strategies.lists(strategies.integers(10, 11), min_size=1, max_size=5),
    strategies.lists(strategies.sampled_from(["a", "b", ""]), min_size=5, max_size=5),
)
def test_record_keeps_what_differs(times: list[int], callers: list[str]) -> None:
    """Shows that a value which a single row does not share is told of each row."""
    rows = len(times)
    found = of_batch(rows, arrival_times=np.array(times), callers=callers[:rows])
    _, told = parsed(found)
    assert [each["arrival_time"] for each in told] == times
    assert [each["caller"] for each in told] == callers[:rows]
    assert [each["queue_microseconds"] for each in told] == [15 - each for each in times]


def test_record_of_nothing_known() -> None:
    """Shows that a prediction which failed at once is recorded without inputs."""
    found = made(["a", "b"], inputs=None, outputs=None, entities=None, statuses=(), value_times=())
    found.fail_rest(errors.invalid("f", 1, "must be otherwise"))
    record, rows = parsed(found)
    assert [row["status"] for row in rows] == [3, 3]
    assert (record.inputs.rows, record.entities.rows, record.outputs.rows) == (2, 2, 2)
    assert not record.inputs.columns


@hypothesis.settings(deadline=None)
@hypothesis.given(
    strategies.lists(strategies.integers(1, 5), min_size=1, max_size=4), strategies.data()
)
def test_take_of_joined_gives_parts(sizes: list[int], data: strategies.DataObject) -> None:
    """Shows that joining works and cutting them apart again changes nothing that is recorded."""
    parts = []
    for at, size in enumerate(sizes):
        part = made([f"{at}-{row}" for row in range(size)], outputs=None)
        for row in data.draw(strategies.sets(strategies.integers(0, size - 1))):
            part.fail(row, errors.invalid("f", f"{at}-{row}", "must be otherwise"))
        for row in data.draw(strategies.sets(strategies.integers(0, size - 1))):
            part.flag(row, STALE)
        parts.append(part)
    together = work.joined(parts)
    assert together.rows == sum(sizes)
    start = 0
    for part in parts:
        again = together.take(range(start, start + part.rows))
        record, rows = parsed(again)
        expected, expected_rows = parsed(part)
        for told in (*rows, *expected_rows):
            for name in list(told):
                if name.endswith("microseconds"):
                    del told[name]
        assert rows == expected_rows
        assert record.inputs == expected.inputs
        assert record.entities == expected.entities
        assert record.input_statuses == expected.input_statuses
        assert record.input_event_times == expected.input_event_times
        start += part.rows


@hypothesis.given(strategies.integers(1, 12), strategies.randoms(use_true_random=False))
def test_assembled_finds_rows(rows: int, chance: Any) -> None:
    """Shows that answers of pieces in any order end up in their rows, nulls in the others."""
    order = list(range(rows))
    chance.shuffle(order)
    present = order[: chance.randint(0, rows)]
    cut = chance.randint(0, len(present))
    first, second = sorted(present[:cut]), sorted(present[cut:])
    parts = [
        (np.array(piece, np.intp), Columns(len(piece), [_numbers(piece)]))
        for piece in (second, first)
        if piece
    ]
    found = work.assembled(parts, rows)
    if not present:
        assert found is None
        return
    assert found is not None
    expected = [row * 10.0 if row in present else None for row in range(rows)]
    assert found["y"].to_list() == expected


def _numbers(rows: list[int]) -> Column:
    return Column.from_numpy("y", np.array(rows) * 10.0)
