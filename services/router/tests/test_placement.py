import hypothesis.strategies as st
from hypothesis import given

from setpoint_router.domain import placement

REPLICAS = st.sets(
    st.from_regex(r"10\.0\.0\.[0-9]{1,3}:7401", fullmatch=True), min_size=1, max_size=9
)
LOADS = st.lists(st.integers(0, 300), min_size=1, max_size=8)
FACTORS = st.floats(1.0, 2.0)


@given(REPLICAS, st.text(max_size=8), st.integers(1, 4))
def test_ranked_moves_least_when_one_leaves(names: set[str], version: str, copies: int) -> None:
    """A replica that leaves is replaced by at most one other, and the rest keep their order."""
    before = placement.ranked(version, names)
    for gone in names:
        after = placement.ranked(version, names - {gone})
        assert after == [each for each in before if each != gone]
        kept = set(before[:copies]) - {gone}
        assert kept <= set(after[:copies])


@given(REPLICAS, st.text(max_size=8))
def test_ranked_knows_no_order_of_arrival(names: set[str], version: str) -> None:
    """Every router ranks alike, however it came to know the replicas."""
    listed = sorted(names)
    assert placement.ranked(version, listed) == placement.ranked(version, reversed(listed))


def test_ranked_spreads_versions() -> None:
    """Each of four replicas is the first for about a quarter of the versions."""
    names = [f"10.0.0.{number}:7401" for number in range(4)]
    first = [placement.ranked(f"model/{number}", names)[0] for number in range(4000)]
    for name in names:
        assert 880 < first.count(name) < 1120


@given(LOADS, FACTORS)
def test_choose_keeps_the_bound_for_single_rows(loads: list[int], factor: float) -> None:
    """There is always a replica whose load stays within the bound."""
    chosen = placement.choose(loads, 1, factor)
    assert loads[chosen] + 1 <= placement.bound(sum(loads) + 1, len(loads), factor)


@given(LOADS, st.integers(1, 256), FACTORS)
def test_choose_prefers_the_first_that_fits(loads: list[int], added: int, factor: float) -> None:
    """The first within the bound is taken; rows that fit nowhere go where there are least."""
    most = placement.bound(sum(loads) + added, len(loads), factor)
    fitting = [each for each, load in enumerate(loads) if load + added <= most]
    expected = fitting[0] if fitting else loads.index(min(loads))
    assert placement.choose(loads, added, factor) == expected


def test_choose_spreads_batches_and_gathers_single_rows() -> None:
    """Two batches go to two replicas, two lone rows to one."""
    assert placement.choose([0, 0], 64, 1.25) == 0
    assert placement.choose([64, 0], 64, 1.25) == 1
    assert placement.choose([1, 0], 1, 1.25) == 0
