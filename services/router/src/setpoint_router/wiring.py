"""Puts the router together."""

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import tenacity
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from setpoint.router.v1 import router_service_pb2_grpc
from setpoint_db import engine as engines
from setpoint_db import idempotency, migrate
from setpoint_oip import servicer as oip
from setpoint_router import config, oip_servicer, ports, servicer
from setpoint_router.adapters import metrics, peers, replicas, rules, traces
from setpoint_router.adapters.spool import folder, shipper, writer
from setpoint_router.convert import records, requests
from setpoint_router.domain import limit, outliers
from setpoint_router.domain.route import SpoolFullPolicy
from setpoint_router.service import (
    batch_predictor,
    predictor,
    replays,
    route_service,
    shadows,
    stages,
)
from setpoint_router.service.book import RouteBook
from setpoint_router.service.coalescer import Bounds
from setpoint_router.store import route_file, sql_store, tables
from setpoint_rpc import channel
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import errors, ids, tasks

SERVICE = "setpoint.router.v1.RouterService"
READINESS_SECONDS = 0.5
_ROOM = {True: "has room again", False: "is full"}
_LOGGER = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def build(
    settings: config.RouterSettings, server: servers.Server, clock: clocks.Clock
) -> AsyncIterator[None]:
    """Open spool, channels and store, bring the routes into force, and register the servicer."""
    async with contextlib.AsyncExitStack() as stack:
        # What is opened first is closed last: calls in flight end, background tasks end, what they
        # left is shipped, and only then do channels and spool go.
        counted = metrics.Metrics(server.metrics_registry)
        spool_folder = folder.Folder(Path(settings.spool_directory))
        spool = await _open_spool(settings, spool_folder, counted, stack)
        to = _Channels(settings, stack)
        ships = _shipper(settings, spool_folder, spool, counted, to, stack)
        engine = engines.create_engine(
            settings.database_url, application_name="setpoint-router", schema=tables.SCHEMA
        )
        stack.push_async_callback(engine.dispose)
        owner = await stack.enter_async_context(tasks.TaskOwner(server.task_failed))
        _ = owner.start("shipper", ships.run())
        spans = traces.SpanBuilder(with_values=settings.spans_with_values)
        _ = owner.start("spans", spans.run())
        rule_book = _watch_rules(settings, spool_folder, owner, to)
        book = RouteBook()
        inference, for_shadows = await _open_inference(settings, book, server, clock, stack)
        store = sql_store.SqlStore(engine)
        handlers, oip_handlers = _servicers(
            settings,
            server,
            book,
            store,
            to,
            inference,
            for_shadows,
            rule_book,
            spool,
            counted,
            spans,
            clock,
            stack,
        )
        follower = await _load_routes(settings, spool_folder, book, store, owner)
        _ = owner.start("forgetting", _forget_requests(settings, follower, engine, clock))
        server.add(
            router_service_pb2_grpc.add_RouterServiceServicer_to_server,
            handlers,
            SERVICE,
            untraced_methods=frozenset({"Predict"}),
            doors={"Predict": handlers.turned_away},
        )
        server.add(
            oip.add_to_server,
            oip_handlers,
            oip.SERVICE,
            doors={"ModelInfer": oip_handlers.turned_away},
            descriptors=oip.DESCRIPTORS,
        )
        _ = owner.start("readiness", _follow_spool(server, spool, book))
        yield


