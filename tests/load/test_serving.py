import pytest
from tests.load import serving
from tests.load.support import loads
from tests.load.support.generator import Window

METRICS = """
# TYPE setpoint_router_predictions_total counter
setpoint_router_predictions_total{route="a",version="1",code="0"} 40.0
setpoint_router_predictions_total{route="a",version="1",code="3"} 2.0
setpoint_router_predictions_created{route="a",version="1",code="0"} 1.7e+09
"""


def window(rate: float, p50_ms: float = 1.0) -> Window:
    return Window(int(rate * 2), 0, 2.0, p50_ms, 2 * p50_ms, 3 * p50_ms)


@pytest.fixture
def found() -> serving.Found:
    """Two rounds, the second on a machine that is twice as slow; all peak at the second level."""
    rates = {
        serving.FULL: (100.0, 800.0, 700.0, 600.0),
        serving.GIVEN: (150.0, 1200.0, 900.0, 800.0),
        serving.ECHO: (500.0, 1600.0, 1500.0, 1400.0),
        serving.PLAIN: (90.0, 200.0, 150.0, 120.0),
    }
    made: serving.Found = {
        (side, level): [window(rate, 4.0), window(rate / 2, 8.0)]
        for side, levels in rates.items()
        for level, rate in zip(serving.LEVELS, levels, strict=True)
    }
    made[serving.UNTRACED, serving.TRACED_LEVEL] = [window(1000.0), window(500.0)]
    return made


def test_measures_compares_peaks(found: serving.Found) -> None:
    """Each goal's ratio is that of the best levels, the same in a quick round and in a slow one."""
    rows = serving.measures(found, 0.9)
    goals = {row.name: row for row in rows if row.goal is not None}
    assert [round(row.value, 6) for row in goals.values()] == [0.75, 0.5, 4.0, 1.0, 0.7]
    assert [row.goal for row in goals.values()] == [0.75, 0.45, 2.2, 1.2, 0.85]
    assert "1,200/s" in goals["features given / empty echo, throughput"].baseline


def test_measures_adds_absolute_figures(found: serving.Found) -> None:
    """Throughputs and latencies of every side are rows without goals, with unique names."""
    rows = serving.measures(found, 0.9)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    by_name = {row.name: row.value for row in rows}
    assert by_name["full path: throughput"] == 600.0
    assert by_name["full path: p50, one caller"] == 6.0
    assert by_name["full path: p99, 16 callers"] == 12.0


def test_peak_is_the_best_level(found: serving.Found) -> None:
    """The peak is where the median of the rounds is greatest."""
    assert serving.peak(found, serving.FULL) == loads.Level(4, 4)


def test_predictions_sums_all_codes() -> None:
    """All predictions count, and what is no counter of them does not."""
    assert serving.predictions(METRICS) == 42
