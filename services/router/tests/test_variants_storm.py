"""An ensemble with a shadow in a storm of cancels, errors and delays: answers never cross."""

import asyncio
import math
import random
from typing import Any

import numpy as np

from setpoint.common.v1 import value_pb2
from setpoint.monitoring.v1 import prediction_pb2
from setpoint.router.v1 import router_service_pb2
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_router import ports, testing
from setpoint_router.convert import records, requests
from setpoint_router.domain import limit, plan, route, shadow
from setpoint_router.domain.ensemble import Combination, Ensemble, Member
from setpoint_router.service import predictor, shadows, stages
from setpoint_router.service.coalescer import Bounds
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors

COUNT = 1_200
MEMBERS = (1, 2, 3)
SHADOW = 4
SERVED = tuple(
    route.ServedVersion(
        version=version,
        inputs=(route.Field("x", DataType.FLOAT64),),
        outputs=(route.Field("y", DataType.FLOAT64),),
    )
    for version in (*MEMBERS, SHADOW)
)
ROUTE = route.first_revision(
    route.Content(
        name="r",
        model="m",
        weights={},
        ensemble=Ensemble(tuple(map(Member, MEMBERS)), Combination.MEAN, 2),
        shadows=(shadow.Shadow(SHADOW, 10_000),),
    ),
    SERVED,
    1,
)


def breaks(version: int, x: float) -> bool:
    """Says whether a row breaks a version whenever it is asked about it."""
    return x % (40 + version) == 0


def says(version: int, x: float) -> float:
    """Returns what a version answers to a row."""
    return x * 2 + version * 1e6


class Storm:
    """Models that break, are gone, and take their time; spool, rules and counters."""

    is_full = False
    is_expected = False

    def __init__(self) -> None:
        self.chance = random.Random(5)
        self.kept: list[prediction_pb2.PredictionRecords] = []
        self.dropped_rows = 0

    async def fetch(self, *_: Any) -> Any:
        raise AssertionError("nobody has features")

    async def predict(
        self, of: plan.Plan, inputs: Any, seconds: float, header: Any
    ) -> ports.Answer:
        given = columns_proto.from_proto(inputs)
        version, x = of.version.version, given["x"].values
        await asyncio.sleep(self.chance.random() * 0.004)
        if self.chance.random() < 0.05:
            raise errors.UnavailableError(errors.Reason.MODEL_NOT_READY, "gone for now")
        if any(breaks(version, each) for each in x.tolist()):
            raise errors.InternalError(errors.Reason.INFERENCE_FAILED, "broke")
        y = Column.from_numpy("y", x * 2 + version * 1e6)
        return ports.Answer(Columns(given.rows, [y]), "here")

    def replicas(self, of: plan.Plan) -> int:
        """Is one."""
        return 1

    async def load(self, model: str, version: int) -> None:
        """Is ready."""

    def append(self, payload: bytes) -> Any:
        self.kept.append(prediction_pb2.PredictionRecords.FromString(payload))
        return asyncio.sleep(0)

    def judge(self, feature_set: str, columns: Columns) -> None:
        """Has nothing against anybody."""

    def answered(self, work: Any) -> None:
        """Counts nothing."""

    def unrecorded(self, rows: int) -> None:
        raise AssertionError(f"{rows} predictions without a record")

    def refused(self, reason: Any) -> None:
        raise AssertionError(f"refused: {reason}")

    def dropped(self, of: plan.Plan, rows: int, reason: str) -> None:
        assert reason == shadows.QUEUE_FULL
        self.dropped_rows += rows

    def rows(self, kind: int) -> dict[str, dict[str, Any]]:
        """Returns the recorded rows of a kind with their outputs, by prediction id."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.kept:
            if record.kind != kind:
                continue
            outputs = columns_proto.from_proto(record.outputs)
            inputs = columns_proto.from_proto(record.inputs)
            for at, row in enumerate(testing.predictions_of(record).to_rows()):
                assert row["prediction_id"] not in found
                y = outputs["y"].item(at) if "y" in outputs else None
                x = inputs["x"].item(at) if "x" in inputs else None
                found[row["prediction_id"]] = row | {"x": x, "y": y}
        return found


def made(storm: Storm) -> tuple[predictor.Predictor, shadows.Shadows]:
    """Returns a predictor and its shadows in a storm."""
    clock, codec = clocks.SystemClock(), requests.RequestCodec()
    way = stages.Stages(
        features=storm,
        inference=storm,
        checks=storm,
        codec=codec,
        recorder=records.WorkRecorder("storm"),
        spool=storm,
        observer=storm,
        clock=clock,
        limits=stages.Limits(60.0, 60.0),
    )
    copies = shadows.Shadows(
        stages=way,
        codec=codec,
        observer=storm,
        clock=clock,
        bounds=Bounds(calls=1, rows=64, queued_rows=256),
        is_loaded=lambda: False,
    )
    serving = plan.serving_route(ROUTE)
    predictions = predictor.Predictor(
        routes=lambda _: serving,
        stages=way,
        shadows=copies,
        codec=codec,
        observer=storm,
        clock=clock,
        bounds=Bounds(calls=3, rows=64, queued_rows=COUNT),
        limit=limit.AdaptiveLimit(clock, least=COUNT, most=COUNT, tolerance=math.inf),
    )
    return predictions, copies


def is_own(x: int, answer: Any, is_cancelled: bool) -> bool:
    """Says whether somebody got the mean of what his own row's members said, and was told of them."""
    if isinstance(answer, asyncio.CancelledError):
        return is_cancelled
    if isinstance(answer, errors.SetpointError):
        return answer.reason is errors.Reason.ENSEMBLE_BELOW_QUORUM and len(answer.metadata) >= 2
    took_part = list(answer.assignment.versions)
    missing = [int(each.subject) for each in answer.degradations]
    wanted = np.mean([says(version, x) for version in took_part])
    return (
        sorted(took_part + missing) == list(MEMBERS)
        and len(took_part) >= 2
        and not any(breaks(version, x) for version in took_part)
        and math.isclose(answer.outputs["y"].double_value, wanted)
    )


