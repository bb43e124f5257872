import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from setpoint.common.v1 import column_pb2
from setpoint.validation.v1 import suite_pb2
from setpoint.validation.v1 import validation_service_pb2 as pb
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_rpc import channel
from setpoint_runtime import errors, ids
from setpoint_validation import testing
from setpoint_validation.service import batches
from setpoint_validation.testing import Validation

CODE = grpc.StatusCode
RULES = (
    testing.not_null("carrier"),
    testing.at_least("distance", 0),
    testing.at_least("delay", -60, flag=True),
    testing.unique("carrier", "distance"),
)


async def failing(call: Any) -> tuple[grpc.StatusCode, errors.SetpointError]:
    """Await a call that fails; return its code and typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), channel.from_rpc_error(caught.value)


def flights(
    carriers: list[str | None], distances: list[float | None], delays: list[int | None]
) -> Columns:
    return Columns.from_dict(
        {
            "carrier": (DataType.STRING, carriers),
            "distance": (DataType.FLOAT64, distances),
            "delay": (DataType.INT32, delays),
        }
    )


GOOD = flights(["AA", "UA"], [100.0, 200.0], [0, None])
BAD = flights(["AA", None, "AA"], [300.0, -1.0, 100.0], [-61, 5, 7])


@pytest.fixture
async def suite(validation: Validation) -> suite_pb2.Suite:
    """The stored suite that tables are judged by."""
    answer = await validation.stub.PutSuite(testing.put_request(*RULES, description="first"))
    stored: suite_pb2.Suite = answer.suite
    return stored


async def judged(validation: Validation, *pieces: Columns, **header: Any) -> pb.ValidationRun:
    answer = await validation.stub.ValidateBatch(testing.batch_requests(pieces, **header))
    run: pb.ValidationRun = answer.run
    return run


async def refused(validation: Validation, *pieces: Columns, **header: Any) -> errors.SetpointError:
    call = validation.stub.ValidateBatch(testing.batch_requests(pieces, **header))
    code, error = await failing(call)
    assert code == CODE.INVALID_ARGUMENT
    return error


async def test_validate_batch_passes(validation: Validation, suite: suite_pb2.Suite) -> None:
    """A good table passes; the run is stored with what it was judged by, and read the same."""
    run = await judged(validation, GOOD, source="january")
    assert (run.passed, run.rows, run.source) == (True, 2, "january")
    assert (run.suite, run.suite_version) == ("flights", suite.version)
    assert run.create_time == validation.clock.now_us()
    assert ids.is_uuid(run.run_id)
    assert [result.rule_id for result in run.results] == [rule.rule_id for rule in suite.rules]
    assert all(result.success for result in run.results)
    assert [result.missing_count for result in run.results] == [0, 0, 1, 0]
    found = await validation.stub.GetValidationRun(pb.GetValidationRunRequest(run_id=run.run_id))
    assert found.run == run


async def test_validate_batch_names_failing_rows(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """Rules see the whole table over its pieces; failing rows, values and rules are named."""
    run = await judged(validation, GOOD, BAD)
    null, least, flag, twice = run.results
    assert (run.passed, run.rows) == (False, 5)
    assert (list(null.failing_rows), null.success, null.unexpected_count) == ([3], False, 1)
    assert list(least.failing_rows) == [3]
    assert "distance: -1.0" in least.message
    assert "range_distance" in least.message
    assert (list(flag.failing_rows), flag.severity) == ([2], suite_pb2.SEVERITY_FLAG)
    assert list(twice.failing_rows) == [0, 4]
    assert {result.element_count for result in run.results} == {5}


async def test_validate_batch_flags_alone_pass(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """A table that breaks only rules that flag goes on."""
    run = await judged(validation, flights(["AA"], [1.0], [-100]))
    assert run.passed
    assert [result.success for result in run.results] == [True, True, False, True]


async def test_validate_batch_empty_table(validation: Validation, suite: suite_pb2.Suite) -> None:
    """A table without rows keeps rules about values; one without columns lacks what they look at."""
    assert (await judged(validation, flights([], [], []))).passed
    for pieces in ((), (Columns(0),)):
        run = await judged(validation, *pieces)
        assert (run.passed, run.rows) == (False, 0)
        assert "carrier: must exist" in run.results[0].message


async def test_validate_batch_aggregates(validation: Validation) -> None:
    """What was measured is told, also where it is no number."""
    await validation.stub.PutSuite(
        testing.put_request(
            suite_pb2.Rule(row_count=suite_pb2.RowCountRule(min=3)),
            suite_pb2.Rule(mean_range=suite_pb2.MeanRangeRule(column="distance", max=1)),
        )
    )
    run = await judged(validation, flights(["a", "b"], [math.nan, 1.0], [1, 2]))
    count, mean = run.results
    assert (count.success, count.observed_value) == (False, 2.0)
    assert not mean.success
    assert math.isnan(mean.observed_value)
    found = await validation.stub.GetValidationRun(pb.GetValidationRunRequest(run_id=run.run_id))
    assert math.isnan(found.run.results[1].observed_value)
    empty = await judged(validation, flights([], [], []))
    assert not empty.results[1].HasField("observed_value")


async def test_validate_batch_header_alone_first(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """The first message may leave the rows to later ones."""
    messages = [
        *testing.batch_requests([]),
        pb.ValidateBatchRequest(rows=columns_proto.to_proto(BAD)),
    ]
    answer = await validation.stub.ValidateBatch(iter(messages))
    assert (answer.run.rows, answer.run.passed) == (3, False)


async def test_validate_batch_first_1000_rows(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """The first thousand failing rows are named, all are counted."""
    half = flights([None] * 500, [1.0] * 500, [None] * 500)
    run = await judged(validation, half, half)
    assert list(run.results[0].failing_rows) == list(range(1000))
    assert run.results[3].unexpected_count == 1000


async def test_validate_batch_replay(validation: Validation, suite: suite_pb2.Suite) -> None:
    """The same table again is the same run, however it is cut; other rows under the id are refused."""
    id_ = testing.request_id()
    first = await validation.stub.ValidateBatch(testing.batch_requests([GOOD, BAD], id_=id_))
    cut = [GOOD.slice(0, 1), GOOD.slice(1, 2), BAD.slice(0, 0), BAD]
    again = await validation.stub.ValidateBatch(testing.batch_requests(cut, id_=id_.upper()))
    assert (first.replayed, again.replayed) == (False, True)
    assert first.run == again.run
    for header in ({"source": "other"}, {"version": suite.version}):
        call = validation.stub.ValidateBatch(testing.batch_requests([GOOD, BAD], id_=id_, **header))
        code, error = await failing(call)
        assert (code, error.reason) == (CODE.ALREADY_EXISTS, errors.Reason.REQUEST_ID_REUSED)
    other = flights(["AA", "UA"], [100.0, 200.0], [0, 1])
    call = validation.stub.ValidateBatch(testing.batch_requests([other, BAD], id_=id_))
    code, error = await failing(call)
    assert (code, error.reason) == (CODE.ALREADY_EXISTS, errors.Reason.REQUEST_ID_REUSED)
    listed = await validation.stub.ListValidationRuns(pb.ListValidationRunsRequest())
    assert len(listed.runs) == 1


async def test_validate_batch_replay_after_change(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """A repetition is answered with the first run, also when the suite has changed or is gone."""
    id_ = testing.request_id()
    first = await judged(validation, GOOD, id_=id_)
    await validation.stub.PutSuite(testing.put_request(testing.not_null("other")))
    assert await judged(validation, GOOD, id_=id_) == first
    await validation.stub.DeleteSuite(
        pb.DeleteSuiteRequest(request_id=testing.request_id(), name="flights")
    )
    assert await judged(validation, GOOD, id_=id_) == first
    code, error = await failing(validation.stub.ValidateBatch(testing.batch_requests([GOOD])))
    assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.SUITE_NOT_FOUND)


async def test_validate_batch_version(validation: Validation, suite: suite_pb2.Suite) -> None:
    """A table is judged by the version asked for; an unknown one is not found."""
    await validation.stub.PutSuite(testing.put_request(testing.not_null("other")))
    assert (await judged(validation, GOOD, version=suite.version)).passed
    assert not (await judged(validation, GOOD)).passed
    for version in ("0" * 64, "latest"):
        call = validation.stub.ValidateBatch(testing.batch_requests([GOOD], version=version))
        code, error = await failing(call)
        assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.SUITE_NOT_FOUND)


@pytest.mark.parametrize(
    ("second", "field", "reason"),
    [
        (GOOD.without("delay"), "requests[1].rows.delay", errors.Reason.MALFORMED_COLUMNS),
        (
            GOOD.with_column(GOOD["delay"].rename("late")),
            "requests[1].rows.late",
            errors.Reason.MALFORMED_COLUMNS,
        ),
        (
            GOOD.with_column(GOOD["delay"].cast(DataType.INT64)),
            "requests[1].rows.delay",
            errors.Reason.WRONG_TYPE,
        ),
        (Columns(2), "requests[1].rows.carrier", errors.Reason.MALFORMED_COLUMNS),
    ],
)
async def test_validate_batch_other_columns(
    validation: Validation,
    suite: suite_pb2.Suite,
    second: Columns,
    field: str,
    reason: errors.Reason,
) -> None:
    """Pieces have the same columns of the same types; the one that differs is named."""
    error = await refused(validation, GOOD, second)
    assert (error.violations[0].field, error.reason) == (field, reason)
    listed = await validation.stub.ListValidationRuns(pb.ListValidationRunsRequest())
    assert not listed.runs


async def test_validate_batch_order_of_columns(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """The order of the columns may differ between pieces."""
    assert (await judged(validation, GOOD, BAD.select(["delay", "distance", "carrier"]))).rows == 5


async def test_validate_batch_bad_headers(validation: Validation, suite: suite_pb2.Suite) -> None:
    """A wrong header is named."""
    for header, field in (
        ({"id_": ""}, "request_id"),
        ({"id_": "7"}, "request_id"),
        ({"suite": ""}, "suite"),
        ({"suite": "a b"}, "suite"),
        ({"source": "x" * 5000}, "source"),
    ):
        assert (await refused(validation, GOOD, **header)).violations[0].field == field


async def test_validate_batch_later_header(validation: Validation, suite: suite_pb2.Suite) -> None:
    """A later message may repeat the header, not change it."""
    messages = list(testing.batch_requests([GOOD, BAD]))
    messages[1].suite = "flights"
    assert (await validation.stub.ValidateBatch(iter(messages))).run.rows == 5
    messages[1].suite = "other"
    code, error = await failing(validation.stub.ValidateBatch(iter(messages)))
    assert (code, error.violations[0].field) == (CODE.INVALID_ARGUMENT, "requests[1].suite")


async def test_validate_batch_without_messages(validation: Validation) -> None:
    """A stream that ends before it began is refused."""
    code, error = await failing(validation.stub.ValidateBatch(iter(())))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.MISSING_FIELD)


async def test_validate_batch_malformed_piece(
    validation: Validation, suite: suite_pb2.Suite
) -> None:
    """Buffers that do not fit are refused by message, column and buffer, and the service goes on."""
    messages = list(testing.batch_requests([GOOD, BAD]))
    messages[1].rows.columns[1].values += b"x"
    code, error = await failing(validation.stub.ValidateBatch(iter(messages)))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.MALFORMED_COLUMNS)
    assert error.violations[0].field == "requests[1].rows.columns[1].values"
    assert (await judged(validation, GOOD)).passed


async def test_validate_batch_too_large(validation: Validation, suite: suite_pb2.Suite) -> None:
    """Too many rows, or too many bytes in columns with rules, are refused; other columns cost nothing."""
    many = pb.ValidateBatchRequest(
        request_id=testing.request_id(), suite="flights", rows=column_pb2.ColumnBatch(rows=1001)
    )
    code, error = await failing(validation.stub.ValidateBatch(iter([many])))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.TOO_LARGE)
    long = flights(["x" * 60_000], [1.0], [1])
    error = await refused(validation, long, long)
    assert (error.reason, error.violations[0].field) == (
        errors.Reason.TOO_LARGE,
        "requests[1].rows",
    )
    side = Columns.from_dict({"note": (DataType.STRING, ["x" * 200_000])})["note"]
    wide = flights(["AA"], [1.0], [1]).with_column(side)
    assert (await judged(validation, wide)).passed


@pytest.fixture
def receiving(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Is set once a table has its place."""
    event, receive = asyncio.Event(), batches.Batches._receive

    async def told(*arguments: Any) -> Any:
        event.set()
        return await receive(*arguments)

    monkeypatch.setattr(batches.Batches, "_receive", told)
    return event


