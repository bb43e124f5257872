"""What the replicas do, read from them when somebody asks."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from setpoint_router.adapters.replicas.calls import ReplicatedInference
from setpoint_router.adapters.replicas.fleet import Fleet
from setpoint_router.adapters.replicas.replica import Replica, State

_PREFIX = "setpoint_router_replica_"
_LABELS = ("replica",)
_Shown = tuple[tuple[str, str, Callable[[Replica], float]], ...]

_COUNTED: _Shown = (
    ("calls", "Calls that ended.", lambda each: each.answered + each.failed),
    ("failures", "Calls that ended without a word from it.", lambda each: each.failed),
    ("ejections", "Times it was left out because it failed.", lambda each: each.ejected),
)
_MEASURED: _Shown = (
    ("up", "Whether it says that it serves.", lambda each: each.state is State.SERVING),
    ("ejected", "Whether it is left out.", lambda each: each.standing.is_out),
    ("calls_in_flight", "Calls in flight.", lambda each: len(each.calls)),
    ("rows_in_flight", "Rows in flight.", lambda each: each.rows),
    ("versions", "Versions known to be in its memory.", lambda each: len(each.loaded)),
)


class ReplicaMetrics(Collector):
    """Calls cost nothing for it: they are counted anyway."""

    def __init__(self, fleet: Fleet, calls: ReplicatedInference) -> None:
        """Show a fleet and the calls to it."""
        self._fleet = fleet
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        """Return what is true now."""
        for name, text, counted in _COUNTED:
            counter = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=_LABELS)
            for each in self._replicas():
                counter.add_metric((each.name,), counted(each))
            yield counter
        for name, text, measured in _MEASURED:
            gauge = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=_LABELS)
            for each in self._replicas():
                gauge.add_metric((each.name,), float(measured(each)))
            yield gauge
        yield CounterMetricFamily(
            "setpoint_router_inference_retries",
            "Calls repeated on another replica.",
            value=self._calls.retries,
        )
        yield CounterMetricFamily(
            "setpoint_router_inference_hedges",
            "Slow calls made a second time.",
            value=self._calls.hedges,
        )

    def _replicas(self) -> list[Replica]:
        return [self._fleet.replicas[name] for name in sorted(self._fleet.replicas)]
