from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from setpoint.common.v1 import reference_pb2
from setpoint.monitoring.v1 import (
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    monitoring_service_pb2_grpc,
    prediction_pb2,
    report_pb2,
)
from setpoint.monitoring.v1 import monitoring_service_pb2 as pb
from setpoint.registry.v1 import model_pb2, registry_service_pb2
from setpoint_columns import proto
from setpoint_monitoring import config, testing, wiring
from setpoint_monitoring.domain.records import HOUR, VersionKey
from setpoint_monitoring.testing import START
from setpoint_rpc import channel
from setpoint_rpc.server import Server, ServerOptions
from setpoint_runtime import errors, ids
from setpoint_testkit.serving import Serve

REGISTRY = "setpoint.registry.v1.RegistryService"
RANGE = reference_pb2.TimeRange(start_time=START, end_time=START + 24 * HOUR)
VERSION = reference_pb2.ModelVersionReference(model="late", version=1)


class RegistryDouble:
    """A registry that knows version 1 of "late"."""

    async def GetModelVersion(
        self,
        request: registry_service_pb2.GetModelVersionRequest,
        context: object,
    ) -> registry_service_pb2.GetModelVersionResponse:
        if request.model_version != VERSION:
            raise errors.NotFoundError(errors.Reason.MODEL_VERSION_NOT_FOUND, "no such version")
        profile = model_pb2.FeatureProfile(
            column="x", edges=[-1.0, 0.0, 1.0], counts=[250, 250, 250, 250, 0, 0]
        )
        manifest = model_pb2.Manifest(reference_profiles=[profile], decision_threshold=0.5)
        return registry_service_pb2.GetModelVersionResponse(
            model_version=model_pb2.ModelVersion(manifest=manifest)
        )

    async def GetModel(
        self, request: registry_service_pb2.GetModelRequest, context: object
    ) -> registry_service_pb2.GetModelResponse:
        model = model_pb2.Model(name="late", task=model_pb2.TASK_BINARY_CLASSIFICATION)
        return registry_service_pb2.GetModelResponse(model=model)


def add_registry(registry: RegistryDouble, server: Any) -> None:
    """Register the two methods that monitoring calls."""
    handlers = {
        "GetModelVersion": grpc.unary_unary_rpc_method_handler(
            registry.GetModelVersion,
            registry_service_pb2.GetModelVersionRequest.FromString,
            registry_service_pb2.GetModelVersionResponse.SerializeToString,
        ),
        "GetModel": grpc.unary_unary_rpc_method_handler(
            registry.GetModel,
            registry_service_pb2.GetModelRequest.FromString,
            registry_service_pb2.GetModelResponse.SerializeToString,
        ),
    }
    server.add_registered_method_handlers(REGISTRY, handlers)


@dataclass
class Service:
    ingest: "ingest_service_pb2_grpc.IngestServiceAsyncStub"
    stub: "monitoring_service_pb2_grpc.MonitoringServiceAsyncStub"

    async def add(self, times: list[int], failed: list[bool] | None = None) -> list[str]:
        """Ship a record and return its predictions' ids."""
        known = [ids.uuid7() for _ in times]
        record = testing.message(times, prediction_ids=known, failed=failed)
        request = ingest_service_pb2.IngestPredictionsRequest(records=[record])
        assert (await self.ingest.IngestPredictions(request)).stored == len(times)
        return known


@pytest.fixture
async def service(serve: Serve, migrated_url: Callable[[str], str]) -> AsyncIterator[Service]:
    registry = Server("registry", ServerOptions())
    registry.add(
        add_registry,
        RegistryDouble(),
        REGISTRY,
    )
    async with AsyncExitStack() as stack:
        await registry.start()
        stack.push_async_callback(registry.stop, 0.1)
        await registry.set_ready(True)
        settings = config.MonitoringSettings(
            database_url=migrated_url("monitoring"),
            registry_address=registry.address,
            window_hours=1,
            evaluate_seconds=0,
        )
        server = await stack.enter_async_context(serve(wiring.build, settings))
        opened: grpc.aio.Channel = await stack.enter_async_context(
            channel.connect(server.address, client="test")
        )
        yield Service(
            ingest_service_pb2_grpc.IngestServiceStub(opened),
            monitoring_service_pb2_grpc.MonitoringServiceStub(opened),
        )


