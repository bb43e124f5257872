"""Builds the service from its settings; the end takes it apart in the opposite order."""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from setpoint.feature.v1 import (
    audit_service_pb2_grpc,
    definition_service_pb2_grpc,
    feature_service_pb2_grpc,
    snapshot_service_pb2_grpc,
)
from setpoint_db import engine as engines
from setpoint_db import migrate
from setpoint_feature import (
    audit_servicer,
    config,
    definition_servicer,
    ports,
    servicer,
    snapshot_servicer,
)
from setpoint_feature.adapters import (
    live_models,
    metrics,
    monitoring_records,
    valkey_client,
    valkey_store,
)
from setpoint_feature.domain import segments
from setpoint_feature.service import (
    apart,
    catch_up,
    compaction,
    definitions,
    explaining,
    joining,
    leakage,
    leaks,
    planning,
    serving,
    skew,
    snapshot,
    standby,
    training_sets,
    writing,
)
from setpoint_feature.store import (
    definition_store,
    history_store,
    result_store,
    segment_cache,
    segment_folder,
    segment_store,
    skew_store,
    tables,
    training_set_files,
    training_set_store,
)
from setpoint_features import library
from setpoint_rpc import channel as channels
from setpoint_rpc import server as servers
from setpoint_runtime import clock as clocks
from setpoint_runtime import forgetting, tasks

_LOGGER = logging.getLogger(__name__)
APPLICATION_NAME = "setpoint-feature"
PACKAGE = "setpoint_feature"
_MICROSECONDS = 1_000_000


@contextlib.asynccontextmanager
async def build(
    settings: config.FeatureSettings, server: servers.Server, clock: clocks.Clock
) -> AsyncIterator[None]:
    """Builds everything, registers the servicer, and keeps the background work going."""
    await migrate.upgrade(settings.database_url, schema=tables.SCHEMA, package=PACKAGE)
    async with contextlib.AsyncExitStack() as stack:
        stores = await _stores(settings, stack)
        functions = library.load(filter(None, map(str.strip, settings.modules.split(","))))
        known = snapshot.Snapshot(stores.definitions, stores.history, functions)
        await known.refresh()
        for told in known.catalog.unservable():
            _LOGGER.warning("%s", told)
        tolerance = int(settings.future_tolerance_seconds * _MICROSECONDS)
        writer = writing.Writer(stores.history, stores.online_writes, known, clock, tolerance)
        follower = catch_up.CatchUp(
            stores.history, stores.online_writes, known, writer, settings.poll_seconds
        )
        threads = apart.Threads()
        reader = serving.OnlineReader(
            stores.online_reads,
            standby.Standby(
                stores.history, max_keys=settings.standby_keys, at_once=settings.standby_reads
            ),
            known,
            clock,
            settings.answer_bytes,
            threads,
        )
        server.metrics_registry.register(
            metrics.FeatureMetrics(writer.counts, reader.counts, follower.lag)
        )
        server.metrics_registry.register(metrics.ThreadMetrics(threads))
        live = await _live(settings, stack)
        planner = planning.Planner(stores.definitions, known, clock, live)
        server.add(
            definition_service_pb2_grpc.add_DefinitionServiceServicer_to_server,
            definition_servicer.DefinitionServicer(planner, settings.answer_bytes),
            definition_servicer.SERVICE_NAME,
        )
        compactor = _compactor(settings, stores, known, clock)
        historical = joining.HistoricalReader(
            stores.history, known, settings.whole_view_rows, threads
        )
        handler = servicer.FeatureServicer(
            definitions.DefinitionService(stores.definitions, known, clock, planner),
            writer,
            reader,
            historical,
            leakage.LeakageChecker(stores.history, known),
            settings.answer_bytes,
        )
        server.add(
            feature_service_pb2_grpc.add_FeatureServiceServicer_to_server,
            handler,
            servicer.SERVICE_NAME,
        )
        explainer = explaining.Explainer(stores.history, stores.online_reads, known, clock)
        replay = await _replay(settings, stores, historical, known, clock, stack)
        is_replaying = replay is not None and settings.skew_share > 0
        server.add(
            audit_service_pb2_grpc.add_AuditServiceServicer_to_server,
            audit_servicer.AuditServicer(
                explainer,
                leaks.LeakMeter(stores.history, known),
                replay,
                is_replaying=is_replaying,
            ),
            audit_servicer.SERVICE_NAME,
        )
        sets = _training_sets(settings, stores, historical, clock)
        server.add(
            snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server,
            snapshot_servicer.SnapshotServicer(sets),
            snapshot_servicer.SERVICE_NAME,
        )
        owner = await stack.enter_async_context(tasks.TaskOwner(server.task_failed))
        if sets is not None:
            _ = owner.start("snapshot-cleaning", sets.clean())
        if replay is not None and is_replaying:
            server.metrics_registry.register(metrics.SkewMetrics(replay.counts))
            share = max(1, round(settings.skew_share * audit_servicer.WHOLE))
            _ = owner.start(
                "skew-replay",
                replay.run(share, settings.skew_seconds, settings.skew_settle_seconds),
            )
        _ = owner.start("online-catch-up", follower.run())
        forgetter = _forgetter(settings, stores, clock)
        server.metrics_registry.register(metrics.ForgettingMetrics(forgetter.counts))
        _ = owner.start("forgetting", forgetter.run())
        if compactor is not None:
            server.metrics_registry.register(metrics.CompactionMetrics(compactor.counts))
            _ = owner.start("compaction", compactor.run())
        yield