def _servicers(
    settings: config.RouterSettings,
    server: servers.Server,
    book: RouteBook,
    store: ports.RouteStore,
    to: "_Channels",
    inference: replicas.ReplicatedInference,
    for_shadows: ports.Inference,
    rule_book: rules.RuleBook,
    spool: writer.Writer,
    counted: metrics.Metrics,
    spans: traces.SpanBuilder,
    clock: clocks.Clock,
    stack: contextlib.AsyncExitStack,
) -> tuple[servicer.RouterServicer, oip_servicer.OipServicer]:
    """Put the core together."""
    features = peers.FeatureClient(to.feature)
    recorder, codec = records.WorkRecorder(_producer()), requests.RequestCodec()
    make = functools.partial(
        stages.Stages,
        features=features,
        checks=rule_book,
        codec=codec,
        recorder=recorder,
        spool=spool,
        clock=clock,
        limits=stages.Limits(settings.features_seconds, settings.inference_seconds),
    )
    way = make(inference=inference, observer=metrics.Both(counted, spans))
    aside = metrics.ShadowMetrics(server.metrics_registry)
    copies = shadows.Shadows(
        stages=make(inference=for_shadows, observer=aside),
        codec=codec,
        observer=aside,
        clock=clock,
        bounds=Bounds(1, settings.batch_rows, settings.shadow_queued_rows),
        is_loaded=lambda: (
            predictions.waiting > min(settings.shadow_yields_to_predictions, bound.current // 2)
            or batches.is_full
            # The other half is for those whom callers wait for.
            or spool.bytes_used > settings.spool_cap_bytes // 2
        ),
    )
    bound = limit.AdaptiveLimit(
        clock,
        least=settings.waiting_predictions_least,
        most=settings.waiting_predictions,
        tolerance=settings.latency_tolerance_seconds,
    )
    predictions = predictor.Predictor(
        routes=book.serving,
        stages=way,
        shadows=copies,
        codec=codec,
        observer=counted,
        clock=clock,
        bounds=Bounds(settings.calls_at_once, settings.batch_rows, settings.queued_rows),
        limit=bound,
    )
    stack.push_async_callback(predictions.drain)
    stack.push_async_callback(copies.close)
    book.on_change(lambda: predictions.purge(book.serving_routes()))
    book.on_change(lambda: copies.purge(book.serving_routes()))
    batches = batch_predictor.BatchPredictor(
        routes=book.serving,
        stages=way,
        shadows=copies,
        recorder=recorder,
        clock=clock,
        calls_at_once=settings.calls_at_once,
        batches_at_once=settings.batches_at_once,
        observer=counted,
    )
    stack.push_async_callback(batches.drain)
    kept_routes = route_service.RouteService(
        store=store,
        registry=peers.RegistryClient(to.registry),
        definitions=features,
        inference=inference,
        book=book,
        clock=clock,
    )
    remembered = replays.Replays(
        clock,
        replays.Bounds(settings.replay_seconds, settings.replay_entries, settings.replay_bytes),
        on_replay=counted.replayed,
        on_forgotten=counted.forgotten,
    )
    recorded = frozenset(settings.recorded_headers)
    handlers = servicer.RouterServicer(
        predictions,
        batches,
        kept_routes,
        remembered,
        questions_at_once=settings.stream_questions,
        stopping=server.draining,
        recorded_headers=recorded,
    )
    ready = oip_servicer.Readiness(lambda: server.health.is_ready, inference.is_ready)
    return handlers, oip_servicer.OipServicer(
        book.serving, predictions, batches, remembered, ready, recorded
    )


def _producer() -> str:
    """Returns a name for this process that no other one ever has."""
    return f"{socket.gethostname()}/{os.getpid()}/{ids.uuid7()}"


class _Channels:
    """The channels to the other services, closed at the end."""

    def __init__(self, settings: config.RouterSettings, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.feature = self._open(settings.feature_address)
        self.monitoring = self._open(settings.monitoring_address)
        self.registry = self._open(settings.registry_address)
        self.validation = None
        if settings.validation_address:
            self.validation = self._open(settings.validation_address)

    def _open(self, address: str) -> grpc.aio.Channel:
        made = channel.connect(address, client="router")
        self._stack.push_async_callback(made.close)
        return made


async def _open_inference(
    settings: config.RouterSettings,
    book: RouteBook,
    server: servers.Server,
    clock: clocks.Clock,
    stack: contextlib.AsyncExitStack,
) -> tuple[replicas.ReplicatedInference, ports.Inference]:
    """Find the replicas of inference, and keep them loaded with what the routes serve.

    Returns what callers' predictions use, and what shadows use.
    """
    options = replicas.FleetOptions(
        copies=settings.inference_copies,
        load_factor=settings.inference_load_factor,
        stall_seconds=settings.inference_stall_seconds,
        resolve_seconds=settings.inference_resolve_seconds,
        lease_seconds=settings.inference_lease_seconds,
        ejection=outliers.Policy(
            failures=settings.inference_failures,
            base_seconds=settings.inference_ejection_seconds,
            share=settings.inference_ejected_share,
        ),
    )
    addresses = replicas.parse(settings.inference_address)
    fleet = replicas.Fleet(
        addresses, options, clock, in_force=book.versions, on_failure=server.task_failed
    )
    await stack.enter_async_context(fleet)
    book.on_change(fleet.follow_routes)
    calls = replicas.ReplicatedInference(
        fleet,
        replicas.CallOptions(
            retry_share=settings.inference_retry_share,
            retry_minimum=settings.inference_retry_minimum,
            hedge_seconds=settings.inference_hedge_seconds,
            hedge_quantile=settings.inference_hedge_quantile,
        ),
    )
    server.metrics_registry.register(replicas.ReplicaMetrics(fleet, calls))
    return calls, replicas.InferenceAside(fleet)


async def _open_spool(
    settings: config.RouterSettings,
    spool_folder: folder.Folder,
    counted: metrics.Metrics,
    stack: contextlib.AsyncExitStack,
) -> writer.Writer:
    spool = writer.Writer(
        spool_folder,
        cap_bytes=settings.spool_cap_bytes,
        commit_seconds=settings.commit_interval_seconds,
        on_failure=counted.write_failed,
    )
    await asyncio.to_thread(spool.open)
    stack.push_async_callback(spool.close)
    counted.watch_spool(lambda: spool.bytes_used, lambda: len(spool_folder.letters()))
    return spool


def _shipper(
    settings: config.RouterSettings,
    spool_folder: folder.Folder,
    spool: writer.Writer,
    counted: metrics.Metrics,
    to: _Channels,
    stack: contextlib.AsyncExitStack,
) -> shipper.Shipper:
    ships = shipper.Shipper(
        spool_folder,
        spool,
        peers.MonitoringClient(to.monitoring).send,
        counted,
        interval_seconds=settings.ship_interval_seconds,
    )
    # What the last calls left; what monitoring does not take in time stays on disk.
    stack.push_async_callback(ships.flush, settings.flush_seconds)
    return ships


def _watch_rules(
    settings: config.RouterSettings,
    spool_folder: folder.Folder,
    owner: tasks.TaskOwner,
    to: _Channels,
) -> rules.RuleBook:
    if to.validation is None:
        return rules.RuleBook(is_wanted=False)
    book = rules.RuleBook(is_wanted=True, path=spool_folder.path / "rules.snapshot")
    _ = owner.start("rules", rules.RuleWatch(to.validation, book).run())
    return book


async def _follow_spool(server: servers.Server, spool: writer.Writer, book: RouteBook) -> None:
    """Give work away while no record can be kept and every route wants one."""
    was_ready = True
    while True:
        await asyncio.sleep(READINESS_SECONDS)
        is_ready = not spool.is_full or any(
            each.content.spool_full_policy is SpoolFullPolicy.ANSWER_UNRECORDED
            for each in book.all()
        )
        if is_ready != was_ready and not server.draining.is_set():
            _LOGGER.warning("ready: %s, since the spool %s", is_ready, _ROOM[is_ready])
            await server.set_ready(is_ready)
            was_ready = is_ready


async def _load_routes(
    settings: config.RouterSettings,
    spool_folder: folder.Folder,
    book: RouteBook,
    store: sql_store.SqlStore,
    owner: tasks.TaskOwner,
) -> "_Follower":
    """Bring routes into force, the last good ones at once, and keep them up to date."""
    copy = route_file.RouteFile(spool_folder.path / "routes.snapshot")
    last_good = await asyncio.to_thread(copy.read)
    if last_good is not None:
        book.put(last_good)
        _LOGGER.info("%d routes in force as last known", len(last_good))
    follower = _Follower(settings, book, store, copy)
    _ = owner.start("routes", follower.run())
    await book.loaded.wait()
    return follower


async def _forget_requests(
    settings: config.RouterSettings,
    follower: "_Follower",
    engine: sqlalchemy_asyncio.AsyncEngine,
    clock: clocks.Clock,
) -> None:
    """Forget old requests, once there is a table: the router also starts without its database."""
    await follower.migrated.wait()
    await idempotency.forgetting(engine, tables.requests, clock, settings.request_life_seconds)


class _Follower:
    """Keeps the book equal to the database, and the file equal to the book."""

    def __init__(
        self,
        settings: config.RouterSettings,
        book: RouteBook,
        store: ports.RouteStore,
        copy: route_file.RouteFile,
    ) -> None:
        self._settings = settings
        self._book = book
        self._store = store
        self._copy = copy
        self.migrated = asyncio.Event()
        self._changed = asyncio.Event()
        # The file is written once at the start, also when nothing has changed.
        self._changed.set()
        book.on_change(self._changed.set)

    async def run(self) -> None:
        """Migrate the schema, then follow it until cancelled."""
        await self._migrate()
        self.migrated.set()
        is_away = False
        while True:
            try:
                await self._catch_up()
                is_away = False
            except errors.UnavailableError as error:
                if not is_away:
                    _LOGGER.warning("routes cannot be read, going on with the last ones: %s", error)
                is_away = True
            if self._changed.is_set():
                self._changed.clear()
                await self._keep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self._changed.wait()

    async def _migrate(self) -> None:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(errors.UnavailableError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
            stop=tenacity.stop_never,
            reraise=True,
        ):
            with attempt:
                await migrate.upgrade(
                    self._settings.database_url, schema=tables.SCHEMA, package="setpoint_router"
                )

    async def _catch_up(self) -> None:
        known = self._book.revisions()
        current = await self._store.current_revisions()
        newer = [name for name, revision in current.items() if known.get(name, 0) < revision]
        self._book.put([await self._store.get(name) for name in newer])

    async def _keep(self) -> None:
        try:
            await asyncio.to_thread(self._copy.write, self._book.all())
        except OSError:
            _LOGGER.warning("the routes could not be kept in a file", exc_info=True)
