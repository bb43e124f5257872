"""What the router counts; implements `Observer` and the shipper's observer."""

from collections import Counter as Tally
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from setpoint_router import ports
from setpoint_router.convert import records
from setpoint_router.domain.plan import Plan
from setpoint_router.domain.work import Work
from setpoint_runtime import errors

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 10_000)
_SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counts once a batch, not once a prediction."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register all metrics of the router."""
        self._predictions = Counter(
            "setpoint_router_predictions",
            "Predictions that ended, by version and google.rpc.Code.",
            ("route", "version", "code"),
            registry=registry,
        )
        self._refused = Counter(
            "setpoint_router_refused",
            "Requests turned away before they became predictions.",
            ("reason",),
            registry=registry,
        )
        self._degraded = Counter(
            "setpoint_router_degraded",
            "Degradations of answered predictions.",
            ("route", "kind"),
            registry=registry,
        )
        self._unrecorded = Counter(
            "setpoint_router_unrecorded",
            "Predictions whose record could not be kept.",
            registry=registry,
        )
        self._batch_rows = Histogram(
            "setpoint_router_batch_rows",
            "Predictions that shared a call.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "setpoint_router_stage_seconds",
            "Time of a stage of a batch.",
            ("stage",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._stages = [
            stage_seconds.labels(stage) for stage in ("features", "checks", "inference")
        ]
        self._shipped = Counter(
            "setpoint_router_shipped_records",
            "Record messages confirmed by monitoring.",
            registry=registry,
        )
        self._shipped_bytes = Counter(
            "setpoint_router_shipped_bytes", "Bytes confirmed by monitoring.", registry=registry
        )
        self._delayed = Counter(
            "setpoint_router_ship_failures",
            "Attempts to ship that failed and are repeated.",
            registry=registry,
        )
        self._buried = Counter(
            "setpoint_router_dead_letters",
            "Record messages that monitoring refused.",
            registry=registry,
        )
        self._damaged = Counter(
            "setpoint_router_spool_damaged_bytes",
            "Bytes of the spool that held no readable record.",
            registry=registry,
        )
        self._missing = Counter(
            "setpoint_router_spool_missing_records",
            "Record messages that have been in the spool and were not found in it any more.",
            registry=registry,
        )
        self._write_failures = Counter(
            "setpoint_router_spool_write_failures",
            "Writes to the spool that failed.",
            ("kind",),
            registry=registry,
        )
        self._replayed = Counter(
            "setpoint_router_replayed",
            "Requests answered with the outcome of an earlier one of the same id.",
            registry=registry,
        )
        self._forgotten = Counter(
            "setpoint_router_replays_forgotten",
            "Answers forgotten before their time, for lack of room.",
            registry=registry,
        )
        self._letters = Gauge(
            "setpoint_router_dead_letters_kept",
            "Dead letters in the spool's folder, of whatever process.",
            registry=registry,
        )
        self._spool_bytes = Gauge(
            "setpoint_router_spool_bytes", "Bytes of the spool.", registry=registry
        )

    def replayed(self) -> None:
        """Note a request that got the answer of an earlier one."""
        self._replayed.inc()

    def forgotten(self) -> None:
        """Note an answer that had to be forgotten before its time."""
        self._forgotten.inc()

    def watch_spool(self, size: Callable[[], float], letters: Callable[[], float]) -> None:
        """Show the size of the spool and its dead letters whenever metrics are asked for."""
        self._spool_bytes.set_function(size)
        self._letters.set_function(letters)

    def answered(self, work: Work) -> None:
        """Note a work whose rows have all been answered."""
        plan, failed = work.plan, work.errors
        if good := work.rows - len(failed):
            # To look a metric up by its labels costs more than to count.
            answered: Counter | None = plan.cache.get("answered")
            if answered is None:
                answered = self._count_of(plan, 0)
                plan.cache["answered"] = answered
            answered.inc(good)
        if failed:
            codes = Tally(records.code_of(each) for each in failed.values())
            for code, count in codes.items():
                self._count_of(plan, code).inc(count)
        for each in work.common:
            self._degraded.labels(plan.route.name, each.kind.name).inc(good)
        for flags in work.degradations.values():
            for each in flags:
                self._degraded.labels(plan.route.name, each.kind.name).inc()
        self._batch_rows.observe(work.rows)
        features, checks, inference = self._stages
        if work.features_us is not None:
            features.observe(work.features_us / 1e6)
        if work.checks_us is not None:
            checks.observe(work.checks_us / 1e6)
        if work.inference_us is not None:
            inference.observe(work.inference_us / 1e6)

    def _count_of(self, plan: Plan, code: int) -> Counter:
        return self._predictions.labels(plan.route.name, str(plan.version.version), str(code))

    def unrecorded(self, rows: int) -> None:
        """Note predictions whose record could not be kept."""
        self._unrecorded.inc(rows)

    def refused(self, reason: errors.Reason) -> None:
        """Note a request that was turned away before it became a prediction."""
        self._refused.labels(reason.value).inc()

    def shipped(self, records: int, size: int) -> None:
        """Note confirmed records."""
        self._shipped.inc(records)
        self._shipped_bytes.inc(size)

    def buried(self) -> None:
        """Note a record that monitoring refuses."""
        self._buried.inc()

    def damaged(self, size: int) -> None:
        """Note bytes that hold no readable record."""
        self._damaged.inc(size)

    def missing(self, records: int) -> None:
        """Note records that have been in the spool and are there no more."""
        self._missing.inc(records)

    def delayed(self) -> None:
        """Note an attempt that failed."""
        self._delayed.inc()

    def write_failed(self, kind: str) -> None:
        """Note a write to the spool that failed."""
        self._write_failures.labels(kind).inc()


class Both:
    """Tells two observers of answered works; only the first one counts the rest."""

    def __init__(self, first: ports.Observer, second: "WorkObserver") -> None:
        self._first = first
        self._second = second
        self.unrecorded = first.unrecorded
        self.refused = first.refused

    def answered(self, work: Work) -> None:
        """Note a work whose rows have all been answered."""
        self._first.answered(work)
        self._second.answered(work)


class WorkObserver(Protocol):
    """Who wants to know of answered works."""

    def answered(self, work: Work) -> None:
        """Note a work whose rows have all been answered."""
        ...


class ShadowMetrics:
    """Counts what shadows answer, apart from what callers are answered; implements `ShadowObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics of shadows."""
        self._answered = Counter(
            "setpoint_router_shadow_answers",
            "Copies that shadows were asked about, by version and google.rpc.Code.",
            ("route", "version", "code"),
            registry=registry,
        )
        self._dropped = Counter(
            "setpoint_router_shadow_dropped",
            "Copies that shadows were not asked about, by why.",
            ("route", "version", "reason"),
            registry=registry,
        )
        self._unrecorded = Counter(
            "setpoint_router_shadow_unrecorded",
            "Answers of shadows whose record could not be kept.",
            registry=registry,
        )

    def answered(self, work: Work) -> None:
        """Note a work that a shadow was asked about."""
        route, version = work.plan.route.name, str(work.plan.version.version)
        codes = Tally(records.code_of(each) for each in work.errors.values())
        codes[0] = work.rows - len(work.errors)
        for code, count in codes.items():
            self._answered.labels(route, version, str(code)).inc(count)

    def unrecorded(self, rows: int) -> None:
        """Note answers whose record could not be kept."""
        self._unrecorded.inc(rows)

    def refused(self, reason: errors.Reason) -> None:
        """Copies are dropped, never refused."""

    def dropped(self, plan: Plan, rows: int, reason: str) -> None:
        """Note copies that were not made, or not asked about."""
        self._dropped.labels(plan.route.name, str(plan.version.version), reason).inc(rows)
