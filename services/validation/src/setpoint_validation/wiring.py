"""Puts validation together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from setpoint.validation.v1 import validation_service_pb2_grpc
from setpoint_db import engine as engines
from setpoint_db import idempotency, migrate
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import tasks
from setpoint_validation import config, servicer
from setpoint_validation.domain.table import Limits
from setpoint_validation.service.batches import Batches, Options
from setpoint_validation.service.feed import RuleFeed
from setpoint_validation.service.suites import Suites
from setpoint_validation.store import run_store, suite_store, tables

SERVICE = "setpoint.validation.v1.ValidationService"


@asynccontextmanager
async def build(
    settings: config.ValidationSettings, server: servers.Server, clock: clocks.Clock
) -> AsyncIterator[None]:
    """Migrate the schema, read the rules, and register the servicer."""
    await migrate.upgrade(
        settings.database_url, schema=tables.SCHEMA, package="setpoint_validation"
    )
    async with AsyncExitStack() as opened:
        engine = engines.create_engine(
            settings.database_url, application_name="setpoint-validation", schema=tables.SCHEMA
        )
        opened.push_async_callback(engine.dispose)
        suites = suite_store.SuiteStore(engine)
        limits = Limits(settings.max_rows, settings.max_table_bytes)
        options = Options(limits, settings.max_batches, settings.piece_seconds)
        batches = Batches(suites, run_store.RunStore(engine), clock, options)
        opened.callback(batches.close)
        feed = RuleFeed(suites, settings.poll_seconds)
        owner = await opened.enter_async_context(tasks.TaskOwner(server.task_failed))
        _ = owner.start("rules", feed.run())
        forgetting = idempotency.forgetting(
            engine, tables.requests, clock, settings.request_life_seconds
        )
        _ = owner.start("forgetting", forgetting)
        server.add(
            validation_service_pb2_grpc.add_ValidationServiceServicer_to_server,
            servicer.ValidationServicer(Suites(suites, feed, clock), batches, feed),
            SERVICE,
            watch_methods=frozenset({"WatchRules"}),
        )
        yield
