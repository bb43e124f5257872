import pytest
from tests.load import batch


@pytest.fixture
def found() -> batch.Rates:
    """Two rounds, the second on a machine that is twice as slow; two callers are the best."""
    rates = {
        f"{batch.TREES} {batch.IN_PROCESS}": 1_000.0,
        f"{batch.LINEAR} {batch.IN_PROCESS}": 9_000.0,
    }
    for side, rate in zip(batch.SIDES, (600.0, 5_000.0, 300.0), strict=True):
        for callers, share in zip(batch.CALLERS, (0.5, 1.0, 0.9), strict=True):
            rates[f"{side}, {callers} callers"] = rate * share
    return {name: [rate, rate / 2] for name, rate in rates.items()}


def test_measures_compares_the_best(found: batch.Rates) -> None:
    """The ratio is taken within a round, from the best number of callers; goals come first."""
    rows = batch.measures(found, [])
    assert [(row.value, row.goal) for row in rows[:3]] == [
        (0.6, 0.7),
        (3_750.0, 1_000_000.0),
        (225.0, 100_000.0),
    ]
    assert "2 callers" in rows[0].baseline
    assert rows[0].is_met is False


def test_measures_of_jobs(found: batch.Rates) -> None:
    """Each job has its rate, its share of onnxruntime's, and its memory; names are unique."""
    jobs = [batch.Job(form, 100, 50.0, 200.0, 3_000_000) for form in ("a", "b")]
    rows = batch.measures(found, jobs)
    assert len({row.name for row in rows}) == len(rows)
    assert [row.value for row in rows[-3:]] == [50.0, 0.25, 3.0]
