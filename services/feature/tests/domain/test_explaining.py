import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, DataType
from setpoint_feature.domain import definitions, explaining, history, plan, visibility
from setpoint_feature.domain.explaining import Verdict

FIELD = definitions.Field("x", DataType.INT64)


def past_of(rows: list[tuple[int, int]], rule: visibility.Rule) -> history.Past:
    """Returns rows of one entity, given by event time and arrival, in the order of writing."""
    view = plan.CompiledView(definitions.FeatureView("v", "e", (FIELD,)), 1)
    values = list(range(len(rows)))
    packed = view.layout.pack([Column.from_list("x", values, DataType.INT64)], len(rows))
    stored = history.StoredRows(
        np.array([event for event, _ in rows], np.int64),
        np.array([created for _, created in rows], np.int64),
        np.arange(1, len(rows) + 1),
        b"".join(packed),
        np.arange(len(rows)) * view.layout.fixed_bytes,
    )
    return history.Past(view, rule, np.zeros(len(rows), np.int64), [stored])


def verdicts(rows: list[tuple[int, int]], time: int, **rule: int) -> list[tuple[int, Verdict]]:
    """Returns sequence and verdict of each row, greatest first."""
    past = past_of(rows, visibility.Rule(rule.get("ttl", 0), bool(rule.get("exclusive"))))
    found = explaining.explain(past, time)
    return [
        (int(past.rows.sequences[position]), Verdict(int(verdict)))
        for position, verdict in zip(found.order, found.verdicts, strict=True)
    ]


def test_explain_tells_each_verdict() -> None:
    """Every way to lose has its name, in the order in which rows would win."""
    rows = [(5, 5), (9, 9), (9, 8), (9, 8), (10, 11), (12, 12)]
    assert verdicts(rows, 10) == [
        (6, Verdict.FUTURE),
        (5, Verdict.LATE),
        (2, Verdict.WON),
        (4, Verdict.TIE),
        (3, Verdict.TIE),
        (1, Verdict.OLDER),
    ]


def test_explain_tells_expiry_to_the_microsecond() -> None:
    """The greatest known row wins also when it is too old; that it is, is said."""
    assert verdicts([(3, 3)], 10, ttl=7) == [(1, Verdict.WON)]
    assert verdicts([(3, 3)], 10, ttl=6) == [(1, Verdict.EXPIRED)]


def test_explain_tells_the_exclusive_boundary() -> None:
    """A row of the very time of the question is no row of the future."""
    assert verdicts([(10, 10), (11, 11)], 10, exclusive=1) == [
        (2, Verdict.FUTURE),
        (1, Verdict.BOUNDARY),
    ]


def test_explain_nothing() -> None:
    """An entity without rows has no candidate, and no winner."""
    past = past_of([], visibility.Rule(0, exclusive=False))
    found = explaining.explain(past, 10)
    assert (len(found.order), found.winner, found.counts()) == (0, None, {})


@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), max_size=12),
    st.integers(-6, 6),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
def test_explained_winner_is_the_greatest_known(
    rows: list[tuple[int, int]], time: int, ttl: int, exclusive: bool, arrival: bool
) -> None:
    """The verdicts are those of the rules written out, row by row, and the winner that of the join."""
    past = past_of(rows, visibility.Rule(ttl, exclusive, arrival))
    found = explaining.explain(past, time)
    listed = [(event, created, place) for place, (event, created) in enumerate(rows)]
    is_true = [event < time or (event == time and not exclusive) for event, _, _ in listed]
    known = [
        each
        for each, true in zip(listed, is_true, strict=True)
        if true and (each[1] <= time or not arrival)
    ]
    best = max(known, default=None)
    expected = {}
    for each, true in zip(listed, is_true, strict=True):
        if each == best:
            too_old = ttl and each[0] < time - ttl
            expected[each[2]] = Verdict.EXPIRED if too_old else Verdict.WON
        elif not true:
            expected[each[2]] = Verdict.BOUNDARY if each[0] == time else Verdict.FUTURE
        elif each not in known:
            expected[each[2]] = Verdict.LATE
        else:
            expected[each[2]] = Verdict.TIE if best and each[0] == best[0] else Verdict.OLDER
    assert {
        int(position): Verdict(int(verdict))
        for position, verdict in zip(found.order, found.verdicts, strict=True)
    } == expected
    assert [listed[position] for position in found.order] == sorted(listed, reverse=True)
    assert all(explaining.reason(past, found, place, time) for place in range(len(rows)))
    served = explaining.served(past, 0, time)
    is_served = best is not None and expected[best[2]] is Verdict.WON
    assert served.features["x"].to_list() == [best[2] if best and is_served else None]
