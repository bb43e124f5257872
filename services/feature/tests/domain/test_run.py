import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_feature.domain import history, key_table, point_in_time, run, visibility

KEYS = [b"", b"a", b"a\0", b"a" * 8, b"a" * 9, b"b" * 17]
times = st.integers(-4, 9)
stored = st.lists(st.tuples(st.sampled_from(KEYS), times, times), max_size=40)
asked = st.lists(st.tuples(st.sampled_from([*KEYS, b"z"]), times), max_size=20)
rules = st.builds(visibility.Rule, ttl=st.just(0), exclusive=st.booleans(), arrival=st.booleans())
Stored = list[tuple[bytes, int, int]]


def named(rows: Stored, first: int = 1) -> history.NamedRows:
    """Returns rows whose packed bytes are their sequences, written out at different lengths."""
    packed = [f"{first + index}".encode() for index in range(len(rows))]
    lengths = np.array([len(each) for each in packed], np.int64)
    found = history.StoredRows(
        np.array([event for _, event, _ in rows], np.int64),
        np.array([created for _, _, created in rows], np.int64),
        np.arange(first, first + len(rows)),
        b"".join(packed),
        np.cumsum(lengths) - lengths,
    )
    return history.NamedRows([key for key, _, _ in rows], found)


def built(rows: Stored, first: int = 1) -> run.Run:
    found = named(rows, first)
    return run.Run.build(found.keys, found.rows, 0)


@given(stored, asked, rules)
def test_search_equals_the_timeline(
    rows: Stored, spine: list[tuple[bytes, int]], rule: visibility.Rule
) -> None:
    """A sorted run finds the rows that the join's definition finds, for keys of any length."""
    content = built(rows)
    wanted = key_table.KeyTable.of([key for key, _ in spine])
    moments = np.array([time for _, time in spine], np.int64)

    found = content.search(rule, content.find(wanted, wanted.hashes()), moments)

    numbers = history.KeyNumbers()
    plain = named(rows)
    values = point_in_time.Values(
        numbers.assign(plain.keys),
        plain.rows.event_times,
        plain.rows.created_times,
        plain.rows.sequences,
    )
    expected = point_in_time.Timeline(values, rule).search(
        numbers.find([key for key, _ in spine]), moments
    )
    sequences = np.append(content.sequences, -1)[found]
    assert sequences.tolist() == np.append(values.sequences, -1)[expected].tolist()


@given(st.lists(stored, min_size=1, max_size=4))
def test_merge_keeps_every_row(parts: list[Stored]) -> None:
    """A merged run is the run of all rows, bytes included."""
    runs = []
    first = 1
    for rows in parts:
        runs.append(built(rows, first))
        first += len(rows)

    merged = run.Run.merge(runs, [None] * len(runs))

    whole = built([row for rows in parts for row in rows])
    everything = np.arange(len(whole))
    assert merged.keys.to_list() == whole.keys.to_list()
    assert merged.bounds.tolist() == whole.bounds.tolist()
    for mine, expected in zip((merged.named(everything),), (whole.named(everything),), strict=True):
        assert mine.keys == expected.keys
        assert mine.rows.sequences.tolist() == expected.rows.sequences.tolist()
        assert mine.rows.data == expected.rows.data


@given(st.lists(st.sampled_from(KEYS), max_size=30))
def test_group_numbers_equal_keys_alike(keys: list[bytes]) -> None:
    """Keys have one number exactly when they are equal, and the representative is such a key."""
    numbers, firsts = key_table.group(key_table.KeyTable.of(keys))

    pairs = {(key, number) for key, number in zip(keys, numbers.tolist(), strict=True)}
    assert len(pairs) == len({key for key, _ in pairs}) == len({number for _, number in pairs})
    assert all(keys[row] == keys[int(firsts[number])] for row, number in enumerate(numbers))


def test_equal_hashes_do_not_make_keys_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all keys collide every key is still found, and no other."""
    monkeypatch.setattr(key_table.KeyTable, "hashes", lambda self: np.zeros(len(self), np.uint64))
    content = built([(key, 0, 0) for key in KEYS])
    wanted = key_table.KeyTable.of([*KEYS, b"z", b""])

    found = content.find(wanted, wanted.hashes()).tolist()

    assert found == [*(sorted(KEYS).index(key) for key in KEYS), -1, 0]
    assert key_table.group(wanted)[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


@given(st.data(), st.integers(1, 20))
def test_find_tells_keys_of_one_length_apart(data: st.DataObject, width: int) -> None:
    """Keys that differ in any byte, the first or the last, are different keys."""
    bits = st.integers(0, 8 * width - 1).map(lambda bit: (1 << bit).to_bytes(width, "little"))
    keys = st.lists(bits | st.binary(min_size=width, max_size=width), min_size=1, max_size=30)
    known = sorted(set(data.draw(keys)))
    wanted = key_table.KeyTable.of([*data.draw(keys), *known])

    index = key_table.KeyIndex(key_table.KeyTable.of(known))
    asked = np.arange(len(wanted))[::-1]
    found = index.find(wanted, wanted.hashes(), asked).tolist()

    listed = wanted.to_list()
    places = {key: place for place, key in enumerate(known)}
    assert found == [places.get(listed[row], -1) for row in asked.tolist()]