async def failing(call: object) -> errors.SetpointError:
    """Await a call that fails; return its typed error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # stubs of grpc.aio calls are not awaitable to mypy
    return channel.from_rpc_error(caught.value)


async def test_get_prediction(service: Service) -> None:
    """A prediction that was shipped is told with its outcome."""
    first, _ = await service.add([START, START + 1])
    outcomes = testing.outcomes([(first, 1.0, START + HOUR)])
    await service.ingest.IngestOutcomes(ingest_service_pb2.IngestOutcomesRequest(outcomes=outcomes))
    request = pb.GetPredictionRequest(prediction_id=first)
    story = (await service.stub.GetPrediction(request)).prediction
    assert (story.prediction_id, story.route) == (first, "late")
    assert [each.label for each in story.outcomes] == [1.0]
    assert proto.from_proto(story.outputs)["probability"].to_list() == [0.25]
    assert story.outcomes[0].arrival_time > 0


async def test_get_prediction_unknown(service: Service) -> None:
    """A prediction without a record is not found; what is no id is refused."""
    request = pb.GetPredictionRequest(prediction_id=ids.uuid7())
    error = await failing(service.stub.GetPrediction(request))
    assert error.reason is errors.Reason.PREDICTION_NOT_FOUND
    error = await failing(service.stub.GetPrediction(pb.GetPredictionRequest(prediction_id="x")))
    assert error.violations[0].field == "prediction_id"


async def test_ingest_names_record(service: Service) -> None:
    """Of several records the malformed one is named, and none is stored."""
    bad = testing.message([START])
    bad.input_statuses.append(b"")
    request = ingest_service_pb2.IngestPredictionsRequest(records=[testing.message([START]), bad])
    error = await failing(service.ingest.IngestPredictions(request))
    assert error.violations[0].field == "records[1].input_statuses"
    assert (await service.stub.ListPredictions(pb.ListPredictionsRequest())).total_size == 0


async def test_list_predictions_pages(service: Service) -> None:
    """Pages hold every prediction once; the number of all is told."""
    known = await service.add([START, START + 1, START + 2])
    found, token = [], "first"
    while token:
        answer = await service.stub.ListPredictions(
            pb.ListPredictionsRequest(
                model="late", page_size=2, page_token="" if token == "first" else token
            )
        )
        assert answer.total_size == 3
        found += [each.prediction_id for each in answer.predictions]
        token = answer.next_page_token
    assert found == known[::-1]


async def test_list_predictions_token_of_another_question(service: Service) -> None:
    """A token goes on with its own question alone, so that no page is mixed of two lists."""
    await service.add([START, START + 1])
    first = await service.stub.ListPredictions(pb.ListPredictionsRequest(model="late", page_size=1))
    others = (
        pb.ListPredictionsRequest(),
        pb.ListPredictionsRequest(model="late", version=1),
        pb.ListPredictionsRequest(model="late", range=RANGE),
    )
    for other in others:
        other.page_token = first.next_page_token
        error = await failing(service.stub.ListPredictions(other))
        assert error.reason is errors.Reason.INVALID_PAGE_TOKEN


async def test_refuses_bad_arguments(service: Service) -> None:
    """What is wrong with a question is named."""
    backwards = reference_pb2.TimeRange(start_time=5, end_time=5)
    calls = [
        ("page_token", service.stub.ListPredictions(pb.ListPredictionsRequest(page_token="NQ=="))),
        ("page_size", service.stub.ListPredictions(pb.ListPredictionsRequest(page_size=-1))),
        (
            "range.end_time",
            service.stub.ListPredictions(pb.ListPredictionsRequest(range=backwards)),
        ),
        ("model", service.stub.ListPredictions(pb.ListPredictionsRequest(model="a\0b"))),
        ("model", service.stub.GetPerformance(pb.GetPerformanceRequest(range=RANGE))),
        (
            "window_microseconds",
            service.stub.GetDrift(
                pb.GetDriftRequest(model_version=VERSION, range=RANGE, window_microseconds=5)
            ),
        ),
        (
            "model_version.version",
            service.stub.GetDrift(
                pb.GetDriftRequest(
                    model_version=reference_pb2.ModelVersionReference(model="late"), range=RANGE
                )
            ),
        ),
        (
            "candidate_basis_points",
            service.stub.CompareVersions(pb.CompareVersionsRequest(candidate_basis_points=10_000)),
        ),
        (
            "tolerance",
            service.stub.CompareShadow(pb.CompareShadowRequest(tolerance=float("nan"))),
        ),
        ("shadow.model", service.stub.CompareShadow(pb.CompareShadowRequest(route="late"))),
        ("as_of_time", service.stub.EvaluateAlerts(pb.EvaluateAlertsRequest(model="late"))),
        ("states[0]", service.stub.ListAlerts(pb.ListAlertsRequest(states=[9]))),  # type: ignore[list-item]  # on purpose
        ("page_token", service.stub.ListAlerts(pb.ListAlertsRequest(page_token="x"))),
    ]
    for field, call in calls:
        error = await failing(call)
        assert isinstance(error, errors.InvalidArgumentError)
        assert error.violations[0].field == field


async def test_reports_over_registry(service: Service) -> None:
    """Quality and drift come with what the registry knows of the version."""
    await service.add([START] * 300)
    performance = await service.stub.GetPerformance(
        pb.GetPerformanceRequest(model="late", range=RANGE)
    )
    assert [each.predictions for each in performance.windows] == [300]
    found = await service.stub.GetDrift(pb.GetDriftRequest(model_version=VERSION, range=RANGE))
    assert [(each.column, each.level) for each in found.findings] == [
        ("x", report_pb2.DRIFT_LEVEL_ALARM)
    ]
    other = reference_pb2.ModelVersionReference(model="late", version=7)
    error = await failing(
        service.stub.GetDrift(pb.GetDriftRequest(model_version=other, range=RANGE))
    )
    assert error.reason is errors.Reason.MODEL_VERSION_NOT_FOUND


async def test_shadows_are_told_and_compared(service: Service) -> None:
    """A primary tells its shadow's answer, a shadow its primary, and a report compares them."""
    known = await service.add([START, START + 1])
    copied = [ids.uuid7() for _ in known]
    record = testing.message(
        [START, START + 1], prediction_ids=copied, copies=known, scores=[0.5, 0.25]
    )
    request = ingest_service_pb2.IngestPredictionsRequest(records=[record])
    assert (await service.ingest.IngestPredictions(request)).stored == 2
    outcomes = testing.outcomes([(known[0], 1.0, START + HOUR)])
    await service.ingest.IngestOutcomes(ingest_service_pb2.IngestOutcomesRequest(outcomes=outcomes))

    get = service.stub.GetPrediction
    story = (await get(pb.GetPredictionRequest(prediction_id=known[0]))).prediction
    assert story.kind == prediction_pb2.PREDICTION_KIND_SERVED
    (shadow,) = story.shadows
    assert (shadow.prediction_id, shadow.primary_prediction_id) == (copied[0], known[0])
    assert proto.from_proto(shadow.outputs)["probability"].to_list() == [0.5]
    assert not shadow.outcomes
    story = (await get(pb.GetPredictionRequest(prediction_id=copied[0]))).prediction
    assert story.kind == prediction_pb2.PREDICTION_KIND_SHADOW
    assert [each.label for each in story.outcomes] == [1.0]

    listed = await service.stub.ListPredictions(pb.ListPredictionsRequest())
    assert {each.prediction_id for each in listed.predictions} == set(known)
    assert listed.total_size == 2
    asked = pb.ListPredictionsRequest(kind=prediction_pb2.PREDICTION_KIND_SHADOW, page_size=1)
    listed = await service.stub.ListPredictions(asked)
    assert (listed.total_size, listed.predictions[0].prediction_id) == (2, copied[1])
    assert listed.predictions[0].primary_prediction_id == known[1]

    compared = await service.stub.CompareShadow(
        pb.CompareShadowRequest(route="late", shadow=VERSION, range=RANGE)
    )
    assert (compared.pairs, compared.scored, compared.labelled) == (2, 2, 1)
    assert (compared.differing_share, compared.differing_decision_share) == (0.5, 0.5)
    assert compared.mean_absolute_difference == 0.125
    assert compared.shadow_loss < compared.primary_loss
    assert not compared.HasField("loss_difference_lower")


