"""Batch mates never harm each other: not by bad rows, errors, delays, or by leaving."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from setpoint.common.v1 import value_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import ports, testing
from setpoint_router.convert import records, requests
from setpoint_router.domain import limit, plan, route
from setpoint_router.service import predictor, shadows, stages
from setpoint_router.service.coalescer import Bounds
from setpoint_rpc import channel
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

Value = value_pb2.Value
REQUESTED = {"hour": Value(int_value=8), "origin": Value(string_value="JFK")}
POISON = errors.invalid("entities", "XX", "must be a carrier")


def refusing(carrier: str) -> Any:
    """Returns a poison: calls with a carrier are refused as a whole."""
    return lambda entities: POISON if carrier in entities["carrier"].to_list() else None


async def ask(router: Any, carrier: str, route_name: str = "flights") -> Any:
    """Asks about one carrier; returns the answer or the error."""
    try:
        return await router.predict(
            route_name,
            entities={"carrier": Value(string_value=carrier)},
            inputs=REQUESTED,
            timeout=20,
        )
    except grpc.aio.AioRpcError as error:
        return error


@pytest.mark.parametrize("policy", ["REJECT", "ANSWER_WITH_NULLS"])
async def test_poisoned_feature_row_fails_alone(router: Any, policy: str) -> None:
    """Shows that a row which features refuse fails with its own error, its mates get their own."""
    value = route_pb2.FeatureFailurePolicy.Value(f"FEATURE_FAILURE_POLICY_{policy}")
    await router.create("policy", feature_failure_policy=value)
    router.peers.features.poison = refusing("XX")
    router.peers.features.online.delay_seconds = 0.01
    carriers = ["A" * (1 + number % 5) for number in range(40)]
    carriers[17] = "XX"
    answers = await asyncio.gather(*(ask(router, each, "policy") for each in carriers))
    for carrier, answer in zip(carriers, answers, strict=True):
        if carrier == "XX":
            assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "must be a carrier" in answer.details()
        else:
            expected = 1e6 + len(carrier) * (1 + ord("A")) + 8
            assert answer.outputs["score"].double_value == expected
            assert not answer.degradations
    assert max(router.peers.features.online.rows) > 1


async def test_poisoned_feature_row_of_batch_fails_alone(router: Any) -> None:
    """Shows that the same holds for the rows of one caller's batch."""
    router.peers.features.poison = refusing("XX")
    carriers = ["UA", "B6", "XX", "DL", "AA"]
    rows = Columns.from_dict(
        {
            "carrier": (DataType.STRING, carriers),
            "hour": (DataType.INT64, [1, 2, 3, 4, 5]),
            "origin": (DataType.STRING, ["JFK"] * 5),
        }
    )
    answer = await router.stub.PredictBatch(
        router_service_pb2.PredictBatchRequest(route="flights", rows=columns_proto.to_proto(rows)),
        timeout=20,
    )
    statuses = columns_proto.from_proto(answer.results)["status"].to_list()
    scores = columns_proto.from_proto(answer.outputs)["score"].to_list()
    assert statuses == [0, 0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0, 0]
    for row, carrier in enumerate(carriers):
        expected = 1e6 + 2 + sum(map(ord, carrier)) + row + 1
        assert scores[row] == (None if carrier == "XX" else expected)


async def test_broken_features_are_not_asked_for_every_row(router: Any) -> None:
    """Shows that a feature service that always breaks is not asked once for each row."""
    broken = errors.InternalError(errors.Reason.INTERNAL, "broken")
    router.peers.features.poison = lambda _: broken
    router.peers.features.online.delay_seconds = 0.01
    answers = await asyncio.gather(*(ask(router, "UA") for _ in range(100)))
    assert {each.code() for each in answers} == {grpc.StatusCode.UNAVAILABLE}
    assert router.peers.features.online.calls < 100