async def test_validate_batch_one_at_a_time(
    validation: Validation, suite: suite_pb2.Suite, receiving: asyncio.Event
) -> None:
    """A table beyond the number that is judged at once is refused early, with a hint; the place is given back."""
    release = asyncio.Event()

    async def slow() -> AsyncIterator[pb.ValidateBatchRequest]:
        for message in testing.batch_requests([GOOD]):
            yield message
        await release.wait()

    first = asyncio.ensure_future(validation.stub.ValidateBatch(slow()))
    await receiving.wait()
    code, error = await failing(validation.stub.ValidateBatch(testing.batch_requests([GOOD])))
    assert (code, error.reason) == (CODE.RESOURCE_EXHAUSTED, errors.Reason.OVERLOADED)
    assert error.retry_after_seconds == 1.0
    release.set()
    assert (await first).run.passed
    assert (await judged(validation, GOOD)).passed


async def test_validate_batch_silent_caller(start_validation: Any) -> None:
    """A caller that sends nothing for long loses its only place to the next one."""

    async def silent() -> AsyncIterator[pb.ValidateBatchRequest]:
        for message in testing.batch_requests([GOOD]):
            yield message
        await asyncio.sleep(30)

    async with start_validation(piece_seconds=0.1) as validation:
        await validation.stub.PutSuite(testing.put_request(*RULES))
        for _ in range(2):
            code, error = await failing(validation.stub.ValidateBatch(silent()))
            assert code == CODE.DEADLINE_EXCEEDED
            assert error.reason == errors.Reason.DEADLINE_EXCEEDED
            assert "for 0.1 s" in error.message


