from pathlib import Path

from tests.load import loading as bench
from tests.load.support import loading

from setpoint_artifacts import testing


def test_found_divides() -> None:
    """The ratio is of the two 99th percentiles."""
    assert loading.Found(1.0, 2.0, 1.5, 3.0, 5, 0.1, 100).ratio == 1.5


async def test_measure_loads_beside_calls(tmp_path: Path) -> None:
    """Versions are loaded while another one is asked, and both states have answers."""
    model = testing.linear(weights=[1.0] * 20).replace(b"score", b"proba")
    found = await loading.measure(
        model,
        tmp_path,
        rate=50,
        seconds=0.2,
        settle_seconds=0.1,
        output="proba",
        width=1,
    )
    assert found.loads > 0
    assert found.artifact_bytes == len(model)
    assert min(found.steady_p50, found.loading_p50) > 0


def test_measures_take_the_middle_round() -> None:
    """One round that something else disturbed decides nothing, and both figures name their conditions."""
    rounds = [loading.Found(1.0, 2.0, 1.0, 2.0 * times, 5, 0.5, 2_000_000) for times in (1, 9, 1.5)]
    ratio, load = bench.measures("trees", rounds)
    assert (ratio.value, ratio.is_met) == (1.5, True)
    assert "rounds 1.00 to 9.00" in ratio.baseline
    assert (load.value, load.goal) == (0.5, None)
    assert "2.0 MB" in load.baseline
