"""Profiles and drift, against reference figures and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from setpoint_columns import Column, DataType
from setpoint_monitoring.domain import drift, profile
from setpoint_monitoring.domain.drift import Level
from setpoint_monitoring.domain.profile import Reference
from setpoint_monitoring.service.ingest import count_column

NUMERIC = Reference("x", (0.0, 1.0), (), (10, 10, 10, 0, 0), categorical=False)
CATEGORIES = Reference("c", (), ("a", "b"), (50, 40, 0, 0, 10, 0), categorical=True)


def test_index_and_distance_published() -> None:
    """The index and the distance of the reference example are met."""
    p, q = np.array([0.2, 0.3, 0.5]) * 1e6, np.array([0.1, 0.4, 0.5]) * 1e6
    assert drift.population_stability_index(p, q) == pytest.approx(0.0980829, abs=1e-5)
    assert drift.jensen_shannon_distance(p, q) == pytest.approx(0.1099028, abs=1e-7)


@given(
    st.lists(st.one_of(st.floats(), st.none()), max_size=60),
)
def test_count_numbers_equals_brute_force(values: list[float | None]) -> None:
    """Every value falls in exactly one bin: a value on an edge in the lower one."""
    counts = count_column(NUMERIC, Column.from_list("x", values, DataType.FLOAT64))
    expected = [0] * 5
    for value in values:
        if value is None:
            expected[3] += 1
        elif not np.isfinite(value):
            expected[4] += 1
        else:
            expected[0 if value <= 0 else 1 if value <= 1 else 2] += 1
    assert counts.tolist() == expected


def test_count_levels_tells_unseen_from_missing() -> None:
    """A level that training never saw is unseen, a null is missing."""
    counts = profile.count_levels(CATEGORIES, ["a", "b", "b", "z", None])
    assert counts.tolist() == [1, 2, 0, 1, 1, 0]


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=12),
    st.data(),
)
def test_pooled_keeps_rows_and_fills_bins(reference: list[int], data: st.DataObject) -> None:
    """Pooling loses no ordinary row, and each of several bins is expected to hold 5 rows."""
    window = data.draw(
        st.lists(st.integers(0, 50), min_size=len(reference), max_size=len(reference))
    )
    before, now = np.array(reference, dtype=np.int64), np.array(window, dtype=np.int64)
    p, q = drift.pooled(before, now, special=2)
    share = min(before.sum(), now.sum()) / max(1, (before + now).sum())
    kept = [place for place in (-2, -1) if (before + now)[place] * share >= 5]
    ordinary = len(p) - len(kept)
    assert p[:ordinary].sum() == before[:-2].sum()
    assert q[:ordinary].sum() == now[:-2].sum()
    assert p[ordinary:].tolist() == [before[place] for place in kept]
    if ordinary > 1:
        assert ((p + q)[:ordinary] * share >= drift.MINIMUM_EXPECTED - 1e-9).all()


def _reference(random: np.random.Generator, effect: float = 1.0) -> Reference:
    edges = tuple(np.quantile(random.normal(size=20_000), np.arange(1, 10) / 10).tolist())
    empty = Reference("x", edges, (), (0,) * 12, categorical=False)
    training = random.normal(size=20_000)
    counts = profile.count_numbers(empty, training, np.zeros(20_000, dtype=np.bool_))
    return Reference(
        "x", edges, (), tuple(counts.tolist()), categorical=False, design_effect=effect
    )


def _judge(reference: Reference, values: np.ndarray) -> drift.Finding:
    counts = profile.count_numbers(reference, values, np.isnan(values))
    return drift.judge([(reference, counts)])[0]


def test_judge_no_change_is_ok() -> None:
    """Of 200 unchanged windows of 500 rows hardly one is called, where a bare 0.1 would be fooled."""
    random = np.random.default_rng(3)
    reference = _reference(random)
    levels = [_judge(reference, random.normal(size=500)).level for _ in range(200)]
    assert sum(level is not Level.OK for level in levels) <= 1


def test_judge_shift_is_alarm_and_names_bins() -> None:
    """A shift by one standard deviation is an alarm and says where rows moved."""
    random = np.random.default_rng(4)
    found = _judge(_reference(random), random.normal(1.0, size=500))
    assert found.level is Level.ALARM
    assert found.adjusted_p_value < 1e-6
    assert found.moved_bins


def test_judge_missing_is_drift() -> None:
    """Values that vanish are drift, although those that are left look as ever."""
    random = np.random.default_rng(5)
    values = random.normal(size=1_000)
    values[:400] = np.nan
    found = _judge(_reference(random), values)
    assert found.level is Level.ALARM
    assert found.missing_share == pytest.approx(0.4)


@pytest.mark.parametrize("rows", [500, 1_000, 2_000])
def test_judge_few_missing_are_seen(rows: int) -> None:
    """A tenth of the values gone missing is an alarm at any size, where training missed none."""
    random = np.random.default_rng(9)
    values = random.normal(size=rows)
    values[: rows // 10] = np.nan
    assert _judge(_reference(random), values).level is Level.ALARM


def test_judge_unseen_levels_are_seen() -> None:
    """Categories that training never saw are an alarm."""
    reference = Reference("c", (), ("a", "b"), (5_000, 4_000, 0, 0, 1_000, 0), categorical=True)
    counts = np.array([450, 360, 0, 100, 90, 0])
    assert drift.judge([(reference, counts)])[0].level is Level.ALARM


def test_judge_few_rows_says_nothing() -> None:
    """A small window is NO_DATA, however odd it looks."""
    random = np.random.default_rng(6)
    assert _judge(_reference(random), random.normal(3.0, size=100)).level is Level.NO_DATA


def test_judge_design_effect_widens() -> None:
    """What dependent rows explain is no drift."""
    random = np.random.default_rng(8)
    values = random.normal(0.35, size=400)
    assert _judge(_reference(random), values).level is not Level.OK
    assert _judge(_reference(random, effect=100.0), values).level is Level.OK


@given(st.lists(st.floats(0, 1), max_size=30))
def test_false_discovery_adjusted_equals_the_reference(chances: list[float]) -> None:
    """p-values are adjusted as scipy does, ties and none at all included."""
    found = drift.false_discovery_adjusted(np.array(chances))
    expected = stats.false_discovery_control(chances) if chances else []
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(st.floats(0, 5), st.integers(2, 40), st.integers(300, 10**6), st.floats(1, 4))
def test_chance_of_index_equals_the_chi_square_tail(
    index: float, bins: int, rows: int, effect: float
) -> None:
    """The tail is that of chi-square with one degree of freedom fewer than bins."""
    scale = effect * (1 / 10_000 + 1 / rows)
    found = drift.chance_of_index(index, bins, rows, 10_000, effect)
    assert found == pytest.approx(stats.chi2.sf(index / scale, bins - 1), rel=1e-9, abs=1e-300)