async def test_defect_is_recorded(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that predictions which a defect of ours ends are recorded as failed, with its id."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret of the code")

    monkeypatch.setattr(stages.Stages, "check", broken)
    answers = await asyncio.gather(*(ask(router, "UA") for _ in range(5)))
    for each in answers:
        assert each.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in each.details()
    async with asyncio.timeout(20):
        while len(router.peers.ingest.ids) < 5:
            await asyncio.sleep(0.01)
    rows = [router.peers.ingest.row(each) for each in router.peers.ingest.ids]
    assert [row["status"] for row in rows] == [grpc.StatusCode.INTERNAL.value[0]] * 5
    assert {row["error"].split(" ")[0] for row in rows} == {"INTERNAL:"}
    details = {each.details() for each in answers}
    assert {row["error"].removeprefix("INTERNAL: ") for row in rows} == details


# The storm: ten thousand predictions in one process, everything around them at its worst.

SET = route.FeatureSet("set", "1")
VERSIONS = tuple(
    route.ServedVersion(
        version=number,
        inputs=(route.Field("x", DataType.FLOAT64), route.Field("given", DataType.FLOAT64)),
        outputs=(route.Field("y", DataType.FLOAT64),),
        feature_set=SET,
        key_columns=(route.Field("k", DataType.INT64),),
        features=(route.Field("x", DataType.FLOAT64),),
        request_fields=(route.Field("given", DataType.FLOAT64),),
    )
    for number in (1, 2)
)
ROUTE = route.first_revision(
    route.Content(name="r", model="m", weights={1: 5_000, 2: 5_000}), VERSIONS, 1_000
)
POISONED_KEYS = 97
"""Every key that this number divides is refused by features."""
BREAKING_KEYS = 89
"""The model breaks on every key that this number divides."""


@dataclass
class Chaos:
    """Features and models that refuse, break, and take their time; spool, rules and counters."""

    chance: random.Random
    kept: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    is_full = False
    is_expected = False

    async def fetch(
        self, feature_set: Any, entities: Columns, times: Any, seconds: float, header: Any
    ) -> ports.FeatureAnswer:
        keys = entities["k"].to_list()
        self.sizes.append(len(keys))
        await asyncio.sleep(self.chance.random() * 0.004)
        if bad := [each for each in keys if each % POISONED_KEYS == 0]:
            raise errors.invalid("entities", bad[0], "must not be poisoned")
        values = np.array(keys, np.float64) * 2
        rows = len(keys)
        return ports.FeatureAnswer(
            Columns(rows, [Column.from_numpy("x", values)]), [b"\1" * rows], [bytes(8 * rows)]
        )

    async def predict(
        self, of: plan.Plan, inputs: Any, seconds: float, header: Any
    ) -> ports.Answer:
        given = columns_proto.from_proto(inputs)
        x = given["x"].values
        await asyncio.sleep(self.chance.random() * 0.004)
        if (x / 2 % BREAKING_KEYS == 0).any():
            raise errors.InternalError(errors.Reason.INFERENCE_FAILED, "unlucky")
        y = x + given["given"].values * 1e6 * of.version.version
        return ports.Answer(Columns(given.rows, [Column.from_numpy("y", y)]), "here")

    def replicas(self, of: plan.Plan) -> int:
        """Is one."""
        return 1

    async def load(self, model: str, version: int) -> None:
        """Is ready."""

    def append(self, payload: bytes) -> Any:
        record = prediction_pb2.PredictionRecords.FromString(payload)
        self.kept.update(testing.predictions_of(record)["prediction_id"].to_list())
        return asyncio.sleep(0)

    def judge(self, feature_set: str, columns: Columns) -> None:
        """Has nothing against anybody."""

    def answered(self, work_: Any) -> None:
        """Counts nothing."""

    def unrecorded(self, rows: int) -> None:
        raise AssertionError(f"{rows} predictions without a record")

    def refused(self, reason: Any) -> None:
        raise AssertionError(f"refused: {reason}")

    def dropped(self, of: plan.Plan, rows: int, reason: str) -> None:
        raise AssertionError(f"dropped: {reason}")


