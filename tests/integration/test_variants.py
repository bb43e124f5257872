"""A route whose versions answer together while another one looks on: registry, inference, router and
monitoring, all real, from the definition of the route to what is known of each version later.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from setpoint.common.v1 import reference_pb2
from setpoint.monitoring.v1 import (
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    monitoring_service_pb2,
    monitoring_service_pb2_grpc,
    prediction_pb2,
)
from setpoint.registry.v1 import model_pb2, registry_service_pb2, registry_service_pb2_grpc
from setpoint.router.v1 import route_pb2, router_service_pb2, router_service_pb2_grpc
from setpoint_artifacts import testing as artifacts
from setpoint_cli import main, session
from setpoint_columns import Column, Columns, DataType
from setpoint_columns import proto as columns_proto
from setpoint_devstack import stack
from setpoint_inference import config as inference_config
from setpoint_inference import wiring as inference_wiring
from setpoint_monitoring import config as monitoring_config
from setpoint_monitoring import wiring as monitoring_wiring
from setpoint_registry import config as registry_config
from setpoint_registry import testing as registry_testing
from setpoint_registry import wiring as registry_wiring
from setpoint_router import config as router_config
from setpoint_router import wiring as router_wiring
from setpoint_rpc import channel
from setpoint_runtime import ids
from setpoint_testkit.serving import Serve

ROWS = 200
RANDOM = np.random.default_rng(7)
A, B = (RANDOM.normal(size=ROWS).astype(np.float32) for _ in "ab")
WEIGHTS = ((1.0, 2.0), (3.0, 0.0), (2.0, 1.5))
MEMBERS, SHADOW = (1, 2), 3
TIME = 1_400_000_000_000_000
RANGE = reference_pb2.TimeRange(start_time=TIME, end_time=TIME + 1)


def scores(version: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns what a version says to the rows."""
    a, b = WEIGHTS[version - 1]
    return a * A.astype(np.float64) + b * B + 0.5