async def test_storm_crosses_no_answers() -> None:
    """Whoever stays gets the mean of his own row; each copy is of the prediction that it names."""
    storm = Storm()
    predictions, copies = made(storm)
    loop = asyncio.get_running_loop()
    answers: list[Any] = [None] * COUNT
    cancelled: set[int] = set()

    async def one(x: int) -> None:
        request = router_service_pb2.PredictRequest(
            route="r", inputs={"x": value_pb2.Value(double_value=x)}
        )
        try:
            answers[x] = await predictions.predict(
                request, predictor.Origin("storm", None, loop.time() + 60)
            )
        except (errors.SetpointError, asyncio.CancelledError) as error:
            answers[x] = error

    async def caller(start: int) -> None:
        for at in range(start, COUNT, 10 * 40):
            tasks = {x: asyncio.create_task(one(x)) for x in range(at, at + 40)}
            for x, task in tasks.items():
                if storm.chance.random() < 0.2:
                    cancelled.add(x)
                    loop.call_later(storm.chance.random() * 0.02, task.cancel)
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    await asyncio.gather(*(caller(start) for start in range(0, 400, 40)))
    await predictions.drain()
    await copies.drain()

    crossed = [x for x in range(COUNT) if not is_own(x, answers[x], x in cancelled)]
    assert crossed == []
    answered = {
        each.prediction_id: x
        for x, each in enumerate(answers)
        if isinstance(each, router_service_pb2.PredictResponse)
    }
    assert len(answered) > COUNT / 2
    assert any(answers[x].degradations for x in answered.values())
    primaries = storm.rows(prediction_pb2.PREDICTION_KIND_SERVED)
    assert len(primaries) == COUNT
    copied = storm.rows(prediction_pb2.PREDICTION_KIND_SHADOW)
    assert len({row["primary_prediction_id"] for row in copied.values()}) == len(copied)
    for row in copied.values():
        assert row["x"] == primaries[row["primary_prediction_id"]]["x"]
        assert row["y"] == (None if row["status"] else says(SHADOW, row["x"]))
    assert sum(not row["status"] for row in copied.values()) > COUNT / 10
    kept = sum(not row["status"] for row in primaries.values())
    assert len(copied) + storm.dropped_rows == kept
