"""Shadows over the wire: whatever they do, callers do not notice, and their answers are paired."""

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from setpoint.common.v1 import value_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import testing
from setpoint_router.domain import assignment
from setpoint_rpc import channel
from setpoint_runtime import errors

Value = value_pb2.Value
GIVEN = {
    "share": Value(double_value=0.5),
    "delay": Value(double_value=2.0),
    "hour": Value(int_value=8),
    "origin": Value(string_value="JFK"),
}


def shadows(**shares: int) -> list[route_pb2.Shadow]:
    """Returns shadows by version, such as v2=10_000."""
    return [
        route_pb2.Shadow(version=int(name[1:]), basis_points=share)
        for name, share in shares.items()
    ]


def copies(router: Any, version: int = 0) -> dict[str, dict[str, Any]]:
    """Returns the recorded rows of shadows by the prediction that each copies."""
    found = {}
    for record in router.peers.ingest.records:
        if record.kind != prediction_pb2.PREDICTION_KIND_SHADOW:
            continue
        if version not in (0, record.model_version.version):
            continue
        given = (record.inputs, record.outputs, record.entities)
        sides = [columns_proto.from_proto(each).to_rows() for each in given]
        sides.insert(0, testing.predictions_of(record).to_rows())
        for row, inputs, outputs, entities in zip(*sides, strict=True):
            told = {"inputs": inputs, "outputs": outputs, "entities": entities, "record": record}
            found[row["primary_prediction_id"]] = row | told
    return found


