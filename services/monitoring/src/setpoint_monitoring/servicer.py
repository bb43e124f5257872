"""The RPCs: convert, call, convert."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

import grpc

from setpoint.monitoring.v1 import (
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    monitoring_service_pb2,
    monitoring_service_pb2_grpc,
)
from setpoint_monitoring import convert, ports
from setpoint_monitoring.domain.alerting import State
from setpoint_monitoring.domain.records import HOUR, Window
from setpoint_monitoring.ports import AlertStore
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.service.reports import Reports
from setpoint_monitoring.service.watch import Watch
from setpoint_runtime import errors, ids, paging
from setpoint_runtime.clock import Clock

WHOLE = 10_000
"""Basis points."""


class IngestServicer(ingest_service_pb2_grpc.IngestServiceServicer):
    """Implements setpoint.monitoring.v1.IngestService."""

    def __init__(self, ingest: Ingest, clock: Clock) -> None:
        """Take the service."""
        self._ingest = ingest
        self._clock = clock

    async def IngestPredictions(
        self,
        request: ingest_service_pb2.IngestPredictionsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> ingest_service_pb2.IngestPredictionsResponse:
        """Store records."""
        records = [
            convert.record_from_proto(record, f"records[{number}]")
            for number, record in enumerate(request.records)
        ]
        stored, duplicates = await self._ingest.predictions(records)
        return ingest_service_pb2.IngestPredictionsResponse(stored=stored, duplicates=duplicates)

    async def IngestOutcomes(
        self,
        request: ingest_service_pb2.IngestOutcomesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> ingest_service_pb2.IngestOutcomesResponse:
        """Store outcomes."""
        outcomes = convert.outcomes_from_proto(request.outcomes, self._clock.now_us())
        stored, duplicates = await self._ingest.outcomes(outcomes)
        return ingest_service_pb2.IngestOutcomesResponse(stored=stored, duplicates=duplicates)


class MonitoringServicer(monitoring_service_pb2_grpc.MonitoringServiceServicer):
    """Implements setpoint.monitoring.v1.MonitoringService."""

    def __init__(self, reports: Reports, watch: Watch, alerts: AlertStore) -> None:
        """Take the services."""
        self._reports = reports
        self._watch = watch
        self._alerts = alerts

    async def GetPrediction(
        self,
        request: monitoring_service_pb2.GetPredictionRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.GetPredictionResponse:
        """Tell one prediction's story."""
        prediction_id = _uuid("prediction_id", request.prediction_id)
        stored = await self._reports.prediction(prediction_id)
        return monitoring_service_pb2.GetPredictionResponse(
            prediction=convert.prediction_to_proto(stored)
        )

    async def ListPredictions(
        self,
        request: monitoring_service_pb2.ListPredictionsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.ListPredictionsResponse:
        """List predictions."""
        which = ports.ListFilter(
            convert.text("model", request.model) or None,
            request.version or None,
            convert.window_from_proto(request.range, "range")
            if request.HasField("range")
            else None,
            convert.are_shadows_from_proto(request.kind),
        )
        span = which.window or Window(0, 0)
        asked = (request.model, request.version, span.start, span.end, request.kind)
        size = paging.size(request.page_size)
        before = _before("ListPredictions", asked, request.page_token)
        listed = await self._reports.list_predictions(which, before, size)
        token = ""
        if len(listed) == size:
            last = listed[-1].event_time, listed[-1].prediction_id
            token = paging.encode("ListPredictions", asked, last)
        return monitoring_service_pb2.ListPredictionsResponse(
            predictions=[convert.listed_to_proto(each) for each in listed],
            next_page_token=token,
            total_size=await self._reports.count_predictions(which),
        )

    async def GetPerformance(
        self,
        request: monitoring_service_pb2.GetPerformanceRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.GetPerformanceResponse:
        """Measure quality."""
        measured = await self._reports.performance(
            _required("model", request.model),
            request.version or None,
            convert.window_from_proto(request.range, "range"),
            _length(request.window_microseconds, 1),
            request.known_at_time or None,
        )
        return monitoring_service_pb2.GetPerformanceResponse(
            windows=[convert.performance_to_proto(each) for each in measured]
        )

    async def GetDrift(
        self,
        request: monitoring_service_pb2.GetDriftRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.GetDriftResponse:
        """Compare windows with the reference."""
        version = convert.version_from_proto(request.model_version, "model_version")
        found = await self._reports.drift(
            version,
            convert.window_from_proto(request.range, "range"),
            _length(request.window_microseconds, HOUR),
        )
        return monitoring_service_pb2.GetDriftResponse(
            findings=[convert.finding_to_proto(version, *each) for each in found]
        )

    async def CompareVersions(
        self,
        request: monitoring_service_pb2.CompareVersionsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.CompareVersionsResponse:
        """Judge a candidate."""
        share = request.candidate_basis_points
        if not 1 <= share <= 9_999:
            raise errors.invalid("candidate_basis_points", share, "must be 1 to 9999")
        compared = await self._reports.compare(
            _required("route", request.route),
            convert.version_from_proto(request.candidate, "candidate"),
            convert.version_from_proto(request.baseline, "baseline"),
            convert.window_from_proto(request.range, "range"),
            share / 10_000,
            request.minimum_predictions,
        )
        return convert.comparison_to_proto(*compared)

    async def CompareShadow(
        self,
        request: monitoring_service_pb2.CompareShadowRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.CompareShadowResponse:
        """Compare a shadow with what callers got."""
        if not 0 <= request.tolerance < math.inf:
            raise errors.invalid("tolerance", request.tolerance, "must be a number from 0")
        compared = await self._reports.compare_shadow(
            _required("route", request.route),
            convert.version_from_proto(request.shadow, "shadow"),
            request.primary_version or None,
            convert.window_from_proto(request.range, "range"),
            request.known_at_time or None,
            request.tolerance,
        )
        return convert.shadow_comparison_to_proto(compared)

    async def EvaluateAlerts(
        self,
        request: monitoring_service_pb2.EvaluateAlertsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.EvaluateAlertsResponse:
        """Judge windows that have ended."""
        model = _required("model", request.model)
        if request.as_of_time <= 0:
            raise errors.invalid("as_of_time", request.as_of_time, "must be a time")
        windows, changed = await self._watch.evaluate(model, request.as_of_time)
        return monitoring_service_pb2.EvaluateAlertsResponse(
            windows_evaluated=windows, changed=[convert.alert_to_proto(each) for each in changed]
        )

    async def ListAlerts(
        self,
        request: monitoring_service_pb2.ListAlertsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.ListAlertsResponse:
        """List alerts."""
        states = convert.states_from_proto(request.states)
        model = convert.text("model", request.model)
        asked: list[int | str] = [model, *states]
        size = paging.size(request.page_size)
        before = _before("ListAlerts", asked, request.page_token)
        alerts = await self._alerts.list(model or None, states, before, size)
        token = ""
        if len(alerts) == size:
            last = alerts[-1].start_time, alerts[-1].alert_id
            token = paging.encode("ListAlerts", asked, last)
        return monitoring_service_pb2.ListAlertsResponse(
            alerts=[convert.alert_to_proto(each) for each in alerts], next_page_token=token
        )

    async def SampleRecords(
        self,
        request: monitoring_service_pb2.SampleRecordsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.SampleRecordsResponse:
        """Read a share of the records."""
        share = request.basis_points
        if not 0 <= share <= WHOLE:
            raise errors.invalid("basis_points", share, f"must be 0 to {WHOLE}")
        if request.after_record_id < 0:
            raise errors.invalid("after_record_id", request.after_record_id, "must be at least 0")
        sample = await self._reports.sample_records(
            request.after_record_id, share or WHOLE, request.until_time or None
        )
        return convert.sample_to_proto(sample)

    async def AcknowledgeAlert(
        self,
        request: monitoring_service_pb2.AcknowledgeAlertRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> monitoring_service_pb2.AcknowledgeAlertResponse:
        """Take an alert."""
        alert_id = _uuid("alert_id", request.alert_id)
        alert = await self._alerts.acknowledge(alert_id, _required("actor", request.actor))
        if alert.state is not State.ACKNOWLEDGED:
            raise errors.FailedPreconditionError(
                errors.Reason.INVALID_FIELD,
                f"alert {alert_id} is {alert.state.name}; only a firing alert can be taken",
            )
        return monitoring_service_pb2.AcknowledgeAlertResponse(alert=convert.alert_to_proto(alert))


def _before(method: str, asked: Sequence[int | str], token: str) -> tuple[int, str] | None:
    """Returns the time and the id that a page begins before."""
    key = paging.decode(method, asked, token, (int, uuid.UUID))
    return None if key is None else (int(key[0]), str(key[1]))


def _required(field: str, value: str) -> str:
    if not value:
        raise errors.invalid(field, value, "must be set", errors.Reason.MISSING_FIELD)
    return convert.text(field, value)


def _uuid(field: str, value: str) -> str:
    if not ids.is_uuid(_required(field, value)):
        raise errors.invalid(field, value, "must be a UUID")
    return value.lower()


def _length(microseconds: int, multiple: int) -> int:
    if microseconds < 0 or microseconds % multiple:
        raise errors.invalid(
            "window_microseconds", microseconds, f"must be a positive multiple of {multiple}, or 0"
        )
    return microseconds