@dataclass
class World:
    """All services, called through their stubs."""

    registry: Any
    router: Any
    ingest: Any
    monitoring: Any
    addresses: dict[str, str]

    async def register(self, weights: tuple[float, float]) -> int:
        """Upload a model and have it approved; return its version."""
        data = artifacts.linear(weights)
        await self.registry.UploadArtifact(registry_testing.upload_parts(data))
        manifest = registry_testing.manifest(data)
        manifest.ClearField("feature_set")
        manifest.ClearField("reference_profiles")
        created = await self.registry.CreateModelVersion(
            registry_service_pb2.CreateModelVersionRequest(
                request_id=ids.uuid7(), model="late", manifest=manifest
            )
        )
        version = created.model_version
        await self.registry.DecideApproval(
            registry_service_pb2.DecideApprovalRequest(
                request_id=ids.uuid7(),
                model_version=reference_pb2.ModelVersionReference(
                    model="late", version=version.version
                ),
                manifest_digest=version.manifest_digest,
                decision=model_pb2.APPROVAL_STATE_APPROVED,
                approver="alice",
            )
        )
        return int(version.version)

    async def compared(self) -> monitoring_service_pb2.CompareShadowResponse:
        """Return what is known of the shadow, once all its answers have arrived."""
        request = monitoring_service_pb2.CompareShadowRequest(
            route="late",
            shadow=reference_pb2.ModelVersionReference(model="late", version=SHADOW),
            range=RANGE,
            tolerance=1e-3,
        )
        async with asyncio.timeout(30):
            while True:
                found: monitoring_service_pb2.CompareShadowResponse
                found = await self.monitoring.CompareShadow(request)
                if found.pairs == ROWS:
                    return found
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def world(
    serve: Serve, migrated_url: Callable[[str], str], database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    """The services, with three approved versions."""
    async with AsyncExitStack() as stack:

        async def start(wiring: Any, settings: Any) -> Any:
            server = await stack.enter_async_context(serve(wiring.build, settings))
            opened = channel.connect(server.address, client="test")
            return server.address, await stack.enter_async_context(opened)

        registry, to_registry = await start(
            registry_wiring,
            registry_config.RegistrySettings(
                database_url=database_url, artifact_url=str(tmp_path / "artifacts")
            ),
        )
        inference, _ = await start(
            inference_wiring,
            inference_config.InferenceSettings(
                registry_address=registry, cache_directory=str(tmp_path / "cache")
            ),
        )
        monitoring, to_monitoring = await start(
            monitoring_wiring,
            monitoring_config.MonitoringSettings(
                database_url=migrated_url("monitoring"),
                registry_address=registry,
                evaluate_seconds=0,
            ),
        )
        router, to_router = await start(
            router_wiring,
            router_config.RouterSettings(
                database_url=migrated_url("router"),
                registry_address=registry,
                inference_address=inference,
                monitoring_address=monitoring,
                validation_address="",
                spool_directory=str(tmp_path / "spool"),
                ship_interval_seconds=0.01,
                # How long a busy machine takes is no matter of these tests.
                inference_seconds=20.0,
                latency_tolerance_seconds=10.0,
            ),
        )
        made = World(
            registry_service_pb2_grpc.RegistryServiceStub(to_registry),
            router_service_pb2_grpc.RouterServiceStub(to_router),
            ingest_service_pb2_grpc.IngestServiceStub(to_monitoring),
            monitoring_service_pb2_grpc.MonitoringServiceStub(to_monitoring),
            {"registry": registry, "router": router, "monitoring": monitoring},
        )
        await made.registry.CreateModel(
            registry_service_pb2.CreateModelRequest(
                request_id=ids.uuid7(), model=registry_testing.model("late")
            )
        )
        assert [await made.register(each) for each in WEIGHTS] == [1, 2, 3]
        yield made


async def predict(world: World) -> list[str]:
    """Asks about all rows; checks the answers and returns the prediction ids."""
    rows = Columns(ROWS, [Column.from_numpy("a", A), Column.from_numpy("b", B)])
    answer = await world.router.PredictBatch(
        router_service_pb2.PredictBatchRequest(
            route="late", rows=columns_proto.to_proto(rows), event_time=TIME
        ),
        timeout=30,
    )
    outputs = columns_proto.from_proto(answer.outputs)
    together = (scores(1) * 3 + scores(2)) / 4
    np.testing.assert_allclose(outputs["score"].values, together, atol=1e-5)
    found: list[str] = columns_proto.from_proto(answer.results)["prediction_id"].to_list()
    return found


async def create(world: World) -> None:
    """Makes the route."""
    await world.router.CreateRoute(
        router_service_pb2.CreateRouteRequest(
            request_id=ids.uuid7(),
            route=route_pb2.Route(
                name="late",
                model="late",
                ensemble=route_pb2.Ensemble(
                    members=[
                        route_pb2.EnsembleMember(version=1, weight=3),
                        route_pb2.EnsembleMember(version=2),
                    ],
                    combination=route_pb2.COMBINATION_WEIGHTED_MEAN,
                    quorum=1,
                ),
                shadows=[route_pb2.Shadow(version=SHADOW, basis_points=10_000)],
                valid_from=TIME,
            ),
        ),
        timeout=30,
    )


async def told(*words: str) -> str:
    """Returns what the command line says."""
    result = await asyncio.to_thread(CliRunner().invoke, main.app, words)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


async def test_ensemble_with_shadow_from_route_to_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members answer as one, the shadow's answers are paired, and outcomes count for both."""
    await create(world)
    found = await predict(world)
    labels = Columns.from_dict(
        {
            "prediction_id": (DataType.STRING, found),
            "label": (DataType.FLOAT64, scores(SHADOW).tolist()),
            "event_time": (DataType.TIMESTAMP, [TIME] * ROWS),
        }
    )
    await world.ingest.IngestOutcomes(
        ingest_service_pb2.IngestOutcomesRequest(outcomes=columns_proto.to_proto(labels))
    )
    compared = await world.compared()
    distance = np.abs(scores(SHADOW) - (scores(1) * 3 + scores(2)) / 4)
    assert (compared.shadow_failures, compared.unpaired, compared.labelled) == (0, 0, ROWS)
    assert compared.mean_absolute_difference == pytest.approx(distance.mean(), rel=1e-4)
    assert compared.differing_share == pytest.approx(np.mean(distance > 1e-3), abs=0.01)
    assert compared.primary_loss == pytest.approx((distance**2).mean(), rel=1e-4)
    assert compared.shadow_loss == pytest.approx(0, abs=1e-9)
    assert compared.loss_difference_upper < 0

    story = (
        await world.monitoring.GetPrediction(
            monitoring_service_pb2.GetPredictionRequest(prediction_id=found[5])
        )
    ).prediction
    said = [columns_proto.from_proto(each.outputs)["score"].item(0) for each in story.members]
    assert said == pytest.approx([scores(1)[5], scores(2)[5]], abs=1e-5)
    (shadow,) = story.shadows
    assert shadow.model_version.version == SHADOW
    assert columns_proto.from_proto(shadow.outputs)["score"].item(0) == pytest.approx(
        scores(SHADOW)[5], abs=1e-5
    )

    performance = await world.monitoring.GetPerformance(
        monitoring_service_pb2.GetPerformanceRequest(model="late", range=RANGE)
    )
    (window,) = performance.windows
    assert (window.model_version.version, window.predictions, window.labelled) == (0, ROWS, ROWS)
    assert window.metrics["mean_absolute_error"] == pytest.approx(distance.mean(), rel=1e-4)
    for kind in (prediction_pb2.PREDICTION_KIND_SERVED, prediction_pb2.PREDICTION_KIND_SHADOW):
        listed = await world.monitoring.ListPredictions(
            monitoring_service_pb2.ListPredictionsRequest(model="late", kind=kind, page_size=1)
        )
        assert listed.total_size == ROWS

    monkeypatch.setattr(stack, "running_addresses", lambda _: world.addresses)
    monkeypatch.setattr(session.console, "width", 200)
    assert "weighted mean of v1×3 + v2×1, 1 must answer, shadow v3 100 %" in await told("routes")
    story_told = await told("explain", found[5])
    assert "member version 2, weight 1: score" in story_told
    assert f"shadow version 3: score {scores(SHADOW)[5]:.4f}" in story_told
    days = ("--since", "2014-05-13", "--until", "2014-05-14")
    report = await told("shadow", "late", "3", *days)
    assert f"pairs {ROWS}" in report
    assert f"scores differ by {distance.mean():.4f} on average" in report
