"""Puts monitoring together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from setpoint.monitoring.v1 import ingest_service_pb2_grpc, monitoring_service_pb2_grpc
from setpoint_db import engine, migrate
from setpoint_monitoring import convert, servicer
from setpoint_monitoring.adapters.registry_client import RegistryClient
from setpoint_monitoring.config import MonitoringSettings
from setpoint_monitoring.domain.records import HOUR
from setpoint_monitoring.service.ingest import Ingest
from setpoint_monitoring.service.reports import Reports
from setpoint_monitoring.service.watch import Watch, WatchOptions
from setpoint_monitoring.store.alert_store import AlertStore
from setpoint_monitoring.store.prediction_store import PredictionStore
from setpoint_rpc import channel
from setpoint_rpc.server import Server
from setpoint_runtime.clock import Clock
from setpoint_runtime.tasks import TaskOwner

SCHEMA = "monitoring"
REPORT_SECONDS = 60.0


@asynccontextmanager
async def build(settings: MonitoringSettings, server: Server, clock: Clock) -> AsyncIterator[None]:
    """Wire the service for as long as the block lasts."""
    await migrate.upgrade(settings.database_url, schema=SCHEMA, package="setpoint_monitoring")
    async with AsyncExitStack() as opened:
        quick = engine.create_engine(
            settings.database_url, application_name="setpoint-monitoring", schema=SCHEMA
        )
        opened.push_async_callback(quick.dispose)
        reporting = engine.create_engine(
            settings.database_url,
            application_name="setpoint-monitoring-reports",
            schema=SCHEMA,
            statement_seconds=REPORT_SECONDS,
        )
        opened.push_async_callback(reporting.dispose)
        to_registry = channel.connect(settings.registry_address, client="setpoint-monitoring")
        registry = RegistryClient(await opened.enter_async_context(to_registry))
        store, alerts = PredictionStore(quick, reporting), AlertStore(quick)
        codec = convert.RecordCodec()
        ingest = Ingest(store, registry, codec, clock)
        reports = Reports(store, registry, ingest)
        options = WatchOptions(
            window=settings.window_hours * HOUR,
            label_delay=settings.label_delay_hours * HOUR,
            tolerance=settings.loss_tolerance,
        )
        watch = Watch(store, alerts, registry, reports, options, clock)
        server.add(
            ingest_service_pb2_grpc.add_IngestServiceServicer_to_server,
            servicer.IngestServicer(ingest, clock),
            "setpoint.monitoring.v1.IngestService",
        )
        server.add(
            monitoring_service_pb2_grpc.add_MonitoringServiceServicer_to_server,
            servicer.MonitoringServicer(reports, watch, alerts),
            "setpoint.monitoring.v1.MonitoringService",
        )
        tasks = await opened.enter_async_context(TaskOwner(server.task_failed))
        ingest.arrived.set()
        _ = tasks.start("profiles", ingest.run(settings.count_seconds))
        if settings.evaluate_seconds:
            _ = tasks.start("alerts", watch.run(store.models, settings.evaluate_seconds))
        yield
