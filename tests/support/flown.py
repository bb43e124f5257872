"""The demo's data path at small scale, in this process: real flights, asked about in their order.

Definitions, feeds and the replay are the demo's own; the model is one that was never trained on them,
because nothing here is about its quality.
"""

import hashlib
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn import ensemble
from tests.support import departures, house, waiting

from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import feature_service_pb2
from setpoint.monitoring.v1 import monitoring_service_pb2
from setpoint.registry.v1 import model_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint_client import AsyncClient
from setpoint_demo import definitions, feed, flights, replay, streams
from setpoint_feature import config as feature_config
from setpoint_feature import wiring as feature_wiring
from setpoint_inference import config as inference_config
from setpoint_inference import wiring as inference_wiring
from setpoint_monitoring import config as monitoring_config
from setpoint_monitoring import wiring as monitoring_wiring
from setpoint_registry import config as registry_config
from setpoint_registry import wiring as registry_wiring
from setpoint_retraining.training import encoding
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_runtime import ids
from setpoint_testkit import serving

FIRST_DAY, LAST_DAY = 5, 7
SHARE = 0.15
TEXTS = ("aircraft_type", "carrier", "origin", "destination")


@dataclass
class Flown:
    """The services, and the questions that were asked of them."""

    client: AsyncClient
    questions: pl.DataFrame
    answers: replay.Answers
    valkey_url: str
    addresses: dict[str, str]

    async def ask(self, row: dict[str, Any]) -> str:
        """Ask about a flight once more, and wait for the record; return the prediction's id."""
        answer = await self.client.stubs.router.Predict(replay.request_of(row), timeout=60)
        await self.recorded(answer.prediction_id)
        return answer.prediction_id

    async def recorded(self, prediction_id: str) -> None:
        """Wait until monitoring has the record of a prediction."""
        request = monitoring_service_pb2.ListPredictionsRequest(page_size=1_000)

        async def is_there() -> bool:
            page = await self.client.stubs.monitoring.ListPredictions(request, timeout=60)
            return any(each.prediction_id == prediction_id for each in page.predictions)

        await waiting.until(is_there, bool)


@asynccontextmanager
async def opened(
    folder: Path, database_url: str, valkey_url: str, **feature: Any
) -> AsyncIterator[Flown]:
    """Run the services and replay some days of flights, for the length of a block."""
    async with AsyncExitStack() as stack:
        addresses: dict[str, str] = {}

        async def run(name: str, build: Any, settings: Any) -> None:
            server = await stack.enter_async_context(serving.serve(build, settings))
            addresses[f"{name}_address"] = server.address

        def known(*peers: str) -> dict[str, Any]:
            return {f"{peer}_address": addresses[f"{peer}_address"] for peer in peers}

        registry = registry_config.RegistrySettings(
            database_url=database_url, artifact_url=str(folder / "artifacts")
        )
        await run("registry", registry_wiring.build, registry)
        monitoring = monitoring_config.MonitoringSettings(
            database_url=database_url, evaluate_seconds=0.0, **known("registry")
        )
        await run("monitoring", monitoring_wiring.build, monitoring)
        features = feature_config.FeatureSettings(
            database_url=database_url, valkey_url=valkey_url, **{**known("monitoring"), **feature}
        )
        await run("feature", feature_wiring.build, features)
        inference = inference_config.InferenceSettings(
            cache_directory=str(folder / "cache"), **known("registry")
        )
        await run("inference", inference_wiring.build, inference)
        router = router_config.RouterSettings(
            database_url=database_url,
            spool_directory=str(folder / "spool"),
            validation_address=house.NOBODY,
            features_seconds=10.0,
            inference_seconds=20.0,
            latency_tolerance_seconds=10.0,
            flush_seconds=0.0,
            **known("registry", "monitoring", "feature", "inference"),
        )
        await run("router", router_wiring.build, router)
        peers = known("registry", "monitoring", "feature", "inference", "router")
        client = await stack.enter_async_context(AsyncClient(caller="test", **peers))
        await _settle(client)
        questions, answers = await _replay(client)
        yield Flown(client, questions, answers, valkey_url, addresses)


