"""Metrics of versions and the pool, read when they are scraped."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from setpoint_inference.service.models import Models, ReadyModel

_LABELS = ("model", "version")
_PLACES = ("loop", "pool", "batch")


class InferenceMetrics(Collector):
    """What the loaded versions have counted; a version that drops out takes its counts along."""

    def __init__(self, models: Models, taken: Callable[[], int]) -> None:
        """Read from the table of versions, and from the pool how many places are taken."""
        self._models = models
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        calls = CounterMetricFamily(
            "setpoint_inference_calls",
            "Calls that ran: on the event loop, in the pool, or through a batch.",
            labels=(*_LABELS, "place"),
        )
        rows = CounterMetricFamily("setpoint_inference_rows", "Rows answered.", labels=_LABELS)
        seconds = CounterMetricFamily(
            "setpoint_inference_run_seconds", "Time of all runs, packing included.", labels=_LABELS
        )
        batches = CounterMetricFamily(
            "setpoint_inference_batches", "Batches that calls shared.", labels=_LABELS
        )
        states = dict.fromkeys(("loading", "ready", "failed"), 0)
        loaded_bytes = 0
        for key, model in self._models.all():
            if not isinstance(model, ReadyModel):
                states["loading" if model.error is None else "failed"] += 1
                continue
            states["ready"] += 1
            loaded_bytes += model.memory_bytes
            labels = (key.model, str(key.version))
            if model.batcher is not None:
                batches.add_metric(labels, model.batcher.batches)
            for place, count in zip(_PLACES, model.counts.calls(), strict=True):
                calls.add_metric((*labels, place), count)
            rows.add_metric(labels, model.counts.rows)
            seconds.add_metric(labels, model.counts.run_us / 1e6)
        yield from (calls, rows, seconds, batches)
        versions = GaugeMetricFamily(
            "setpoint_inference_versions", "Versions here, by state.", labels=("state",)
        )
        for state, count in states.items():
            versions.add_metric((state,), count)
        yield versions
        yield GaugeMetricFamily(
            "setpoint_inference_loaded_bytes",
            "Memory that ready versions take.",
            value=loaded_bytes,
        )
        yield from self._loads()
        yield GaugeMetricFamily(
            "setpoint_inference_pool_taken",
            "Calls that run or wait in the pool.",
            value=self._taken(),
        )

    def _loads(self) -> Iterator[Metric]:
        counts = self._models.counts
        loads = CounterMetricFamily(
            "setpoint_inference_loads", "Loads that ended.", labels=("result",)
        )
        loads.add_metric(("ready",), counts.loaded)
        loads.add_metric(("failed",), counts.failed)
        yield loads
        evictions = CounterMetricFamily(
            "setpoint_inference_evictions",
            "Versions dropped for memory: loaded by a call, or by name (LoadModel).",
            labels=("loaded_by",),
        )
        evictions.add_metric(("call",), counts.evicted)
        evictions.add_metric(("name",), counts.evicted_pinned)
        yield evictions
        yield CounterMetricFamily(
            "setpoint_inference_released",
            "Versions dropped because their leases were over.",
            value=counts.released,
        )