async def test_storm_harms_no_batch_mate() -> None:
    """Shows that 10,000 random cancels, errors and delays under load harm no batch mate.

    Everybody who stays gets exactly his own answer, with the version of his own key; whoever is
    refused, is so for what he himself sent; each prediction is recorded once.
    """
    count, chance = 10_000, random.Random(11)
    chaos, serving = Chaos(chance), plan.serving_route(ROUTE)
    codec = requests.RequestCodec()
    way = stages.Stages(
        features=chaos,
        inference=chaos,
        checks=chaos,
        codec=codec,
        recorder=records.WorkRecorder("storm"),
        spool=chaos,
        observer=chaos,
        clock=clocks.SystemClock(),
        limits=stages.Limits(60.0, 60.0),
    )
    bounds = Bounds(calls=3, rows=64, queued_rows=count)
    predictions = predictor.Predictor(
        routes=lambda _: serving,
        stages=way,
        shadows=shadows.Shadows(
            stages=way,
            codec=codec,
            observer=chaos,
            clock=clocks.SystemClock(),
            bounds=bounds,
            is_loaded=lambda: False,
        ),
        codec=codec,
        observer=chaos,
        clock=clocks.SystemClock(),
        bounds=bounds,
        limit=limit.AdaptiveLimit(
            clocks.SystemClock(), least=count, most=count, tolerance=math.inf
        ),
    )
    loop = asyncio.get_running_loop()
    answers: list[Any] = [None] * count
    cancelled: set[int] = set()
    sequence: list[int] = []

    async def one(number: int) -> None:
        request = router_service_pb2.PredictRequest(
            route="r",
            entities={"k": Value(int_value=number)},
            inputs={"given": Value(double_value=number)},
        )
        origin = predictor.Origin(f"caller {number}", None, loop.time() + 60)
        try:
            answers[number] = await predictions.predict(request, origin)
        except (errors.SetpointError, asyncio.CancelledError) as error:
            answers[number] = error
        sequence.append(number)

    async def wave(numbers: Sequence[int]) -> None:
        tasks = {number: asyncio.create_task(one(number)) for number in numbers}
        for number in numbers:
            if chance.random() < 0.3:
                cancelled.add(number)
                loop.call_later(chance.random() * 0.03, tasks[number].cancel)
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def caller(start: int) -> None:
        for at in range(start, count, 10 * 50):
            await wave(range(at, at + 50))

    await asyncio.gather(*(caller(start) for start in range(0, 500, 50)))
    await predictions.drain()

    harmed = [number for number in range(count) if not _is_own(number, answers, cancelled, serving)]
    assert harmed == []
    answered = [each for each in answers if isinstance(each, router_service_pb2.PredictResponse)]
    assert len(answered) > count / 2
    assert len(cancelled) > count / 5
    assert len(chaos.kept) == len(sequence) == count
    assert set(chaos.kept.values()) == {1}
    assert max(chaos.sizes) > 32


def _is_own(
    number: int, answers: list[Any], cancelled: set[int], serving: plan.ServingRoute
) -> bool:
    """Says whether somebody got what he would have got alone."""
    answer = answers[number]
    if isinstance(answer, asyncio.CancelledError):
        return number in cancelled
    if number % POISONED_KEYS == 0:
        # The refusal of another row would name that one.
        refused = isinstance(answer, errors.InvalidArgumentError)
        return refused and str(number) in answer.message.split()
    if number % BREAKING_KEYS == 0:
        return isinstance(answer, errors.InternalError)
    if isinstance(answer, BaseException):
        return False
    version = serving.assign(str(number))[0].version.version
    is_version = answer.assignment.model_version.version == version
    return bool(
        is_version and answer.outputs["y"].double_value == number * 2 + number * 1e6 * version
    )


async def test_burst_is_never_reset(router: Any) -> None:
    """Shows that a thousand calls at once on one connection are answered or refused, never reset."""
    async with channel.connect(router.server.address, client="burst") as fresh:
        call: Any = fresh.unary_unary("/setpoint.router.v1.RouterService/Predict")
        body = router_service_pb2.PredictRequest(
            route="flights", entities={"carrier": Value(string_value="UA")}, inputs=REQUESTED
        ).SerializeToString()

        async def send() -> str:
            try:
                await call(body, timeout=30)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {channel.from_rpc_error(error).reason.value}"
            return "OK"

        seen = Counter(await asyncio.gather(*(send() for _ in range(1_000))))
    assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED OVERLOADED"}
    assert seen["OK"] > 0