async def test_validate_batch_cancelled(
    validation: Validation, suite: suite_pb2.Suite, receiving: asyncio.Event
) -> None:
    """A call that its caller cancels gives its place back and leaves no run."""

    async def endless() -> AsyncIterator[pb.ValidateBatchRequest]:
        for message in testing.batch_requests([GOOD]):
            yield message
        await asyncio.sleep(30)

    call = validation.stub.ValidateBatch(endless())
    await receiving.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(20):
        while True:
            try:
                await judged(validation, GOOD)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
    listed = await validation.stub.ListValidationRuns(pb.ListValidationRunsRequest())
    assert len(listed.runs) == 1


async def test_get_validation_run_not_found(validation: Validation) -> None:
    """Unknown ids are not found, whatever they look like."""
    for run_id in (str(uuid.uuid4()), "", "x"):
        request = pb.GetValidationRunRequest(run_id=run_id)
        code, error = await failing(validation.stub.GetValidationRun(request))
        assert (code, error.reason) == (CODE.NOT_FOUND, errors.Reason.VALIDATION_RUN_NOT_FOUND)


async def test_list_validation_runs_pages(validation: Validation, suite: suite_pb2.Suite) -> None:
    """Runs come newest first, in pages, by suite where asked; those of deleted suites stay."""
    await validation.stub.PutSuite(testing.put_request(testing.not_null("carrier"), name="other"))
    made = [(await judged(validation, GOOD)).run_id for _ in range(5)]
    other = (await judged(validation, GOOD, suite="other")).run_id
    await validation.stub.DeleteSuite(
        pb.DeleteSuiteRequest(request_id=testing.request_id(), name="flights")
    )
    found, token = [], ""
    while True:
        request = pb.ListValidationRunsRequest(suite="flights", page_size=2, page_token=token)
        page = await validation.stub.ListValidationRuns(request)
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    everything = await validation.stub.ListValidationRuns(pb.ListValidationRunsRequest())
    assert [run.run_id for run in everything.runs] == [other, *made[::-1]]
    first = pb.ListValidationRunsRequest(suite="flights", page_size=2)
    token = (await validation.stub.ListValidationRuns(first)).next_page_token
    wrong = pb.ListValidationRunsRequest(suite="other", page_token=token)
    code, error = await failing(validation.stub.ListValidationRuns(wrong))
    assert (code, error.reason) == (CODE.INVALID_ARGUMENT, errors.Reason.INVALID_PAGE_TOKEN)
