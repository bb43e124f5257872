"""Metrics of writes and online copies, read when they are scraped."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from setpoint_feature import ports
from setpoint_feature.service import apart, compaction, serving, skew, writing


class FeatureMetrics(Collector):
    """What writes and catching up have counted."""

    def __init__(
        self, counts: writing.Counts, reads: serving.Counts, lag: Mapping[str, int]
    ) -> None:
        """Reads counts and lags where they are kept."""
        self._counts = counts
        self._reads = reads
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        counts = self._counts
        yield CounterMetricFamily(
            "setpoint_feature_rows_written", "Rows stored in the history.", value=counts.rows
        )
        yield CounterMetricFamily(
            "setpoint_feature_rows_refused",
            "Bad rows left out of batches whose good rows were kept.",
            value=counts.refused,
        )
        outcome = CounterMetricFamily(
            "setpoint_feature_online_values",
            "Values offered to the online store, by what became of them.",
            labels=("outcome",),
        )
        outcome.add_metric(("replaced",), counts.online_replaced)
        outcome.add_metric(("older",), counts.online_older)
        yield outcome
        yield CounterMetricFamily(
            "setpoint_feature_online_failed_batches",
            "Batches whose online copies were left to catch up.",
            value=counts.online_failed,
        )
        reads = CounterMetricFamily(
            "setpoint_feature_online_reads",
            "Online reads, by what answered them; those refused found neither Valkey nor PostgreSQL.",
            labels=("source",),
        )
        reads.add_metric(("online",), self._reads.online)
        reads.add_metric(("history",), self._reads.history)
        reads.add_metric(("refused",), self._reads.refused)
        yield reads
        lag = GaugeMetricFamily(
            "setpoint_feature_online_lag_rows",
            "Rows of a view's history that its online copies lack.",
            labels=("view",),
        )
        for view, rows in sorted(self._lag.items()):
            lag.add_metric((view,), rows)
        yield lag


class SkewMetrics(Collector):
    """What the replay of served features has counted."""

    def __init__(self, counts: skew.Counts) -> None:
        """Reads the counts where they are kept."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        yield CounterMetricFamily(
            "setpoint_feature_skew_replayed_values",
            "Served values that were computed again and compared.",
            value=self._counts.values,
        )
        yield CounterMetricFamily(
            "setpoint_feature_skew_removed_predictions",
            "Predictions that were not replayed: retention has removed rows known at their times.",
            value=self._counts.removed_predictions,
        )
        found = CounterMetricFamily(
            "setpoint_feature_skew_differences",
            "Served values that were not the ones known, by cause.",
            labels=("cause",),
        )
        for cause, count in sorted(self._counts.differences.items()):
            found.add_metric((cause.name.lower(),), count)
        yield found


class ForgettingMetrics(Collector):
    """Which results have been forgotten."""

    def __init__(self, counts: Mapping[ports.Results, int]) -> None:
        """Reads the counts where they are kept."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        found = CounterMetricFamily(
            "setpoint_feature_forgotten_rows",
            "Rows of results whose time was over.",
            labels=("kind",),
        )
        for kind in ports.Results:
            found.add_metric((kind.value,), self._counts.get(kind, 0))
        yield found


class ThreadMetrics(Collector):
    """Transformations that do not return."""

    def __init__(self, threads: apart.Threads) -> None:
        """Reads the threads' own count."""
        self._threads = threads

    def collect(self) -> Iterator[Metric]:
        """Yield the metric as it stands."""
        yield GaugeMetricFamily(
            "setpoint_feature_transformation_calls_lost",
            "Calls of transformations that go on although their callers have left.",
            value=self._threads.lost,
        )


class CompactionMetrics(Collector):
    """What the compactor has counted, and where rows lay when it last looked."""

    def __init__(self, counts: compaction.Counts) -> None:
        """Reads the counts where they are kept."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        counts = self._counts
        for name, text, value in (
            ("moved_rows", "Rows moved from the database into segments.", counts.moved_rows),
            ("removed_rows", "Rows that retention removed.", counts.removed_rows),
            ("removed_segment_files", "Files removed from the folder.", counts.removed_files),
            ("compaction_failures", "Compactions that failed; rows stay.", counts.failures),
        ):
            yield CounterMetricFamily(f"setpoint_feature_{name}", text, value=value)
        done = CounterMetricFamily(
            "setpoint_feature_compactions", "Segments made, by the reason.", labels=("kind",)
        )
        done.add_metric(("move",), counts.moves)
        done.add_metric(("merge",), counts.merges)
        done.add_metric(("retention",), counts.thinnings)
        yield done
        rows = GaugeMetricFamily(
            "setpoint_feature_history_rows", "Rows by where they lie.", labels=("view", "place")
        )
        files = GaugeMetricFamily(
            "setpoint_feature_segments", "Segments that hold rows.", labels=("view",)
        )
        size = GaugeMetricFamily(
            "setpoint_feature_segment_bytes", "Bytes of those segments.", labels=("view",)
        )
        for view, place in sorted(counts.places.items()):
            rows.add_metric((view, "database"), place.recent_rows)
            rows.add_metric((view, "segments"), place.segment_rows)
            files.add_metric((view,), place.segments)
            size.add_metric((view,), place.segment_bytes)
        yield from (rows, files, size)
