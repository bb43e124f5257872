"""PredictBatch over the wire."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_router.domain import assignment
from setpoint_router.service import stages
from setpoint_rpc import channel
from setpoint_runtime import errors, ids

GIVEN = {
    "share": value_pb2.Value(double_value=0.5),
    "delay": value_pb2.Value(double_value=2.0),
    "hour": value_pb2.Value(int_value=8),
    "origin": value_pb2.Value(string_value="JFK"),
}


def given(rows: int) -> Columns:
    """Returns rows that hold every input."""
    return Columns.from_dict(
        {
            "share": (DataType.FLOAT64, [number / 4 for number in range(rows)]),
            "delay": (DataType.FLOAT64, [1.0] * rows),
            "hour": (DataType.INT64, [number % 24 for number in range(rows)]),
            "origin": (DataType.STRING, ["JFK"] * rows),
        }
    )


def keyed(rows: int) -> Columns:
    """Returns rows that hold keys and request fields."""
    return Columns.from_dict(
        {
            "carrier": (DataType.STRING, [f"c{number}" for number in range(rows)]),
            "hour": (DataType.INT64, [number % 24 for number in range(rows)]),
            "origin": (DataType.STRING, ["JFK"] * rows),
        }
    )


async def predict(router: Any, rows: Columns, **fields: Any) -> tuple[Columns, Columns, int]:
    """Returns results, outputs and revision of a batch."""
    fields.setdefault("route", "flights")
    answer = await router.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(rows=columns_proto.to_proto(rows), **fields),
        timeout=30,
    )
    return (
        columns_proto.from_proto(answer.results),
        columns_proto.from_proto(answer.outputs),
        answer.route_revision,
    )


async def refusal(call: Any) -> errors.SetpointError:
    """Returns the typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return channel.from_rpc_error(caught.value)


async def wait_for_records(router: Any, count: int) -> None:
    """Waits until monitoring has so many predictions."""
    async with asyncio.timeout(20):
        while len(router.peers.ingest.ids) < count:
            await asyncio.sleep(0.01)


async def test_predict_batch_given(router: Any) -> None:
    """Shows that rows with all inputs are answered in order, each a prediction of its own."""
    results, outputs, revision = await predict(router, given(1_000))
    assert revision == 1
    expected = [1e6 + number / 4 + 1 + number % 24 for number in range(1_000)]
    assert outputs["score"].to_list() == expected
    found = results["prediction_id"].to_list()
    assert len(set(found)) == 1_000
    assert all(map(ids.is_uuid, found))
    assert set(results["status"].to_list()) == {0}
    assert results["error"].null_count == results["degradations"].null_count == 1_000
    slots = assignment.slots_of("flights", found)
    assert results["slot"].to_list() == slots.tolist()
    await wait_for_records(router, 1_000)
    assert set(router.peers.ingest.ids) == set(found)


async def test_predict_batch_by_entity(router: Any) -> None:
    """Shows that features are fetched for rows with keys, and statuses told by row."""
    router.peers.features.statuses = {"c3": 2, "c5": 3}
    results, outputs, _ = await predict(router, keyed(10), event_time=77)
    scores = [1e6 + (0 if n == 5 else 2 + sum(map(ord, f"c{n}"))) + n for n in range(10)]
    assert outputs["score"].to_list() == scores
    flags = results["degradations"].to_list()
    assert flags[3] == "FEATURE_STALE:share,FEATURE_STALE:delay"
    assert flags[5] == "FEATURE_MISSING:share,FEATURE_MISSING:delay"
    assert [each for at, each in enumerate(flags) if at not in (3, 5)] == [None] * 8
    await wait_for_records(router, 10)
    row = router.peers.ingest.row(results["prediction_id"].item(3))
    assert (row["event_time"], row["entities"]) == (77, {"carrier": "c3"})
    assert row["assignment_key"] == "c3"


