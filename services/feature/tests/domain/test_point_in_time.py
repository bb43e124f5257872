import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_feature.domain import point_in_time, visibility

NOTHING = "nothing"
times = st.integers(-4, 9)
stored = st.lists(st.tuples(st.integers(0, 3), times, times), max_size=40)
asked = st.lists(st.tuples(st.integers(-1, 5), times), max_size=20)
rules = st.builds(
    visibility.Rule, ttl=st.integers(0, 5), exclusive=st.booleans(), arrival=st.booleans()
)


def values_of(rows: list[tuple[int, int, int]], order: list[int]) -> point_in_time.Values:
    """Returns rows as arrays in some order; sequences follow the rows' first order."""
    table = np.array(rows, np.int64).reshape(len(rows), 3)[order]
    return point_in_time.Values(
        table[:, 0], table[:, 1], table[:, 2], np.array(order, np.int64) + 1
    )


def brute_force(
    rows: list[tuple[int, int, int]], key: int, time: int, rule: visibility.Rule
) -> int | None:
    """Returns the sequence of the winner by the definition itself."""
    known = [
        (event, created, sequence)
        for sequence, (owner, event, created) in enumerate(rows, 1)
        if owner == key
        and (event < time if rule.exclusive else event <= time)
        and (created <= time or not rule.arrival)
    ]
    return max(known)[2] if known else None


@given(stored, asked, rules, st.randoms(use_true_random=False))
def test_search_equals_brute_force(
    rows: list[tuple[int, int, int]],
    spine: list[tuple[int, int]],
    rule: visibility.Rule,
    random: "np.random.Generator",
) -> None:
    """The winner is the greatest known value, whatever ties, late arrivals and storage order."""
    order = list(range(len(rows)))
    random.shuffle(order)
    values = values_of(rows, order)
    keys = np.array([key for key, _ in spine], np.int64)
    moments = np.array([time for _, time in spine], np.int64)

    found = point_in_time.Timeline(values, rule).search(keys, moments)

    winners = [None if row < 0 else int(values.sequences[row]) for row in found]
    assert winners == [brute_force(rows, key, time, rule) for key, time in spine]


@given(stored, asked, rules)
def test_judge_agrees_with_the_definition_of_age(
    rows: list[tuple[int, int, int]], spine: list[tuple[int, int]], rule: visibility.Rule
) -> None:
    """A winner is stale exactly when its event time is before T - ttl, and absent when there is none."""
    values = values_of(rows, list(range(len(rows))))
    keys = np.array([key for key, _ in spine], np.int64)
    moments = np.array([time for _, time in spine], np.int64)
    found = point_in_time.Timeline(values, rule).search(keys, moments)
    padded = [np.append(each, 0) for each in (values.event_times, values.created_times)]

    codes = rule.judge(found >= 0, padded[0][found], padded[1][found], moments)

    for (key, time), code in zip(spine, codes.tolist(), strict=True):
        sequence = brute_force(rows, key, time, rule)
        if sequence is None:
            assert code == visibility.ABSENT
        else:
            is_stale = rule.ttl > 0 and rows[sequence - 1][1] < time - rule.ttl
            assert code == (visibility.STALE if is_stale else visibility.FRESH)


@given(stored, st.randoms(use_true_random=False))
def test_greatest_takes_one_value_per_key(
    rows: list[tuple[int, int, int]], random: "np.random.Generator"
) -> None:
    """Each key keeps its greatest value by event time, created time and sequence."""
    order = list(range(len(rows)))
    random.shuffle(order)
    values = values_of(rows, order)

    kept = point_in_time.greatest(values)

    expected: dict[int, tuple[int, int, int]] = {}
    for sequence, (key, event, created) in enumerate(rows, 1):
        expected[key] = max(expected.get(key, (-99, 0, 0)), (event, created, sequence))
    assert values.sequences[kept].tolist() == [expected[key][2] for key in sorted(expected)]


def test_search_in_nothing_finds_nothing() -> None:
    """A view without rows answers every key with no row."""
    timeline = point_in_time.Timeline(values_of([], []), visibility.Rule(0, exclusive=False))

    assert timeline.search(np.array([0, -1]), np.array([5, 5])).tolist() == [-1, -1]


def test_search_far_apart_times_are_exact() -> None:
    """Times of the whole 64-bit range neither overflow nor lose their last digit."""
    low, high = -(1 << 63), (1 << 63) - 1
    rows = [(0, low, low), (0, high - 1, low), (1, high, high)]
    timeline = point_in_time.Timeline(
        values_of(rows, [0, 1, 2]), visibility.Rule(0, exclusive=False)
    )

    found = timeline.search(
        np.array([0, 0, 0, 1, 1]), np.array([low, high - 2, high - 1, high - 1, high])
    )

    assert found.tolist() == [0, 0, 1, -1, 2]
