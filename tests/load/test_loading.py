from pathlib import Path

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
