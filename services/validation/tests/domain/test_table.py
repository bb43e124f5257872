import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import Column, Columns, DataType
from setpoint_runtime import errors
from setpoint_validation.domain.table import Limits, Table

LIMITS = Limits(rows=1000, kept_bytes=100_000)
SCHEMA = {
    "flag": DataType.BOOL,
    "number": DataType.FLOAT64,
    "text": DataType.STRING,
    "time": DataType.TIMESTAMP,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "number": st.floats(),
    "text": st.text(st.characters(codec="utf-8"), max_size=5),
    "time": st.integers(-(2**63), 2**63 - 1),
}


@st.composite
def tables(draw: st.DrawFn) -> Columns:
    rows = draw(st.integers(0, 8))
    columns = {}
    for name, dtype in SCHEMA.items():
        values = st.lists(st.none() | VALUES[name], min_size=rows, max_size=rows)
        columns[name] = (dtype, draw(values))
    return Columns.from_dict(columns)


def taken(*pieces: Columns) -> Table:
    table = Table(SCHEMA.keys(), LIMITS)
    for piece in pieces:
        table.add(piece, "rows")
    return table


def cut(whole: Columns, places: list[int]) -> list[Columns]:
    edges = [0, *sorted(min(place, whole.rows) for place in places), whole.rows]
    return [whole.slice(start, stop) for start, stop in itertools.pairwise(edges)]


@given(tables(), st.lists(st.integers(0, 8), max_size=3))
def test_digest_ignores_cuts(whole: Columns, places: list[int]) -> None:
    """A table has one digest and one content, however it was cut and its columns were ordered."""
    pieces = [piece.select(reversed(SCHEMA)) for piece in cut(whole, places)]
    table = taken(*pieces)
    assert table.digest() == taken(whole).digest()
    assert table.take().select(SCHEMA) == taken(whole).take()


@given(tables(), tables())
def test_digest_tells_tables_apart(one: Columns, other: Columns) -> None:
    """Tables that differ have different digests."""
    if repr(one.to_rows()) != repr(other.to_rows()):
        assert taken(one).digest() != taken(other).digest()


def test_digest_sees_names_types_and_dropped_columns() -> None:
    """Names, types, and columns that no rule looks at are part of the table."""
    digests = {
        one.digest()
        for one in (
            taken(Columns(0)),
            taken(Columns(1)),
            taken(Columns.from_dict({"a": (DataType.INT64, [1])})),
            taken(Columns.from_dict({"a": (DataType.INT64, [2])})),
            taken(Columns.from_dict({"b": (DataType.INT64, [1])})),
            taken(Columns.from_dict({"a": (DataType.TIMESTAMP, [1])})),
        )
    }
    assert len(digests) == 6


def test_take_keeps_wanted_columns() -> None:
    """Only columns that rules look at are kept, of all rows."""
    table = Table({"number", "absent"}, LIMITS)
    for start in (0.0, 2.0):
        table.add(
            Columns.from_dict(
                {
                    "number": (DataType.FLOAT64, [start, start + 1]),
                    "text": (DataType.STRING, ["a", "b"]),
                }
            ),
            "rows",
        )
    kept = table.take()
    assert kept.names == ("number",)
    assert kept["number"].to_list() == [0.0, 1.0, 2.0, 3.0]


def test_take_without_columns_counts_rows() -> None:
    """Where no rule looks at a column the rows are counted all the same."""
    table = Table(frozenset(), LIMITS)
    for _ in range(2):
        table.add(Columns.from_dict({"a": (DataType.INT32, [1, 2, 3])}), "rows")
    assert (table.take().rows, len(table.take())) == (6, 0)


@pytest.mark.parametrize(
    ("limits", "told"),
    [(Limits(3, 1000), "at most 3"), (Limits(1000, 31), "at most 31 in the columns that rules")],
)
def test_add_refuses_too_large(limits: Limits, told: str) -> None:
    """A table is refused at the piece with which it becomes too large."""
    piece = Columns(2, [Column.from_numpy("number", np.array([1.0, 2.0]))])
    table = Table({"number"}, limits)
    table.add(piece, "first")
    with pytest.raises(errors.InvalidArgumentError, match=told) as caught:
        table.add(piece, "second")
    assert caught.value.reason is errors.Reason.TOO_LARGE
    assert caught.value.violations[0].field == "second"
