from dataclasses import replace

import pytest
from tests.load import features
from tests.load.support import feature_figures as figures
from tests.load.support.peers import feast_project
from tests.load.support.rates import Reading

SIZE = replace(features.QUICK, small_accounts=100)


def add(found: figures.Found, side: str, entities: int, rate: float, p50_ms: float) -> None:
    """Adds two rounds at each number of callers, the second on a machine that is twice as slow."""
    for callers, share in zip(features.CALLERS, (0.5, 1.0, 0.9), strict=True):
        readings = [Reading(rate * share, p50_ms), Reading(rate * share / 2, 2 * p50_ms)]
        found.online[figures.turn_name(side, entities, callers)] = readings


@pytest.fixture
def found() -> figures.Found:
    """Rounds in which two callers or writers are the best, and one form of Feast beats the other."""
    made = figures.Found(peak_bytes=2**30, small=[1.0, 2.0], large=[10.0, 24.0])
    for entities, rate in ((1, 1_000.0), (100, 80_000.0), (1000, 400_000.0)):
        add(made, figures.OURS, entities, rate, 0.5)
        add(made, figures.FEAST_ONLINE[0], entities, rate / 20, 2.0)
        add(made, figures.FEAST_ONLINE[1], entities, rate / 10, 1.0)
    add(made, figures.MGET, 1000, 1_000_000.0, 1.0)
    made.joins = {figures.OURS: [60.0, 30.0], figures.POLARS: [100.0, 50.0]}
    dask, duckdb = figures.FEAST_OFFLINE
    made.joins |= {dask: [2.0, 1.0], duckdb: [4.0, 2.0]}
    made.writes = {"1": [10_000.0, 5_000.0], "2": [60_000.0, 30_000.0]}
    return made


def test_measures_compares_with_the_best(found: figures.Found) -> None:
    """Each ratio is taken within a round, from the best level of both sides and Feast's better form."""
    rows = figures.measures(found, SIZE)
    goals = [row for row in rows if row.goal is not None]
    assert [(row.value, row.goal, row.is_met) for row in goals] == [
        (10.0, 8.0, True),
        (0.4, 0.4, True),
        (0.5, 1.0, True),
        (30.0, 15.0, True),
        (15.0, 15.0, True),
        (0.6, 0.35, True),
        (1024.0, 2048.0, True),
        (11.0, 11.0, True),
        (45_000.0, 30_000.0, True),
    ]
    assert rows[: len(goals)] == goals
    assert figures.FEAST_ONLINE[1] in rows[0].name
    for side, row in zip(figures.FEAST_OFFLINE, rows[3:5], strict=True):
        assert side in row.name
    assert "10,000 rows of history, 1,000 of spine" in rows[6].name


def test_measures_tells_every_side(found: figures.Found) -> None:
    """Whatever was measured is a row, with a name of its own."""
    rows = figures.measures(found, SIZE)
    assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row.value for row in rows}
    for turn, readings in found.online.items():
        assert by_name[f"online: {turn}"] == 0.75 * readings[0].rate
    assert by_name["writes, writers: 1"] == 7_500.0


def test_measures_without_feast(found: figures.Found) -> None:
    """Where Feast cannot be had, its rows are missing, and the others are there."""
    found.online = {name: each for name, each in found.online.items() if "Feast" not in name}
    found.joins = {name: each for name, each in found.joins.items() if "Feast" not in name}
    rows = figures.measures(found, SIZE)
    assert [row.goal for row in rows if row.goal is not None] == [0.4, 0.35, 2048.0, 11.0, 30_000.0]
    assert not any("Feast" in row.name for row in rows)


def test_measures_without_the_large_history(found: figures.Found) -> None:
    """When the last part fails, what was measured before is told all the same."""
    found.large = []
    goals = [row.goal for row in figures.measures(found, SIZE) if row.goal is not None]
    assert goals == [8.0, 0.4, 1.0, 15.0, 15.0, 0.35, 30_000.0]


def test_measures_of_one_part(found: figures.Found) -> None:
    """What was not asked for is missing, and the rest is told."""
    alone = figures.Found(peak_bytes=found.peak_bytes, small=found.small, large=found.large)
    assert [row.goal for row in figures.measures(alone, SIZE)] == [2048.0, 11.0]
    alone = figures.Found(joins=found.joins)
    goals = [row.goal for row in figures.measures(alone, SIZE) if row.goal is not None]
    assert goals == [15.0, 15.0, 0.35]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:7479/0", "127.0.0.1:7479,db=1"),
        ("redis://:se-cret@127.0.0.1:7479/0", "127.0.0.1:7479,db=1,password=se-cret"),
    ],
)
def test_connection_string_is_feasts(url: str, expected: str) -> None:
    """The same Valkey in Feast's words, with another database."""
    assert feast_project.connection_string(url) == expected