async def test_share_of_users_holds_over_many_requests(router: Any) -> None:
    """Shows that one in ten users gets the canary, always the same ones, however often they ask."""
    await router.create("canary", weights={1: 9_000, 2: 1_000})
    users, times = 500, 20
    asked = given(users * times).with_column(
        Column.from_list(
            "user", [f"user-{number % users}" for number in range(users * times)], DataType.STRING
        )
    )
    results, _, _ = await predict(router, asked, route="canary", assignment_key_column="user")
    versions = np.array(results["version"].to_list()).reshape(times, users)
    assert (versions == versions[0]).all()
    slots = assignment.slots_of("canary", [f"user-{number}" for number in range(users)])
    canary = set(slots[versions[0] == 2].tolist())
    assert canary
    assert canary.isdisjoint(slots[versions[0] == 1].tolist())
    # 500 users at 10 %: five standard deviations to both sides.
    assert 17 <= (versions[0] == 2).sum() <= 83
    for number in range(0, users, 50):
        answer = await router.predict("canary", inputs=GIVEN, assignment_key=f"user-{number}")
        assert answer.assignment.model_version.version == versions[0, number]


async def test_predict_batch_largest(router: Any) -> None:
    """Shows that 10,000 rows go through, in records that fit into messages, and 10,001 do not."""
    results, outputs, _ = await predict(router, keyed(10_000))
    assert results.rows == outputs.rows == 10_000
    await wait_for_records(router, 10_000)
    assert max(each.ByteSize() for each in router.peers.ingest.records) < 3 * 2**20
    error = await refusal(predict(router, given(10_001)))
    assert (error.reason, error.violations[0].field) == (errors.Reason.TOO_LARGE, "rows")


