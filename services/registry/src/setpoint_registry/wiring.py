"""Puts the registry together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from setpoint.registry.v1 import registry_service_pb2_grpc
from setpoint_db import engine as engines
from setpoint_db import idempotency, migrate
from setpoint_registry import config, domain, service, servicer
from setpoint_registry.adapters import artifact_folder
from setpoint_registry.store import sql_store, tables
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import tasks

SERVICE = "setpoint.registry.v1.RegistryService"


@contextlib.asynccontextmanager
async def build(
    settings: config.RegistrySettings, server: servers.Server, clock: clocks.Clock
) -> AsyncIterator[None]:
    """Migrate the schema, open the folder, and register the servicer."""
    await migrate.upgrade(settings.database_url, schema=tables.SCHEMA, package="setpoint_registry")
    folder = artifact_folder.ArtifactFolder(settings.artifact_url)
    await asyncio.to_thread(folder.prepare)
    async with contextlib.AsyncExitStack() as opened:
        engine = engines.create_engine(
            settings.database_url, application_name="setpoint-registry", schema=tables.SCHEMA
        )
        opened.push_async_callback(engine.dispose)
        registry = service.RegistryService(
            sql_store.SqlStore(engine),
            folder,
            clock,
            max_artifact_bytes=settings.max_artifact_bytes,
            max_uploads=settings.max_uploads,
            taken_formats=[domain.ArtifactFormat[name] for name in settings.formats],
        )
        server.add(
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server,
            servicer.RegistryServicer(registry),
            SERVICE,
        )
        owner = await opened.enter_async_context(tasks.TaskOwner(server.task_failed))
        forgetting = idempotency.forgetting(
            engine, tables.requests, clock, settings.request_life_seconds
        )
        _ = owner.start("forgetting", forgetting)
        yield