async def test_ensembles_are_measured(service: Service) -> None:
    """What several versions answered together counts for version 0, by the task of the model."""
    known = [ids.uuid7(), ids.uuid7()]
    record = testing.message(
        [START, START], version=VersionKey("late", 0), prediction_ids=known, scores=[0.75, 0.25]
    )
    request = ingest_service_pb2.IngestPredictionsRequest(records=[record])
    await service.ingest.IngestPredictions(request)
    outcomes = testing.outcomes([(each, 1.0, START + HOUR) for each in known])
    await service.ingest.IngestOutcomes(ingest_service_pb2.IngestOutcomesRequest(outcomes=outcomes))
    found = await service.stub.GetPerformance(pb.GetPerformanceRequest(model="late", range=RANGE))
    (window,) = found.windows
    assert (window.model_version.version, window.labelled) == (0, 2)
    assert window.metrics["accuracy"] == 0.5
    evaluated = await service.stub.EvaluateAlerts(
        pb.EvaluateAlertsRequest(model="late", as_of_time=START + 48 * HOUR)
    )
    assert not evaluated.changed


async def test_acknowledge_alert_states(service: Service) -> None:
    """A pending alert cannot be taken, a firing one can, by whoever comes first."""

    async def evaluated(hour: int) -> pb.AcknowledgeAlertRequest:
        await service.add([START + hour * HOUR] * 60, failed=[True] * 60)
        answer = await service.stub.EvaluateAlerts(
            pb.EvaluateAlertsRequest(model="late", as_of_time=START + (hour + 1) * HOUR)
        )
        (alert,) = answer.changed
        return pb.AcknowledgeAlertRequest(alert_id=alert.alert_id, actor="ada")

    error = await failing(service.stub.AcknowledgeAlert(await evaluated(0)))
    assert isinstance(error, errors.FailedPreconditionError)
    request = await evaluated(1)
    taken = (await service.stub.AcknowledgeAlert(request)).alert
    assert (taken.state, taken.acknowledged_by) == (report_pb2.ALERT_STATE_ACKNOWLEDGED, "ada")
    again = (await service.stub.AcknowledgeAlert(request)).alert
    assert again == taken
    listed = await service.stub.ListAlerts(
        pb.ListAlertsRequest(model="late", states=[report_pb2.ALERT_STATE_ACKNOWLEDGED])
    )
    assert list(listed.alerts) == [taken]
    request.actor = ""
    assert (await failing(service.stub.AcknowledgeAlert(request))).violations[0].field == "actor"
    request = pb.AcknowledgeAlertRequest(alert_id=ids.uuid7(), actor="ada")
    error = await failing(service.stub.AcknowledgeAlert(request))
    assert error.reason is errors.Reason.ALERT_NOT_FOUND