async def _settle(client: AsyncClient) -> None:
    feature = client.stubs.feature
    for entity in definitions.ENTITIES:
        await feature.RegisterEntity(
            feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity)
        )
    for view in definitions.VIEWS:
        await feature.RegisterFeatureView(
            feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view)
        )
    registered = await feature.RegisterFeatureSet(
        feature_service_pb2.RegisterFeatureSetRequest(
            request_id=ids.uuid7(), feature_set=definitions.feature_set()
        )
    )
    found = registered.feature_set
    columns = [each.alias or each.field for each in found.features]
    names = [*columns, *(each.name for each in found.request_fields)]
    numbers = [name for name in names if name not in TEXTS]
    data = _artifact(numbers)
    reference = reference_pb2.FeatureSetReference(name=found.name, version=found.version)
    manifest = _manifest(hashlib.sha256(data).hexdigest(), numbers, reference)
    version = await house.publish(client, definitions.MODEL, data, manifest)
    route = route_pb2.Route(
        name=definitions.ROUTE,
        model=definitions.MODEL,
        weights=[route_pb2.VersionWeight(version=version, basis_points=10_000)],
    )
    await client.stubs.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route), timeout=60
    )


def _artifact(numbers: list[str]) -> bytes:
    random = np.random.default_rng(3)
    columns = [random.normal(0, 1, 200).astype(np.float32) for _ in numbers]
    texts = [random.choice(["a", "b"], 200).tolist() for _ in TEXTS]
    learnt = encoding.Encoding.learn(numbers, dict(zip(TEXTS, texts, strict=True)))
    fitted = ensemble.HistGradientBoostingClassifier(max_iter=2).fit(
        learnt.matrix(columns, texts, 200), columns[0] > 0
    )
    with warnings.catch_warnings():
        # The converter passes numpy's truth values on; elsewhere it runs in a process of its own.
        warnings.simplefilter("ignore")
        return encoding.to_onnx(fitted, learnt)


def _manifest(
    digest: str, numbers: list[str], feature_set: reference_pb2.FeatureSetReference
) -> model_pb2.Manifest:
    def tensor(name: str, dtype: Any, columns: Any) -> model_pb2.TensorSpec:
        return model_pb2.TensorSpec(name=name, dtype=dtype, columns=columns)

    outputs = ["on_time", replay.SCORE_COLUMN]
    return model_pb2.Manifest(
        artifact_digest=digest,
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=[
            tensor(encoding.NUMBERS, column_pb2.DATA_TYPE_FLOAT32, numbers),
            tensor(encoding.TEXTS, column_pb2.DATA_TYPE_STRING, TEXTS),
        ],
        outputs=[tensor(encoding.PROBABILITIES, column_pb2.DATA_TYPE_FLOAT32, outputs)],
        feature_set=feature_set,
        code_version="test",
        score_column=replay.SCORE_COLUMN,
    )


async def _replay(client: AsyncClient) -> tuple[pl.DataFrame, replay.Answers]:
    """Write what was known at the first day, and live through the others as the demo does."""
    history = flights.read_history()
    frames = streams.streams(history)
    begin, end = departures.midnight(FIRST_DAY), departures.midnight(LAST_DAY)
    known = pl.col("created_time").dt.timestamp("us") <= begin
    for view in (*replay.SERVED_VIEWS, "aircraft"):
        await feed.write(client.stubs, view, frames[view].filter(known))
    to_come = {view: frame.filter(~known) for view, frame in frames.items()}
    timed = history.flights.with_columns(
        question=pl.col("question_time").dt.timestamp("us"),
        landing=pl.col("landing_time").dt.timestamp("us"),
    ).filter((pl.col("question") >= begin) & (pl.col("question") < end))
    questions = replay.sample(timed.sort("question", "flight_id"), SHARE)
    lived = replay.Replay(client.stubs, to_come, questions)

    async def on_day(midnight: int) -> None:
        del midnight

    await lived.run(end, on_day, lambda asked: None)
    assert not lived.answers.failures
    return questions, lived.answers