async def _live(
    settings: config.FeatureSettings, stack: contextlib.AsyncExitStack
) -> live_models.RegistryModels | None:
    """Returns who knows the live models, where there is an address to ask."""
    if not settings.registry_address:
        return None
    to_registry = channels.connect(settings.registry_address, client=APPLICATION_NAME)
    return live_models.RegistryModels(await stack.enter_async_context(to_registry))


def _training_sets(
    settings: config.FeatureSettings,
    stores: "_Stores",
    historical: joining.HistoricalReader,
    clock: clocks.Clock,
) -> training_sets.TrainingSets | None:
    """Returns what keeps training sets, where there is a folder for them."""
    if stores.training_sets is None:
        return None
    # Statuses and event times, and the frame of the message, come on top.
    part_bytes = settings.answer_bytes * 3 // 4
    return training_sets.TrainingSets(*stores.training_sets, historical, clock, part_bytes)


async def _replay(
    settings: config.FeatureSettings,
    stores: "_Stores",
    historical: joining.HistoricalReader,
    known: snapshot.Snapshot,
    clock: clocks.Clock,
    stack: contextlib.AsyncExitStack,
) -> skew.SkewReplay | None:
    """Returns what replays served features, where there is an address to ask for them."""
    if not settings.monitoring_address:
        return None
    to_monitoring = channels.connect(settings.monitoring_address, client=APPLICATION_NAME)
    opened = await stack.enter_async_context(to_monitoring)
    return skew.SkewReplay(
        monitoring_records.MonitoringRecords(opened),
        stores.skew,
        stores.history,
        historical,
        known,
        clock,
    )


@dataclass(frozen=True, slots=True)
class _Stores:
    """The ports' implementations."""

    definitions: definition_store.SQLDefinitionStore
    history: history_store.SQLHistoryStore
    skew: skew_store.SQLSkewStore
    results: result_store.SQLResultStore
    online_reads: valkey_store.ValkeyStore
    online_writes: valkey_store.ValkeyStore
    segments: segment_store.SegmentStore | None
    """None where no folder for them is set."""
    training_sets: (
        tuple[training_set_files.TrainingSetFiles, training_set_store.SQLTrainingSetStore] | None
    )
    """None where no folder for them is set."""


async def _stores(settings: config.FeatureSettings, stack: contextlib.AsyncExitStack) -> _Stores:
    short = engines.create_engine(
        settings.database_url, application_name=APPLICATION_NAME, schema=tables.SCHEMA
    )
    stack.push_async_callback(short.dispose)
    long = engines.create_engine(
        settings.database_url,
        application_name=f"{APPLICATION_NAME}-bulk",
        schema=tables.SCHEMA,
        statement_seconds=settings.statement_seconds,
    )
    stack.push_async_callback(long.dispose)
    definition = definition_store.SQLDefinitionStore(short)
    store_id = await definition.store_id()
    # Two connections, so that reads never wait behind a large update.
    online = []
    for timeout in (settings.online_read_timeout_seconds, settings.online_write_timeout_seconds):
        client = valkey_client.connect(settings.valkey_url, timeout_seconds=timeout)
        online.append(valkey_store.ValkeyStore(client, store_id, settings.online_parts))
        stack.push_async_callback(online[-1].close)
    cache, made, kept = None, None, None
    if settings.segment_url:
        folder = segment_folder.SegmentFolder(settings.segment_url, store_id)
        cache = segment_cache.SegmentCache(folder, settings.scratch_bytes)
        made = segment_store.SegmentStore(long, folder, cache)
        files = training_set_files.TrainingSetFiles(settings.segment_url, store_id)
        kept = files, training_set_store.SQLTrainingSetStore(short)
    history = history_store.SQLHistoryStore(short, long, cache)
    skews = skew_store.SQLSkewStore(long)
    results = result_store.SQLResultStore(long)
    return _Stores(definition, history, skews, results, online[0], online[1], made, kept)


def _forgetter(
    settings: config.FeatureSettings, stores: _Stores, clock: clocks.Clock
) -> forgetting.Forgetting[ports.Results]:
    lives = {
        ports.Results.REQUESTS: settings.request_life_seconds,
        ports.Results.BATCHES: settings.batch_life_seconds,
        ports.Results.SKEW: settings.skew_life_seconds,
    }
    return forgetting.Forgetting(stores.results.forget, clock, lives)


def _compactor(
    settings: config.FeatureSettings,
    stores: _Stores,
    known: snapshot.Snapshot,
    clock: clocks.Clock,
) -> compaction.Compactor | None:
    if stores.segments is None:
        return None
    limits = segments.Limits(
        settings.recent_rows, settings.move_rows, settings.segment_rows, settings.segment_bytes
    )
    times = settings.compact_seconds, settings.segment_grace_seconds
    return compaction.Compactor(stores.segments, known, clock, limits, times)
