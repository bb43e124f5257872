"""Puts inference together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from setpoint.inference.v1 import inference_service_pb2_grpc
from setpoint_inference import config, oip_servicer, ports, servicer
from setpoint_inference.adapters import (
    artifact_cache,
    external_oip,
    inspection,
    memory,
    metrics,
    registry_versions,
    skops_backend,
    thread_pool,
)
from setpoint_inference.domain.version import Format, VersionKey
from setpoint_inference.service import models, predictions
from setpoint_oip import servicer as oip
from setpoint_rpc import channel, context
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import tasks
from setpoint_scoring import onnx_engine

SERVICE = "setpoint.inference.v1.InferenceService"
ROUTER = "router"
"""Its calls are batches already."""

_DIGITS = 20
"""More than any version has."""

RELEASE_SECONDS = 1.0
"""Between two looks for versions whose leases are over."""


@contextlib.asynccontextmanager
async def build(
    settings: config.InferenceSettings, server: servers.Server, clock: clocks.Clock
) -> AsyncIterator[None]:
    """Connect to the registry, make the threads, and register the servicer."""
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(
            channel.connect(settings.registry_address, client="inference")
        )
        onnx = settings.onnx()
        workers = thread_pool.ThreadPool(
            settings.threads,
            settings.max_queued,
            # Threads that onnxruntime starts inherit the niceness of the one that opens a model.
            is_loader_nice=onnx.is_single_threaded,
        )
        stack.callback(workers.close)
        owner = tasks.TaskOwner(server.task_failed)
        cache = artifact_cache.ArtifactCache(settings.cache_directory, settings.max_cache_bytes)
        limits = models.Limits(
            settings.max_artifact_bytes, settings.max_loaded_bytes, settings.load_seconds
        )
        table = models.Models(
            registry_versions.RegistryVersions(opened, cache),
            inspection.Inspector(),
            onnx_engine.OnnxEngine(onnx),
            workers,
            clock,
            owner,
            limits,
            memory.own,
            _backends(settings),
        )
        # Loads end first, so that none opens what nobody closes.
        stack.push_async_callback(table.close)
        await stack.enter_async_context(owner)
        _ = owner.start("leases", _release(table))
        placement = predictions.Placement(
            settings.inline_microseconds,
            settings.batching(),
            workers.threads,
            lambda: context.caller() == ROUTER,
        )
        inference = predictions.InferenceService(table, workers, clock, placement, owner.start)
        server.add(
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
            servicer.InferenceServicer(inference),
            SERVICE,
        )
        server.add(
            oip.add_to_server,
            oip_servicer.OipServicer(inference, lambda: server.health.is_ready),
            oip.SERVICE,
            descriptors=oip.DESCRIPTORS,
        )
        server.health.add_parts(lambda name: _health(table, name))
        server.metrics_registry.register(metrics.InferenceMetrics(table, workers.taken))
        yield


def _health(table: models.Models, name: str) -> bool | None:
    """Say whether "model/version" answers here, None for every other name."""
    model, slash, number = name.rpartition("/")
    # As it is written out, so that no version has two names.
    if not slash or not number.isascii() or not number.isdigit() or number.startswith("0"):
        return None
    return table.answers(VersionKey(model, int(number))) if len(number) < _DIGITS else None


async def _release(table: models.Models) -> None:
    """Let go of what nobody needs any more, for ever."""
    while True:
        await asyncio.sleep(RELEASE_SECONDS)
        table.release()


def _backends(settings: config.InferenceSettings) -> dict[Format, ports.Backend]:
    backends: dict[Format, ports.Backend] = {}
    if settings.external_addresses:
        backends[Format.EXTERNAL_OIP] = external_oip.ExternalOip(settings.external_addresses)
    if settings.skops_enabled:
        options = skops_backend.Options(
            settings.skops_trusted_types,
            settings.skops_memory_bytes,
            settings.skops_call_seconds,
            settings.skops_sandbox_required,
        )
        backends[Format.SKOPS] = skops_backend.SkopsBackend(options)
    return backends
