"""Counts and durations of served calls, cheap enough for every call of the serving path.

The loop that serves is the only writer, so plain integers do; prometheus_client's own counters take
a lock and look up labels each time, which costs several microseconds a call.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

import grpc
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# From a cached feature read to a slow control call, in seconds.
BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
_LABELS = ("service", "method")


class MethodStats:
    """What is counted for one method; all labels are bounded by the contract."""

    __slots__ = ("_buckets", "_codes", "_sum", "in_flight", "method", "service")

    def __init__(self, service: str, method: str) -> None:
        """Start at nothing."""
        self.service = service
        self.method = method
        self.in_flight = 0
        self._codes: dict[grpc.StatusCode, int] = {grpc.StatusCode.OK: 0}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, code: grpc.StatusCode, seconds: float) -> None:
        """Count a call that has ended."""
        codes = self._codes
        codes[code] = codes.get(code, 0) + 1
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def counts(self) -> dict[grpc.StatusCode, int]:
        """Return the calls that have ended, by their code."""
        return dict(self._codes)

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Return the histogram as Prometheus wants it, and the sum of seconds."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._buckets, strict=True):
            total += count
            rows.append((bound, total))
        return rows, self._sum


class ServerMetrics(Collector):
    """All methods of one server."""

    def __init__(self, loop_lag_seconds: Callable[[], float]) -> None:
        """Prepare; the lag of the serving loop is asked for at each scrape."""
        self._methods: list[MethodStats] = []
        self._loop_lag_seconds = loop_lag_seconds

    def method(self, service: str, method: str) -> MethodStats:
        """Return new statistics for a method."""
        stats = MethodStats(service, method)
        self._methods.append(stats)
        return stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        handled = CounterMetricFamily(
            "setpoint_rpc_server_handled",
            "Calls that have ended, by status code.",
            labels=(*_LABELS, "code"),
        )
        seconds = HistogramMetricFamily(
            "setpoint_rpc_server_seconds",
            "Time from the start of the handler to its end.",
            labels=_LABELS,
        )
        in_flight = GaugeMetricFamily(
            "setpoint_rpc_server_in_flight", "Calls being served now.", labels=_LABELS
        )
        for stats in self._methods:
            labels = (stats.service, stats.method)
            for code, count in stats.counts().items():
                handled.add_metric((*labels, code.name), count)
            buckets, total = stats.cumulative()
            seconds.add_metric(labels, buckets, total)
            in_flight.add_metric(labels, stats.in_flight)
        yield handled
        yield seconds
        yield in_flight
        yield GaugeMetricFamily(
            "setpoint_loop_lag_seconds",
            "How late the serving event loop last was.",
            value=self._loop_lag_seconds(),
        )
