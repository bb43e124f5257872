"""The services that answer predictions, online and in batches, in this process, with one model.

The model is about the parcels of `tests.support.parcels`: numbers and a text, some of them features
that may be stale, missing or a default, others given by the request, one computed of both.
"""

from __future__ import annotations

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
from tests.support import parcel_features, parcels, waiting

from setpoint.batch.v1 import batch_prediction_pb2, batch_service_pb2
from setpoint.common.v1 import column_pb2, reference_pb2
from setpoint.feature.v1 import definition_pb2, feature_service_pb2
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint.router.v1 import route_pb2, router_service_pb2
from setpoint.validation.v1 import validation_service_pb2
from setpoint_batch import config as batch_config
from setpoint_batch import wiring as batch_wiring
from setpoint_client import AsyncClient
from setpoint_feature import config as feature_config
from setpoint_feature import wiring as feature_wiring
from setpoint_inference import config as inference_config
from setpoint_inference import wiring as inference_wiring
from setpoint_registry import config as registry_config
from setpoint_registry import wiring as registry_wiring
from setpoint_retraining.training import encoding
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_runtime import ids
from setpoint_testkit import serving
from setpoint_validation import config as validation_config
from setpoint_validation import wiring as validation_wiring

NUMBERS = ("queue", "staff", "sick_share", "distance", "hour", "effort")
TEXTS = ("kind",)
INPUTS = (*NUMBERS, *TEXTS)
DAYS = 3
SECONDS = 50.0
NOBODY = "127.0.0.1:1"
"""Records stay in the router's spool."""

SERVICES = ("registry", "feature", "validation", "inference", "router", "batch")
STATES = batch_prediction_pb2.BatchPredictionState


