import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_feature.domain import history, run, thinning, visibility

KEYS = [b"a", b"ab", b"b", b"longer than a word", b"z"]
moments = st.integers(-1, 4)
stored = st.lists(st.tuples(st.sampled_from(KEYS), moments, moments), max_size=8)
rules = st.builds(visibility.Rule, ttl=st.just(0), exclusive=st.booleans(), arrival=st.just(True))
Stored = list[tuple[bytes, int, int]]


def divided(parts: list[Stored]) -> list[run.Run]:
    """Returns runs whose sequences follow one another."""
    runs = []
    first = 1
    for rows in parts:
        count = len(rows)
        found = history.StoredRows(
            np.array([event for _, event, _ in rows], np.int64),
            np.array([created for _, _, created in rows], np.int64),
            np.arange(first, first + count),
            bytes(count),
            np.arange(count),
        )
        runs.append(run.Run.build([key for key, _, _ in rows], found, 1))
        first += count
    return runs


@given(st.lists(stored, min_size=1, max_size=5), rules, st.integers(0, 5), st.integers(1, 9))
def test_needed_are_the_winners_and_what_is_seen_later(
    parts: list[Stored], rule: visibility.Rule, horizon: int, keys_at_once: int
) -> None:
    """Of what is known at the horizon one row of each key stays, wherever it lies, and all later rows do."""
    runs = divided(parts)

    held = thinning.holders(runs, rule, horizon, keys_at_once)
    kept = [
        sequence
        for each, mine in zip(runs, held, strict=True)
        for sequence in each.sequences[thinning.needed(each, mine, rule, horizon)].tolist()
    ]

    winners: dict[bytes, tuple[int, int, int]] = {}
    expected = []
    for sequence, (key, event, created) in enumerate((row for part in parts for row in part), 1):
        if created <= horizon and (event < horizon if rule.exclusive else event <= horizon):
            winners[key] = max(winners.get(key, (-9, 0, 0)), (event, created, sequence))
        else:
            expected.append(sequence)
    assert sorted(kept) == sorted([*expected, *(winner[2] for winner in winners.values())])


def test_holders_look_at_each_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many segments are twice the work, not four times."""
    looked = []
    search = run.Run.search

    def counted(
        self: run.Run, rule: visibility.Rule, positions: run.Numbers, times: visibility.Times
    ) -> run.Rows:
        looked.append(len(positions))
        return search(self, rule, positions, times)

    runs = divided([[(key, 0, 0) for key in KEYS]] * 40)
    monkeypatch.setattr(run.Run, "search", counted)

    held = thinning.holders(runs, visibility.Rule(0, exclusive=False), 1, 10)

    assert sum(looked) == 40 * len(KEYS)
    assert [len(each) for each in held] == [0] * 39 + [len(KEYS)]
