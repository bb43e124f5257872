import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, DataType
from setpoint_feature.domain import (
    assemble,
    definitions,
    history,
    key_table,
    plan,
    run,
    run_join,
    visibility,
)

KEYS = [b"a", b"longer than a word"]
# Few of them, so that many rows are of one time.
moments = st.integers(-1, 3)
stored = st.lists(st.tuples(st.sampled_from(KEYS), moments, moments), max_size=6)
asked = st.lists(st.tuples(st.sampled_from([*KEYS, b"z", None]), moments), max_size=20)
rules = st.builds(
    visibility.Rule,
    ttl=st.sampled_from([0, 2]),
    exclusive=st.booleans(),
    arrival=st.booleans(),
)
Stored = list[tuple[bytes, int, int]]


def compiled(dtype: DataType) -> plan.CompiledView:
    fields = (definitions.Field("sequence", dtype),)
    return plan.CompiledView(definitions.FeatureView("view", "entity", fields), 1)


def sorted_run(view: plan.CompiledView, rows: Stored, first: int) -> run.Run:
    """Returns rows whose only field is their sequence, in a run."""
    sequences = np.arange(first, first + len(rows))
    slot = view.layout.slots[0].dtype
    values = sequences.tolist() if slot is DataType.INT64 else list(map(str, sequences))
    packed = view.layout.pack([Column.from_list("sequence", values, slot)], len(rows))
    lengths = np.array([len(each) for each in packed], np.int64)
    found = history.StoredRows(
        np.array([event for _, event, _ in rows], np.int64),
        np.array([created for _, _, created in rows], np.int64),
        sequences,
        b"".join(packed),
        np.cumsum(lengths) - lengths,
    )
    return run.Run.build([key for key, _, _ in rows], found, view.layout.row_bytes)


def expected(
    parts: list[Stored], rule: visibility.Rule, key: bytes | None, time: int
) -> tuple[int, int | None, int]:
    """Returns code, sequence where it is fresh, and event time, by looking at every row."""
    best: tuple[int, int, int] | None = None
    for sequence, (owner, event, created) in enumerate((row for part in parts for row in part), 1):
        is_known = event < time if rule.exclusive else event <= time
        is_known &= created <= time or not rule.arrival
        if owner == key and is_known and (best is None or (event, created, sequence) > best):
            best = event, created, sequence
    if best is None:
        return visibility.ABSENT, None, visibility.NO_TIME
    if rule.ttl and best[0] < time - rule.ttl:
        return visibility.STALE, None, best[0]
    return visibility.FRESH, best[2], best[0]


@given(
    st.lists(stored, max_size=5), asked, rules, st.sampled_from([DataType.INT64, DataType.STRING])
)
def test_join_equals_brute_force_however_rows_are_divided(
    parts: list[Stored],
    spine: list[tuple[bytes | None, int]],
    rule: visibility.Rule,
    dtype: DataType,
) -> None:
    """Runs that are skipped, for some rows or for all, had nothing that would have won there."""
    view = compiled(dtype)
    firsts = np.cumsum([1, *(len(part) for part in parts)])
    runs = [sorted_run(view, part, int(first)) for part, first in zip(parts, firsts, strict=False)]
    table = key_table.KeyTable.of([KEYS[0] if key is None else key for key, _ in spine])
    valid = np.array([key is not None for key, _ in spine], np.bool_)
    times = np.array([time for _, time in spine], np.int64)

    keys = run_join.SpineKeys(table, table.hashes(), valid)
    winners = run_join.join(view, rule, runs, keys, times)

    references = (definitions.FeatureReference("view", "sequence"),)
    asked_for = plan.compile_plan(definitions.FeatureSet("set", references), {("view", ""): view})
    served = assemble.serve(asked_for, len(spine), [winners])
    values = served.features["sequence"].to_list()
    event_times = np.frombuffer(served.event_times[0], "<i8").tolist()
    found = [
        (code, None if value is None else int(value), time)
        for code, value, time in zip(winners.codes.tolist(), values, event_times, strict=True)
    ]
    assert found == [expected(parts, rule, key, time) for key, time in spine]