@dataclass
class House:
    """The services, and what happened in their world."""

    client: AsyncClient
    days: list[parcels.Day]
    folder: Path
    addresses: dict[str, str]
    database_url: str
    version: int

    def questions(self, day: int = DAYS - 1) -> pl.DataFrame:
        """Return the parcels of a day, with keys, request fields and times."""
        asked = self.days[day].parcels
        names = ("parcel_id", "depot", "crew", *parcels.REQUEST_FIELDS, "sent_time")
        frame = pl.DataFrame({name: [getattr(each, name) for each in asked] for name in names})
        times = pl.col("sent_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return frame.with_columns(times)

    async def start(
        self, spec: batch_prediction_pb2.BatchPredictionSpec, *, rerun: bool = False
    ) -> batch_service_pb2.StartBatchPredictionResponse:
        """Start a job."""
        request = batch_service_pb2.StartBatchPredictionRequest(
            request_id=ids.uuid7(), spec=spec, rerun=rerun
        )
        return await self.client.stubs.batch.StartBatchPrediction(request, timeout=SECONDS)

    async def ended(self, job_id: str) -> batch_prediction_pb2.BatchPrediction:
        """Wait for the end of a job."""
        request = batch_service_pb2.WatchBatchPredictionRequest(batch_prediction_id=job_id)
        last = None
        async for seen in self.client.stubs.batch.WatchBatchPrediction(request, timeout=SECONDS):
            last = seen.batch_prediction
        assert last is not None
        return last

    async def run(
        self, spec: batch_prediction_pb2.BatchPredictionSpec, **options: Any
    ) -> batch_prediction_pb2.BatchPrediction:
        """Start a job and wait for its end."""
        started = await self.start(spec, **options)
        return await self.ended(started.batch_prediction.batch_prediction_id)


@asynccontextmanager
async def opened(
    folder: Path, database_url: str, valkey_url: str, **batch: Any
) -> AsyncIterator[House]:
    """Run the services and bring the model to life, for the length of a block."""
    async with AsyncExitStack() as stack:
        addresses: dict[str, str] = {}

        async def run(name: str, build: Any, settings: Any) -> None:
            server = await stack.enter_async_context(serving.serve(build, settings))
            addresses[f"{name}_address"] = server.address

        def known(*peers: str) -> dict[str, Any]:
            return {f"{peer}_address": addresses[f"{peer}_address"] for peer in peers}

        artifacts = str(folder / "artifacts")
        await run(
            "registry",
            registry_wiring.build,
            registry_config.RegistrySettings(database_url=database_url, artifact_url=artifacts),
        )
        await run(
            "feature",
            feature_wiring.build,
            feature_config.FeatureSettings(
                database_url=database_url,
                valkey_url=valkey_url,
                modules=parcel_features.__name__,
                **known("registry"),
            ),
        )
        await run(
            "validation",
            validation_wiring.build,
            validation_config.ValidationSettings(database_url=database_url, poll_seconds=0.05),
        )
        await run(
            "inference",
            inference_wiring.build,
            inference_config.InferenceSettings(
                cache_directory=str(folder / "cache"), **known("registry")
            ),
        )
        await run(
            "router",
            router_wiring.build,
            router_config.RouterSettings(
                database_url=database_url,
                spool_directory=str(folder / "spool"),
                monitoring_address=NOBODY,
                # How long a busy machine takes is no matter of these tests.
                features_seconds=10.0,
                inference_seconds=20.0,
                latency_tolerance_seconds=10.0,
                flush_seconds=0.0,
                **known("registry", "feature", "validation", "inference"),
            ),
        )
        peers = known("registry", "feature", "validation")
        settings: dict[str, Any] = {
            "partition_rows": 100,
            "chunk_rows": 64,
            "processes": 2,
            "niceness": 0,
        }
        await run(
            "batch",
            batch_wiring.build,
            batch_config.BatchSettings(
                database_url=database_url,
                work_directory=folder / "batch",
                **{**settings, **peers, **batch},
            ),
        )
        client = await stack.enter_async_context(AsyncClient(caller="test", **known(*SERVICES)))
        days = [parcels.Day(number) for number in range(DAYS)]
        house = House(client, days, folder, addresses, database_url, 0)
        await _settle(house)
        yield house


def _feature_set() -> definition_pb2.FeatureSet:
    made = parcels.feature_set()
    # In an order in which they cannot be computed; the service finds its own.
    for name in ("effort", "queue_each"):
        made.transformations.add(name=name, function=f"{parcel_features.__name__}:{name}")
    return made


async def _settle(house: House) -> None:
    """Bring history, rules, a model and a route to life."""
    stubs = house.client.stubs
    for entity in parcels.ENTITIES:
        await stubs.feature.RegisterEntity(
            feature_service_pb2.RegisterEntityRequest(request_id=ids.uuid7(), entity=entity)
        )
    for view in parcels.VIEWS[:2]:
        await stubs.feature.RegisterFeatureView(
            feature_service_pb2.RegisterFeatureViewRequest(request_id=ids.uuid7(), view=view)
        )
    registered = await stubs.feature.RegisterFeatureSet(
        feature_service_pb2.RegisterFeatureSetRequest(
            request_id=ids.uuid7(), feature_set=_feature_set()
        )
    )
    for day in house.days:
        await house.client.write_features("depot_load", day.loads(), timeout=SECONDS)
        await house.client.write_features("crew_health", day.crews(), timeout=SECONDS)
    await stubs.validation.PutSuite(
        validation_service_pb2.PutSuiteRequest(request_id=ids.uuid7(), suite=parcels.suite())
    )
    reference = reference_pb2.FeatureSetReference(
        name=parcels.FEATURE_SET, version=registered.feature_set.version
    )
    house.version = await _register(house.client, reference)
    await _route(house)


def artifact() -> bytes:
    """Fit a model and return it in ONNX; the same each time."""
    random = np.random.default_rng(5)
    numbers = [random.normal(40, 30, 2_000).astype(np.float32) for _ in NUMBERS]
    kinds = random.choice(parcels.KINDS, 2_000).tolist()
    learnt = encoding.Encoding.learn(NUMBERS, {"kind": kinds})
    matrix = learnt.matrix(numbers, [kinds], 2_000)
    label = numbers[0] / 30 + numbers[3] / 60 - numbers[1] / 20 > random.normal(0.5, 1, 2_000)
    fitted = ensemble.HistGradientBoostingClassifier(max_iter=15).fit(matrix, label)
    with warnings.catch_warnings():
        # The converter passes numpy's truth values on; elsewhere it runs in a process of its own.
        warnings.simplefilter("ignore")
        return encoding.to_onnx(fitted, learnt)


async def _register(client: AsyncClient, feature_set: reference_pb2.FeatureSetReference) -> int:
    data = artifact()
    manifest = _manifest(hashlib.sha256(data).hexdigest(), feature_set)
    return await publish(client, parcels.MODEL, data, manifest)


async def publish(client: AsyncClient, name: str, data: bytes, manifest: model_pb2.Manifest) -> int:
    """Make a version of a model, approved and champion."""
    registry = client.stubs.registry
    digest = manifest.artifact_digest
    model = model_pb2.Model(name=name, task=model_pb2.TASK_BINARY_CLASSIFICATION, owner="test")
    await registry.CreateModel(
        registry_service_pb2.CreateModelRequest(request_id=ids.uuid7(), model=model)
    )
    header = registry_service_pb2.ArtifactHeader(
        digest=digest, size=len(data), format=model_pb2.ARTIFACT_FORMAT_ONNX
    )
    parts = [
        registry_service_pb2.UploadArtifactRequest(header=header),
        registry_service_pb2.UploadArtifactRequest(data=data),
    ]
    await registry.UploadArtifact(iter(parts))
    created = await registry.CreateModelVersion(
        registry_service_pb2.CreateModelVersionRequest(
            request_id=ids.uuid7(), model=name, manifest=manifest
        )
    )
    version = created.model_version
    await registry.DecideApproval(
        registry_service_pb2.DecideApprovalRequest(
            request_id=ids.uuid7(),
            model_version=reference_pb2.ModelVersionReference(
                model=version.model, version=version.version
            ),
            manifest_digest=version.manifest_digest,
            decision=model_pb2.APPROVAL_STATE_APPROVED,
            approver="a person",
        )
    )
    await registry.SetAlias(
        registry_service_pb2.SetAliasRequest(
            request_id=ids.uuid7(),
            model=version.model,
            alias="champion",
            version=version.version,
            actor="a person",
        )
    )
    return int(version.version)


def _manifest(digest: str, feature_set: reference_pb2.FeatureSetReference) -> model_pb2.Manifest:
    def tensor(name: str, dtype: Any, columns: Any) -> model_pb2.TensorSpec:
        return model_pb2.TensorSpec(name=name, dtype=dtype, columns=columns)

    return model_pb2.Manifest(
        artifact_digest=digest,
        format=model_pb2.ARTIFACT_FORMAT_ONNX,
        inputs=[
            tensor(encoding.NUMBERS, column_pb2.DATA_TYPE_FLOAT32, NUMBERS),
            tensor(encoding.TEXTS, column_pb2.DATA_TYPE_STRING, TEXTS),
        ],
        outputs=[tensor(encoding.PROBABILITIES, column_pb2.DATA_TYPE_FLOAT32, ["on_time", "late"])],
        feature_set=feature_set,
        code_version="test",
        score_column="late",
    )


async def _route(house: House) -> None:
    stubs = house.client.stubs
    route = route_pb2.Route(
        name=parcels.ROUTE,
        model=parcels.MODEL,
        weights=[route_pb2.VersionWeight(version=house.version, basis_points=10_000)],
        actor="a person",
    )
    await stubs.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(request_id=ids.uuid7(), route=route),
        timeout=SECONDS,
    )
    parcel = house.days[-1].parcels[0]

    async def rules_are_there() -> bool:
        answer = await house.client.predict(
            parcels.ROUTE,
            entities=parcel.entities,
            inputs={**parcel.inputs, "distance": 4_000.0},
            event_time=parcel.sent_time,
            timeout=SECONDS,
        )
        return any(each.kind == "RULE_FLAGGED" for each in answer.degradations)

    await waiting.until(rules_are_there, bool)
