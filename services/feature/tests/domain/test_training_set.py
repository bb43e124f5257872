import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import assemble, training_set

Row = tuple[int | None, str | None, float | None]


def rows_of(given_rows: list[Row]) -> training_set.Rows:
    """Returns rows with a key, a text and a feature."""
    keys, texts, values = ([row[place] for row in given_rows] for place in range(3))
    spine = Columns.from_dict({"k": (DataType.INT64, keys), "t": (DataType.STRING, texts)})
    features = Columns.from_dict({"f": (DataType.FLOAT32, values)})
    statuses = bytes(1 if value is not None else 3 for value in values)
    times = np.arange(len(given_rows), dtype="<i8").tobytes()
    return training_set.Rows(spine, assemble.Served(features, (statuses,), (times,)))


def digest_of(*parts: training_set.Rows) -> str:
    """Returns the digest of some parts."""
    digest = training_set.Digest()
    for part in parts:
        digest.add(part)
    return digest.hexdigest()


ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-3, 3),
        st.none() | st.text(max_size=3),
        st.none() | st.floats(width=32),
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.integers(0, 12), st.integers(1, 200))
def test_digest_does_not_depend_on_the_cut(given_rows: list[Row], cut: int, size: int) -> None:
    """However rows came in pieces, their content has one digest; packing and cutting lose nothing."""
    whole = rows_of(given_rows)
    assert digest_of(whole.slice(0, cut), whole.slice(cut, len(given_rows))) == digest_of(whole)
    parts = whole.parts(size)
    assert sum(part.spine.rows for part in parts) == len(given_rows)
    assert digest_of(*parts) == digest_of(whole)
    again = training_set.unpacked(training_set.packed(whole), 2, ("f",))
    assert digest_of(again) == digest_of(whole)
    assert (again.table, again.served.statuses) == (whole.table, whole.served.statuses)


def bits_of(given_rows: list[Row]) -> list[tuple[int | None, str | None, bytes | None]]:
    """Returns rows with the bits of their numbers: the zeros differ, and so do kinds of NaN."""
    return [
        (key, text, None if value is None else np.array([value], np.float32).tobytes())
        for key, text, value in given_rows
    ]


@given(ROWS, ROWS)
@example([(None, None, 0.0)], [(None, None, -0.0)])
@example([(1, "", math.nan)], [(1, "", math.nan)])
@example([(1, "a", 1.0), (2, "", 1.0)], [(1, "", 1.0), (2, "a", 1.0)])
def test_digest_tells_contents_apart(one: list[Row], other: list[Row]) -> None:
    """Tables have the same digest exactly where every bit of them is the same."""
    same_digest = digest_of(rows_of(one)) == digest_of(rows_of(other))
    assert same_digest == (bits_of(one) == bits_of(other))


def test_digest_ignores_what_lies_below_nulls() -> None:
    """Two buffers of one meaning have one digest; null and zero, or empty text, have two."""
    digests = []
    for below in (7, 8):
        values = np.array([below, 1])
        column = Column("k", DataType.INT64, values, validity=np.array([False, True]))
        digest = training_set.Digest()
        digest.add_table(Columns(2, [column]))
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1]
    assert digest_of(rows_of([(0, "", 0.0)])) != digest_of(rows_of([(None, "", 0.0)]))
    assert digest_of(rows_of([(0, "", 0.0)])) != digest_of(rows_of([(0, None, 0.0)]))
    assert digest_of(rows_of([(0, "a", 0.0), (0, "b", 0.0)])) != digest_of(
        rows_of([(0, "ab", 0.0), (0, "", 0.0)])
    )
