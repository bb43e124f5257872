"""Puts the batch service together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from setpoint.batch.v1 import batch_service_pb2_grpc
from setpoint_batch.adapters.peers import FeaturesClient, RegistryClient, RulesClient
from setpoint_batch.adapters.process_pool import ProcessPool
from setpoint_batch.adapters.ray_executor import RayExecutor
from setpoint_batch.adapters.work_folder import WorkFolder
from setpoint_batch.config import BatchSettings
from setpoint_batch.domain import urls
from setpoint_batch.service import housekeeping
from setpoint_batch.service.attempt import Needs, Sizes
from setpoint_batch.service.jobs import Jobs
from setpoint_batch.service.worker import Worker
from setpoint_batch.servicer import BatchServicer
from setpoint_batch.store import tables
from setpoint_batch.store.sql_store import SQLStore
from setpoint_db import engine, idempotency, migrate
from setpoint_rpc import channel, tls
from setpoint_rpc.server import Server
from setpoint_runtime.clock import Clock
from setpoint_runtime.tasks import TaskOwner

SCHEMA = "batch"

CLEAN_SECONDS = 3600.0
"""Between two looks at what is old."""


@asynccontextmanager
async def build(settings: BatchSettings, server: Server, clock: Clock) -> AsyncIterator[None]:
    """Wire the service for as long as the block lasts."""
    await migrate.upgrade(settings.database_url, schema=SCHEMA, package="setpoint_batch")
    async with AsyncExitStack() as opened:
        database = engine.create_engine(
            settings.database_url, application_name="setpoint-batch", schema=SCHEMA
        )
        opened.push_async_callback(database.dispose)

        async def to(address: str) -> grpc.aio.Channel:
            return await opened.enter_async_context(
                channel.connect(address, client="setpoint-batch")
            )

        store = SQLStore(database)
        registry = RegistryClient(await to(settings.registry_address))
        needs = Needs(
            store,
            registry,
            FeaturesClient(await to(settings.feature_address)),
            RulesClient(await to(settings.validation_address)),
            await opened.enter_async_context(_executor(settings)),
            Sizes(settings.partition_rows, settings.chunk_rows),
            clock,
        )
        worker = Worker(needs, settings.lease_seconds)
        jobs = Jobs(store, registry, settings.url_prefixes, worker.wake, clock)
        server.add(
            batch_service_pb2_grpc.add_BatchServiceServicer_to_server,
            BatchServicer(jobs, store),
            "setpoint.batch.v1.BatchService",
        )
        tasks = await opened.enter_async_context(TaskOwner(server.task_failed))
        _ = tasks.start("worker", worker.work(settings.poll_seconds))
        folder = WorkFolder(settings.work_directory)
        keeping = housekeeping.keep_clean(
            store, folder, clock, settings.retention_seconds, CLEAN_SECONDS
        )
        _ = tasks.start("housekeeping", keeping)
        forgetting = idempotency.forgetting(
            database, tables.REQUESTS, clock, settings.request_life_seconds
        )
        _ = tasks.start("forgetting", forgetting)
        yield


def _executor(settings: BatchSettings) -> ProcessPool | RayExecutor:
    around = _around(settings)
    if settings.ray_cluster:
        return RayExecutor(settings.ray_cluster, settings.ray_tasks, around)
    return ProcessPool(settings.processes, settings.niceness, settings.idle_seconds, around)


def _around(settings: BatchSettings) -> dict[str, Any]:
    """Returns what tasks are told of their surroundings."""
    files = tls.TLSFiles.from_settings(settings)
    return {
        "feature_address": settings.feature_address,
        "registry_address": settings.registry_address,
        "url_prefixes": [urls.normal("url_prefixes", each) for each in settings.url_prefixes],
        "work_directory": str(settings.work_directory.absolute()),
        "tls": files and [str(each) for each in (files.certificate, files.key, files.authority)],
    }
