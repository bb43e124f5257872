"""Puts retraining together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from setpoint.retraining.v1 import retraining_service_pb2_grpc
from setpoint_db import engine, idempotency, migrate
from setpoint_retraining.adapters.features import FeaturesClient
from setpoint_retraining.adapters.peers import (
    InferenceClient,
    MonitoringClient,
    RoutesClient,
    ValidationClient,
)
from setpoint_retraining.adapters.registry import RegistryClient
from setpoint_retraining.adapters.training_process import TrainingProcess
from setpoint_retraining.config import RetrainingSettings
from setpoint_retraining.domain.policy import Policy
from setpoint_retraining.service.rollout import Rollout
from setpoint_retraining.service.runs import Runs
from setpoint_retraining.service.worker import Peers, Worker
from setpoint_retraining.servicer import RetrainingServicer
from setpoint_retraining.store import tables
from setpoint_retraining.store.sql_store import SQLStore
from setpoint_retraining.training import trainers
from setpoint_rpc import channel
from setpoint_rpc.server import Server
from setpoint_runtime import errors
from setpoint_runtime.clock import Clock
from setpoint_runtime.tasks import TaskOwner

SCHEMA = "retraining"
_LOGGER = logging.getLogger(__name__)


@asynccontextmanager
async def build(settings: RetrainingSettings, server: Server, clock: Clock) -> AsyncIterator[None]:
    """Wire the service for as long as the block lasts."""
    await migrate.upgrade(settings.database_url, schema=SCHEMA, package="setpoint_retraining")
    async with AsyncExitStack() as opened:
        database = engine.create_engine(
            settings.database_url, application_name="setpoint-retraining", schema=SCHEMA
        )
        opened.push_async_callback(database.dispose)

        async def to(address: str) -> grpc.aio.Channel:
            return await opened.enter_async_context(
                channel.connect(address, client="setpoint-retraining")
            )

        store = SQLStore(database)
        registry = RegistryClient(await to(settings.registry_address))
        peers = Peers(
            features=FeaturesClient(await to(settings.feature_address)),
            registry=registry,
            validation=ValidationClient(await to(settings.validation_address)),
            inference=InferenceClient(await to(settings.inference_address)),
            training=TrainingProcess(settings.work_directory, settings.training_threads),
        )
        rollout = Rollout(
            store,
            RoutesClient(await to(settings.router_address)),
            registry,
            MonitoringClient(await to(settings.monitoring_address)),
            clock,
        )
        worker = Worker(
            store,
            peers,
            settings.work_directory,
            settings.code_version,
            clock,
            settings.lease_seconds,
        )
        runs = Runs(store, registry, rollout, _check_trainer, worker.woken.set, clock)
        server.add(
            retraining_service_pb2_grpc.add_RetrainingServiceServicer_to_server,
            RetrainingServicer(runs, rollout, store, clock),
            "setpoint.retraining.v1.RetrainingService",
        )
        tasks = await opened.enter_async_context(TaskOwner(server.task_failed))
        _ = tasks.start("worker", worker.work(settings.poll_seconds))
        if settings.advance_seconds:
            _ = tasks.start("rollouts", _watch(rollout, settings.advance_seconds))
        forgetting = idempotency.forgetting(
            database, tables.REQUESTS, clock, settings.request_life_seconds
        )
        _ = tasks.start("forgetting", forgetting)
        yield


def _check_trainer(policy: Policy) -> None:
    trainers.read_parameters(trainers.find(policy.trainer), policy.trainer_parameters)


async def _watch(rollout: Rollout, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await rollout.watch()
        except errors.SetpointError as error:
            _LOGGER.warning("rollouts wait: %s", error)
