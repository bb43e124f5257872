import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import definitions, skew, visibility
from setpoint_feature.domain.skew import Cause, Seen

FRESH, STALE = int(definitions.Status.FRESH), int(definitions.Status.STALE)
MISSING, DEFAULT = int(definitions.Status.MISSING), int(definitions.Status.DEFAULT)
RULE = visibility.Rule(0, exclusive=False)
Row = tuple[int, int, int]
"""Event time, arrival, and when it was written."""


def candidates(rows: list[Row]) -> skew.Candidates:
    """Returns rows of one entity, in the order of writing."""
    events, created, written = (np.array(each, np.int64) for each in zip(*rows, strict=True))
    return skew.Candidates(events, created, np.arange(1, len(rows) + 1), written)


def cause(
    rows: list[Row], same: list[bool], served: Seen, known: Seen, time: int = 10, reply: int = 100
) -> Cause:
    """Returns the cause of a difference."""
    cell = skew.Cell(time, reply, served, known)
    return skew.cause_of(RULE, candidates(rows), np.array(same, np.bool_), cell)


def test_each_cause_is_told_apart() -> None:
    """One situation for each cause that rows can tell."""
    early, late, unknown = (5, 5, 50), (9, 9, 200), (12, 12, 60)
    newer = (8, 8, 60)
    nothing = Seen(MISSING, -1)
    assert cause([early, late], [True, False], Seen(FRESH, 5), Seen(FRESH, 9)) is Cause.LATE_WRITE
    assert cause([early, newer], [True, False], Seen(FRESH, 5), Seen(FRESH, 8)) is Cause.COPY_BEHIND
    assert cause([late], [False], nothing, Seen(FRESH, 9)) is Cause.LATE_WRITE
    assert cause([early], [False], nothing, Seen(FRESH, 5)) is Cause.COPY_BEHIND
    assert cause([early, unknown], [False] * 2, nothing, Seen(FRESH, 5)) is Cause.PAST_QUESTION
    assert cause([early], [True], Seen(STALE, 5), Seen(FRESH, 5)) is Cause.STALENESS
    assert cause([early], [False], nothing, Seen(DEFAULT, -1)) is Cause.DEFAULT
    assert cause([early], [False], Seen(STALE, 5), Seen(STALE, 5)) is Cause.DEFAULT
    assert cause([early], [False], Seen(FRESH, 5), Seen(FRESH, 5)) is Cause.VALUE
    assert cause([early], [True], Seen(FRESH, 6), Seen(FRESH, 5)) is Cause.VALUE
    assert cause([early, unknown], [False, True], Seen(FRESH, 12), Seen(FRESH, 5)) is Cause.FUTURE


def test_correction_at_the_same_event_time_is_no_changed_value() -> None:
    """Two rows of one event time: whoever was served the first was served before the second."""
    rows = [(5, 5, 50), (5, 5, 200)]
    assert cause(rows, [True, False], Seen(FRESH, 5), Seen(FRESH, 5)) is Cause.LATE_WRITE
    rows = [(5, 5, 50), (5, 5, 60)]
    assert cause(rows, [True, False], Seen(FRESH, 5), Seen(FRESH, 5)) is Cause.COPY_BEHIND


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 9),
)
def test_what_an_online_copy_lacks_is_told(
    times: list[tuple[int, int]], present: int, copied: int, time: int
) -> None:
    """An online copy that has seen some rows of those that were there serves as it does; the cause follows.

    Rows are written one after the other. At the answer `present` of them are stored, and the copy has
    seen `copied` of those; afterwards the others are written.
    """
    present = min(present, len(times))
    copied = min(copied, present)
    rows = [(event, max(event, created), place) for place, (event, created) in enumerate(times)]
    order = sorted(range(len(rows)), key=lambda place: (rows[place][0], rows[place][1], place))

    def is_known(place: int) -> bool:
        return rows[place][0] <= time and rows[place][1] <= time

    seen = [place for place in order if place < copied]
    served = seen[-1] if seen and is_known(seen[-1]) else None
    known = [place for place in order if is_known(place)]
    winner = known[-1] if known else None
    assume(served != winner)
    told = skew.cause_of(
        RULE,
        candidates(rows),
        np.array([place == served for place in range(len(rows))]),
        skew.Cell(
            time,
            present - 1,
            Seen(MISSING, -1) if served is None else Seen(FRESH, rows[served][0]),
            Seen(MISSING, -1) if winner is None else Seen(FRESH, rows[winner][0]),
        ),
    )
    there = [place for place in order if place < present]
    honest = there[-1] if there and is_known(there[-1]) else None
    if served != honest and is_known(there[-1]):
        assert told is Cause.COPY_BEHIND
    elif (copied == present and not any(place < present for place in known)) or (
        copied == present and served is not None
    ):
        assert told is Cause.LATE_WRITE
    else:
        assert told in (Cause.PAST_QUESTION, Cause.COPY_BEHIND, Cause.LATE_WRITE)


def test_unequal_sees_every_bit() -> None:
    """Zeros of other signs differ, equal NaN do not, and what lies below a null does not count."""
    one = Column.from_numpy("x", np.array([0.0, np.nan, 1.0, 2.0, 3.0]))
    other = Column.from_numpy("x", np.array([-0.0, np.nan, 1.0, np.nextafter(2.0, 3.0), 3.0]))
    assert skew.unequal(one, other).tolist() == [True, False, False, True, False]
    nulls = np.array([True, False, False, False, True])
    hidden = [
        Column.from_numpy("x", values, nulls) for values in (one.to_numpy(), other.to_numpy())
    ]
    assert skew.unequal(*hidden).tolist() == [False, False, False, True, False]
    texts = [Column.from_list("x", each, DataType.STRING) for each in (["a", None], ["a", ""])]
    assert skew.unequal(*texts).tolist() == [False, True]
    flags = [Column.from_list("x", each, DataType.BOOL) for each in ([True, None], [False, None])]
    assert skew.unequal(*flags).tolist() == [True, False]
    narrow = Column.from_list("x", [1, None], DataType.INT32)
    wide = Column.from_list("x", [1, None], DataType.INT64)
    assert skew.unequal(narrow, wide).tolist() == [True, False]


def test_merged_rows_are_one_table() -> None:
    """Rows of one kind become one table, in order; another schema is another kind."""

    def rows(prediction: str, dtype: DataType) -> skew.ServedRows:
        keys = Columns.from_dict({"k": (dtype, [1, 2])})
        one = np.array([1, 2])
        return skew.ServedRows(
            "s", "v", 3, (prediction, "x"), one, one, one > 1, keys, keys, {"k": one}, {"k": one}
        )

    parts = [rows("a", DataType.INT64), rows("b", DataType.INT64)]
    found = skew.merged(parts)
    assert parts[0].kind == parts[1].kind != rows("c", DataType.INT32).kind
    assert found.prediction_ids == ("a", "x", "b", "x")
    assert (len(found), found.spine.rows, len(found.statuses["k"])) == (4, 4, 4)