async def test_predict_batch_groups_versions(router: Any) -> None:
    """Shows that each row gets the version of its key, by every reason there is."""
    await router.create("split", weights={1: 5_000, 2: 5_000}, overrides={"7": 4})
    rows = given(500).with_column(Column.from_list("user", list(range(500)), DataType.INT64))
    results, outputs, _ = await predict(router, rows, route="split", assignment_key_column="user")
    versions = results["version"].to_list()
    assert versions[7] == 4
    assert results["reason"].item(7) == route_pb2.ASSIGNMENT_REASON_OVERRIDE
    assert {1, 2} < set(versions)
    assert [int(score // 1e6) for score in outputs["score"].to_list()] == versions
    single = await router.predict(
        "split",
        assignment_key="11",
        inputs={"share": _number(1), "delay": _number(1), "hour": _number(1), "origin": _text()},
    )
    assert single.assignment.model_version.version == versions[11]
    await wait_for_records(router, 500)
    groups = {
        each.model_version.version: testing.predictions_of(each).rows
        for each in router.peers.ingest.records
    }
    assert groups[4] == 1


async def test_predict_batch_bad_rows_alone(router: Any) -> None:
    """Shows that a bad row fails by itself, with status and field, and is recorded."""
    rows = given(6)
    origin = ["JFK", None, "x" * 70_000, "JFK", "JFK", "JFK"]
    share = np.array([1, 2, 3, 1e300, np.nan, 6.0])
    rows = rows.with_column(Column.from_list("origin", origin, DataType.STRING))
    rows = rows.with_column(Column.from_numpy("share", share))
    results, outputs, _ = await predict(router, rows)
    assert results["status"].to_list() == [0, 3, 3, 3, 0, 0]
    texts = results["error"].to_list()
    assert texts[1].startswith('NULL_REFUSED: inputs["origin"]')
    assert texts[2].startswith('TOO_LARGE: rows["origin"][2]')
    assert texts[3].startswith('WRONG_TYPE: rows["share"][3]')
    mask = outputs["score"].null_mask()
    assert mask is not None
    assert mask.tolist() == [False, True, True, True, False, False]
    await wait_for_records(router, 6)
    for at in range(6):
        row = router.peers.ingest.row(results["prediction_id"].item(at))
        assert row["status"] == results["status"].item(at)


async def test_predict_batch_poison_row(router: Any) -> None:
    """Shows that a row on which the model breaks fails alone among a thousand."""

    def poison(inputs: Columns) -> errors.SetpointError | None:
        if 66.75 in inputs["share"].values:
            return errors.InternalError(errors.Reason.INFERENCE_FAILED, "unlucky")
        return None

    router.peers.inference.poison = poison
    results, _, _ = await predict(router, given(1_000))
    status = results["status"].to_list()
    assert [at for at, code in enumerate(status) if code] == [267]
    assert results["error"].item(267).startswith("INFERENCE_FAILED")


async def test_predict_batch_falls_back(router: Any) -> None:
    """Shows that rows of a version that cannot answer go to the fallback, flagged."""
    await router.create("safe", weights={1: 5_000, 2: 5_000}, fallback_version=1)
    gone = errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "gone")
    router.peers.inference.version_errors = {2: gone}
    results, _, _ = await predict(router, keyed(100), route="safe")
    assert set(results["version"].to_list()) == {1}
    reasons = results["reason"].to_list()
    flags = results["degradations"].to_list()
    fallen = [at for at, reason in enumerate(reasons) if reason == 3]
    assert 20 < len(fallen) < 80
    assert [at for at, flag in enumerate(flags) if flag] == fallen
    assert {flags[at] for at in fallen} == {"FALLBACK_VERSION:2"}
    await wait_for_records(router, 100)
    for at, prediction_id in enumerate(results["prediction_id"].to_list()):
        chosen = router.peers.ingest.row(prediction_id).get("chosen_version")
        assert chosen == (2 if at in fallen else None)


async def test_predict_batch_fallback_that_cannot(router: Any) -> None:
    """Shows that a fallback which wants other columns costs nothing but its help."""
    await router.create("safe", weights={1: 5_000, 2: 5_000}, fallback_version=7)
    router.peers.inference.version_errors[2] = errors.NotFoundError(
        errors.Reason.MODEL_VERSION_NOT_FOUND, "gone"
    )
    results, outputs, _ = await predict(router, keyed(60), route="safe")
    assert set(results["version"].to_list()) == {1, 2}
    for version, status, scored in zip(
        results["version"].to_list(),
        results["status"].to_list(),
        outputs["score"].to_list(),
        strict=True,
    ):
        wanted = 0 if version == 1 else grpc.StatusCode.UNAVAILABLE.value[0]
        assert (status, scored is None) == (wanted, version == 2)


async def test_predict_batch_refused_whole_predicts_nothing(router: Any) -> None:
    """Shows that a batch which some version cannot answer at all is refused before any is asked."""
    await router.create("mixed", weights={1: 9_000, 7: 1_000})
    error = await refusal(predict(router, keyed(5_000), route="mixed"))
    assert isinstance(error, errors.InvalidArgumentError)
    assert "version 7 has no feature set" in error.message
    assert not router.peers.inference.asked
    assert router.peers.features.online.calls == 0


async def test_predict_batch_without_features(router: Any) -> None:
    """Shows that rows fail with their own status when features do not come."""
    router.peers.features.online.error = errors.UnavailableError(errors.Reason.UNAVAILABLE, "away")
    results, outputs, _ = await predict(router, keyed(5))
    assert set(results["status"].to_list()) == {14}
    assert all(each.startswith("FEATURES_UNAVAILABLE") for each in results["error"].to_list())
    assert not outputs.names


async def test_predict_batch_event_times(router: Any) -> None:
    """Shows that each row may be asked at a time of its own."""
    rows = keyed(3).with_column(Column.from_list("at", [30, 10, 20], DataType.TIMESTAMP))
    results, _, _ = await predict(router, rows, event_time_column="at")
    await wait_for_records(router, 3)
    found = [
        router.peers.ingest.row(each)["event_time"] for each in results["prediction_id"].to_list()
    ]
    assert found == [30, 10, 20]


async def test_predict_batch_empty(router: Any) -> None:
    """Shows that no rows are answered with no rows."""
    results, outputs, _ = await predict(router, given(0))
    assert results.rows == outputs.rows == 0


WRONG: dict[str, tuple[Columns, dict[str, Any], str, str]] = {
    "missing column": (given(2).without("hour"), {}, "MISSING_FIELD", 'rows["hour"]'),
    "unknown column": (
        given(2).with_column(Column.from_list("wind", [1, 2], DataType.INT64)),
        {},
        "UNKNOWN_FIELD",
        'rows["wind"]',
    ),
    "wrong dtype": (
        given(2).with_column(Column.from_list("hour", ["a", "b"], DataType.STRING)),
        {},
        "WRONG_TYPE",
        'rows["hour"]',
    ),
    "no key column": (given(2), {"assignment_key_column": "who"}, "MISSING_FIELD", 'rows["who"]'),
    "float key": (given(2), {"assignment_key_column": "share"}, "WRONG_TYPE", 'rows["share"]'),
    "no time column": (given(2), {"event_time_column": "at"}, "MISSING_FIELD", 'rows["at"]'),
    "time of another type": (given(2), {"event_time_column": "hour"}, "WRONG_TYPE", 'rows["hour"]'),
}


@pytest.mark.parametrize("case", WRONG)
async def test_predict_batch_refuses(router: Any, case: str) -> None:
    """Shows that a batch which is wrong as a whole is refused by column."""
    rows, fields, reason, path = WRONG[case]
    error = await refusal(predict(router, rows, **fields))
    assert (error.reason.value, error.violations[0].field) == (reason, path)


async def test_predict_batch_ragged(router: Any) -> None:
    """Shows that columns of different lengths are refused by name."""
    message = columns_proto.to_proto(given(3))
    message.columns[1].values = message.columns[1].values[:-8]
    request = router_service_pb2.PredictBatchRequest(route="flights", rows=message)
    error = await refusal(router.stub.PredictBatch(request, timeout=5))
    assert error.reason is errors.Reason.MALFORMED_COLUMNS
    assert "rows.columns[1]" in error.violations[0].field


def _number(value: float) -> Any:
    from setpoint.common.v1 import value_pb2

    return value_pb2.Value(double_value=value)


def _text() -> Any:
    from setpoint.common.v1 import value_pb2

    return value_pb2.Value(string_value="JFK")


async def test_predict_batch_defect_fails_its_rows_alone(
    router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that a defect which ends some rows of a batch leaves the others answered, and is recorded."""
    await router.create("split", weights={1: 5_000, 2: 5_000})
    run = stages.Stages.run

    async def broken(self: Any, work: Any) -> None:
        if work.plan.version.version == 2:
            raise ZeroDivisionError("a secret of the code")
        await run(self, work)

    monkeypatch.setattr(stages.Stages, "run", broken)
    results, outputs, _ = await predict(router, given(40), route="split")
    versions = results["version"].to_list()
    failed = [each for each in versions if each == 2]
    assert 0 < len(failed) < 40
    for version, status, error, score in zip(
        versions,
        results["status"].to_list(),
        results["error"].to_list(),
        outputs["score"].to_list(),
        strict=True,
    ):
        assert (status, score is None) == ((13, True) if version == 2 else (0, False))
        assert "secret" not in (error or "")
    ids = results["prediction_id"].to_list()
    async with asyncio.timeout(20):
        while not set(ids) <= router.peers.ingest.ids.keys():
            await asyncio.sleep(0.01)
    told = [router.peers.ingest.row(each)["status"] for each in ids]
    assert told == results["status"].to_list()


async def test_rows_of_a_caller_who_leaves_are_recorded(start_router: Any) -> None:
    """Of a batch whose caller leaves every row has one record: answered, or why it was not."""
    async with start_router() as router:
        await router.create(weights={1: 5_000, 2: 5_000})
        gate = router.peers.inference.gates.setdefault(2, asyncio.Event())
        rows = given(60)
        call = router.stub.PredictBatch(
            router_service_pb2.PredictBatchRequest(
                route="flights", rows=columns_proto.to_proto(rows)
            ),
            timeout=30,
        )
        async with asyncio.timeout(20):
            while router.peers.inference.asked[1] + router.peers.inference.asked[2] < 60:
                await asyncio.sleep(0.005)
        answered = router.peers.inference.asked[1]
        await wait_for_records(router, answered)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_for_records(router, 60)
        gate.set()
        found = [router.peers.ingest.row(each) for each in router.peers.ingest.ids]
        assert set(router.peers.ingest.ids.values()) == {1}
        codes = {1: 0, 2: 1}
        assert 0 < answered < 60
        for row in found:
            version = row["record"].model_version.version
            assert row["status"] == codes[version]
            assert (row["error"] is None) is (version == 1)
        assert sum(row["status"] == 0 for row in found) == answered


async def test_leaving_caller_is_recorded_when_the_router_stops(start_router: Any) -> None:
    """What a stopping router had not answered is in the spool before it ends."""
    async with start_router() as router:
        await router.create()
        gate = router.peers.inference.gates.setdefault(1, asyncio.Event())
        call = router.stub.PredictBatch(
            router_service_pb2.PredictBatchRequest(
                route="flights", rows=columns_proto.to_proto(given(5))
            ),
            timeout=30,
        )
        async with asyncio.timeout(20):
            while router.peers.inference.asked[1] < 5:
                await asyncio.sleep(0.005)
        await router.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        gate.set()
    found = [router.peers.ingest.row(each)["status"] for each in router.peers.ingest.ids]
    assert found == [1] * 5