async def until(is_so: Any) -> None:
    """Waits until something has become so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


def dropped(router: Any, reason: str, version: int = 2, route: str = "flights") -> float:
    """Returns how many copies were dropped for a reason."""
    labels = {"route": route, "version": str(version), "reason": reason}
    name = "setpoint_router_shadow_dropped_total"
    return router.server.metrics_registry.get_sample_value(name, labels) or 0


@pytest_asyncio.fixture
async def running(start_router: Any) -> Any:
    """A router without routes."""
    async with start_router() as made:
        yield made


async def test_shadow_answers_are_paired(running: Any) -> None:
    """A shadow sees what the version saw, and its answer is a record that names the other."""
    await running.create(shadows=shadows(v2=10_000))
    answer = await running.predict(event_time=1_000_000, assignment_key="ключ")
    assert answer.outputs["score"].double_value == 1e6 + 2 + 150 + 8
    await until(lambda: copies(running))
    row = copies(running)[answer.prediction_id]
    assert row["prediction_id"] != answer.prediction_id
    assert row["record"].model_version.version == 2
    assert row["outputs"]["score"] == 2e6 + 2 + 150 + 8
    assert row["inputs"] == {"share": 2.0, "delay": 150.0, "hour": 8, "origin": "JFK"}
    assert list(row["record"].input_statuses) == [b"\1", b"\1", b"\5", b"\5"]
    assert (row["event_time"], row["assignment_key"]) == (1_000_000, "ключ")
    assert row["entities"] == {"carrier": "UA"}
    assert row["reason"] == route_pb2.ASSIGNMENT_REASON_SHADOW
    assert row["slot"] == assignment.slot_of("flights/shadow/2", "ключ")
    assert running.peers.features.online.calls == 1
    primary = running.peers.ingest.row(answer.prediction_id)["record"]
    assert primary.kind == prediction_pb2.PREDICTION_KIND_SERVED
    assert "primary_prediction_id" not in testing.predictions_of(primary)


async def test_shadow_gets_its_share(running: Any) -> None:
    """Exactly the keys are copied of which ExplainAssignment says so."""
    await running.create(shadows=shadows(v2=3_000, v4=500))
    answers = await asyncio.gather(
        *(running.predict(inputs=GIVEN, assignment_key=f"k{n}") for n in range(60))
    )
    wanted: dict[int, set[str]] = {2: set(), 4: set()}
    for number, answer in enumerate(answers):
        explained = await running.stub.ExplainAssignment(
            router_service_pb2.ExplainAssignmentRequest(
                route="flights", assignment_key=f"k{number}"
            )
        )
        for each in explained.shadows:
            assert each.is_copied == (each.slot < each.basis_points)
            if each.is_copied:
                wanted[each.version].add(answer.prediction_id)
    assert 5 <= len(wanted[2]) <= 35
    await until(lambda: all(len(copies(running, v)) >= len(ids) for v, ids in wanted.items()))
    assert {version: set(copies(running, version)) for version in wanted} == wanted


async def test_hanging_shadow_delays_nobody(running: Any) -> None:
    """While a shadow does not answer, everybody else is answered, and then it is recorded."""
    gate = running.peers.inference.gates[2] = asyncio.Event()
    await running.create(shadows=shadows(v2=10_000))
    answers = []
    for _ in range(5):
        answers += await asyncio.gather(*(running.predict(inputs=GIVEN) for _ in range(4)))
    await until(lambda: running.peers.inference.asked[2])
    assert not copies(running)
    assert all(not each.degradations for each in answers)
    gate.set()
    await until(lambda: len(copies(running)) == 20)
    assert set(copies(running)) == {each.prediction_id for each in answers}


async def test_failing_shadow_fails_alone(running: Any) -> None:
    """What a shadow fails with is recorded of its copy alone."""
    running.peers.inference.version_errors[2] = errors.InternalError(
        errors.Reason.INFERENCE_FAILED, "it broke"
    )
    await running.create(shadows=shadows(v2=10_000))
    answer = await running.predict()
    assert not answer.degradations
    await until(lambda: copies(running))
    row = copies(running)[answer.prediction_id]
    assert (row["status"], "it broke" in row["error"]) == (13, True)
    assert running.peers.ingest.row(answer.prediction_id)["status"] == 0


async def test_absent_shadow_uses_no_fallback(running: Any) -> None:
    """A shadow that is gone is recorded as such; the fallback is for callers."""
    running.peers.inference.version_errors[2] = errors.NotFoundError(
        errors.Reason.MODEL_VERSION_NOT_FOUND, "gone"
    )
    await running.create(shadows=shadows(v2=10_000), fallback_version=4)
    answer = await running.predict()
    await until(lambda: copies(running))
    row = copies(running)[answer.prediction_id]
    assert (row["status"], row["record"].model_version.version) == (14, 2)
    assert running.peers.inference.asked[4] == 0


async def test_flooded_shadow_drops_copies(start_router: Any) -> None:
    """A shadow that cannot keep up has its copies dropped and counted, and nobody notices."""
    async with start_router(shadow_queued_rows=4, batch_rows=2) as router:
        gate = router.peers.inference.gates[2] = asyncio.Event()
        await router.create(shadows=shadows(v2=10_000))
        answers = await asyncio.gather(*(router.predict(inputs=GIVEN) for _ in range(30)))
        assert all(not each.degradations for each in answers)
        await until(lambda: dropped(router, "QUEUE_FULL") >= 1)
        gate.set()
        await until(lambda: len(copies(router)) + dropped(router, "QUEUE_FULL") == 30)
        assert len(copies(router)) >= 4


async def test_copies_are_dropped_first_under_load(start_router: Any) -> None:
    """While more predictions are on their way than the setting says, no copy is made."""
    async with start_router(shadow_yields_to_predictions=0) as router:
        gate = router.peers.inference.gates[4] = asyncio.Event()
        await router.create("slow", weights={4: 10_000})
        await router.create(shadows=shadows(v2=10_000))
        waiting = asyncio.create_task(router.predict("slow", inputs=GIVEN))
        await until(lambda: router.peers.inference.asked[4])
        await router.predict(inputs=GIVEN)
        await until(lambda: dropped(router, "LOADED") == 1)
        gate.set()
        await waiting
        answer = await router.predict(inputs=GIVEN)
        await until(lambda: copies(router))
        assert set(copies(router)) == {answer.prediction_id}
        assert router.peers.inference.asked[2] == 1


async def test_spool_is_kept_for_callers(start_router: Any) -> None:
    """While monitoring is away and the spool is half full, no copies are added to it."""
    cap = 1024 * 1024
    async with start_router(spool_cap_bytes=cap) as router:
        router.peers.ingest.behaviour.error = errors.UnavailableError(
            errors.Reason.DATABASE_UNAVAILABLE, "away"
        )
        await router.create("filling")
        await router.create(shadows=shadows(v2=10_000))

        def spooled() -> float:
            size = router.server.metrics_registry.get_sample_value("setpoint_router_spool_bytes")
            return float(size)

        async with asyncio.timeout(20):
            while spooled() <= cap // 2:
                await router.stub.PredictBatch(
                    router_service_pb2.PredictBatchRequest(
                        route="filling", rows=columns_proto.to_proto(table(300))
                    )
                )
        await router.predict(inputs=GIVEN)
        await until(lambda: dropped(router, "LOADED") == 1)
        assert router.peers.inference.asked[2] == 0


async def test_stopping_does_not_wait_for_a_shadow(start_router: Any) -> None:
    """A router that stops leaves copies behind and keeps every served prediction."""
    async with start_router() as router:
        router.peers.inference.gates[2] = asyncio.Event()
        await router.create(shadows=shadows(v2=10_000))
        answer = await router.predict(inputs=GIVEN)
        await until(lambda: router.peers.inference.asked[2])
        peers = router.peers
    assert answer.prediction_id in peers.ingest.ids
    assert not copies(router)
    assert dropped(router, "STOPPED") == 1
    peers.inference.gates[2].set()


async def test_shadow_with_other_features_gets_its_own(running: Any) -> None:
    """A version of another feature set sees that set's values, as of the same time."""
    await running.create(shadows=shadows(v6=10_000))
    answer = await running.predict(event_time=5_000_000)
    await until(lambda: copies(running))
    row = copies(running)[answer.prediction_id]
    assert row["record"].feature_set.version == testing.OTHER_SET[1]
    assert row["inputs"] == {"share": 1002.0, "delay": 150.0, "hour": 8}
    assert row["outputs"]["score"] == 6e6 + 1002 + 150 + 8
    primary = running.peers.ingest.row(answer.prediction_id)
    assert primary["record"].feature_set.version == testing.FEATURE_SET[1]
    assert row["event_time"] == primary["event_time"] == 5_000_000


async def test_shadow_without_features_cannot_copy_keys(running: Any) -> None:
    """A version without feature set fails on requests by key, and answers those with inputs."""
    await running.create(shadows=shadows(v7=10_000))
    by_key = await running.predict()
    given = await running.predict(inputs=GIVEN)
    await until(lambda: len(copies(running)) == 2)
    assert copies(running)[by_key.prediction_id]["error"].startswith("UNKNOWN_FIELD")
    assert copies(running)[given.prediction_id]["outputs"]["score"] == 7e6 + 10.5


async def test_failed_prediction_is_not_copied(running: Any) -> None:
    """Without an answer there is nothing to compare with."""
    await running.create(shadows=shadows(v2=10_000))
    with pytest.raises(grpc.aio.AioRpcError):
        await running.predict(inputs=GIVEN | {"hour": Value(string_value="x")})
    answer = await running.predict(inputs=GIVEN)
    await until(lambda: copies(running))
    assert set(copies(running)) == {answer.prediction_id}


async def test_serving_shadow_copies_others_alone(running: Any) -> None:
    """A candidate that also serves is compared on what the other version has answered."""
    await running.create(weights={1: 5_000, 2: 5_000}, shadows=shadows(v2=10_000))
    answers = await asyncio.gather(
        *(running.predict(inputs=GIVEN, assignment_key=f"k{n}") for n in range(20))
    )
    wanted = {each.prediction_id for each in answers if each.assignment.model_version.version == 1}
    assert 0 < len(wanted) < 20
    for number, answer in enumerate(answers):
        explained = await running.stub.ExplainAssignment(
            router_service_pb2.ExplainAssignmentRequest(
                route="flights", assignment_key=f"k{number}"
            )
        )
        assert explained.shadows[0].is_copied == (answer.prediction_id in wanted)
    await until(lambda: len(copies(running)) >= len(wanted))
    assert set(copies(running)) == wanted


def table(rows: int) -> Columns:
    """Returns rows with keys and request fields."""
    return Columns.from_dict(
        {
            "carrier": (DataType.STRING, [f"c{number}" for number in range(rows)]),
            "hour": (DataType.INT64, [number % 24 for number in range(rows)]),
            "origin": (DataType.STRING, ["JFK"] * rows),
        }
    )


@pytest.mark.parametrize(("version", "more"), [(2, 0), (6, 1000)])
async def test_batches_are_copied(running: Any, version: int, more: int) -> None:
    """Rows of a batch are copied as single predictions are, with own features where needed."""
    await running.create(shadows=shadows(**{f"v{version}": 10_000}))
    answer = await running.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(
            route="flights", rows=columns_proto.to_proto(table(600))
        )
    )
    ids = columns_proto.from_proto(answer.results)["prediction_id"].to_list()
    await until(lambda: len(copies(running)) == 600)
    found = copies(running)
    for number in (0, 7, 299, 599):
        features = 1 + len(str(number)) + sum(map(ord, f"c{number}")) + number % 24
        score = version * 1e6 + more + features
        assert found[ids[number]]["outputs"]["score"] == score


async def test_update_changes_shadows(running: Any) -> None:
    """Shadows are part of a revision: they come, change and go with it, and are told."""
    created = await running.create(shadows=shadows(v2=10_000))
    assert [each.version for each in created.served_versions] == [1, 2]
    assert ("delays", 2) in running.peers.inference.loaded
    created.ClearField("shadows")
    updated = await running.stub.UpdateRoute(
        router_service_pb2.UpdateRouteRequest(request_id=str(uuid.uuid4()), route=created)
    )
    assert not updated.route.shadows
    await running.predict(inputs=GIVEN)
    past = await running.stub.GetRoute(
        router_service_pb2.GetRouteRequest(name="flights", revision=1)
    )
    assert list(past.route.shadows) == shadows(v2=10_000)
    assert running.peers.inference.asked[2] == 0


async def test_create_refuses_shadow(running: Any) -> None:
    """A shadow must exist and be approved, as any version."""
    for version, code, reason in (
        (3, grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.NOT_APPROVED),
        (10, grpc.StatusCode.NOT_FOUND, errors.Reason.MODEL_VERSION_NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.create(shadows=[route_pb2.Shadow(version=version, basis_points=1)])
        assert caught.value.code() is code
        assert channel.from_rpc_error(caught.value).reason is reason
