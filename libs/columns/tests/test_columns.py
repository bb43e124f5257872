import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_columns import MAX_ROWS, Column, Columns, DataType, testing
from setpoint_runtime import errors

_BATCH = Columns.from_dict(
    {
        "fare": (DataType.FLOAT64, [12.5, None, 3.0]),
        "carrier": (DataType.STRING, ["UA", "ÅA", None]),
        "stops": (DataType.INT32, [0, 1, 2]),
    }
)


@given(testing.batches(max_rows=12), st.lists(st.integers(0, 12), max_size=6))
def test_concat_restores_any_cut(batch: Columns, cuts: list[int]) -> None:
    """Cutting a batch anywhere and joining the pieces gives the batch, text and nulls included."""
    bounds = [0, *sorted(min(cut, batch.rows) for cut in cuts), batch.rows]
    pieces = [batch.slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    assert Columns.concat(pieces) == batch


@given(testing.batches(max_rows=8))
def test_from_rows_restores_rows(batch: Columns) -> None:
    """Rows as mappings and columns say the same."""
    assert Columns.from_rows(batch.schema, batch.to_rows()) == batch
    assert Columns.from_rows(batch.schema, [batch.row(row) for row in range(batch.rows)]) == batch


@given(testing.batches(min_rows=1, max_rows=8), st.data())
def test_filter_agrees_with_rows(batch: Columns, data: st.DataObject) -> None:
    """A mask keeps exactly the rows it marks."""
    mask = data.draw(st.lists(st.booleans(), min_size=batch.rows, max_size=batch.rows))
    kept = batch.filter(np.array(mask, np.bool_))
    expected = [batch.slice(row, row + 1) for row in range(batch.rows) if mask[row]]
    assert kept == (Columns.concat(expected) if expected else batch.slice(0, 0))


def test_from_rows_reads_absent_keys_as_null() -> None:
    """A row without a key has a null there; keys beyond the schema are ignored."""
    schema = {"a": DataType.INT64, "s": DataType.STRING}
    batch = Columns.from_rows(schema, [{"a": 1}, {"s": "x", "other": object()}])
    assert batch.to_rows() == [{"a": 1, "s": None}, {"a": None, "s": "x"}]


def test_from_rows_names_the_bad_value() -> None:
    """A wrong type is refused with column, row and value."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^a\[1\]: 'x' must be an integer"):
        Columns.from_rows({"a": DataType.INT64}, [{"a": 1}, {"a": "x"}])


def test_mapping_behaviour() -> None:
    """Columns are a mapping of names to columns, in order."""
    assert _BATCH.names == tuple(_BATCH) == ("fare", "carrier", "stops")
    assert "fare" in _BATCH
    assert "tip" not in _BATCH
    assert _BATCH.get("tip") is None
    assert len(_BATCH) == 3
    assert [column.name for column in _BATCH.columns] == list(_BATCH)
    with pytest.raises(KeyError):
        _BATCH["tip"]


def test_select_orders_and_refuses_unknown() -> None:
    """Select follows the order asked for and names a column that is not there."""
    assert _BATCH.select(["stops", "fare"]).names == ("stops", "fare")
    assert _BATCH.without("stops").names == ("fare", "carrier")
    with pytest.raises(errors.InvalidArgumentError, match=r"^tip: ") as caught:
        _BATCH.select(["fare", "tip"])
    assert caught.value.reason is errors.Reason.MISSING_FIELD


def test_with_constants_repeats_one_row() -> None:
    """Proves that columns of a single row stand in every row, nulls too, and that nothing is hidden by them."""
    rows = Columns.from_dict({"a": (DataType.INT64, [1, 2, 3])})
    shared = Columns.from_dict({"b": (DataType.STRING, ["x"]), "c": (DataType.INT32, [None])})
    assert rows.with_constants(shared).to_rows() == [
        {"a": number, "b": "x", "c": None} for number in (1, 2, 3)
    ]
    assert rows.slice(0, 0).with_constants(shared).names == ("a", "b", "c")
    assert rows.with_constants(Columns(0)) is rows
    with pytest.raises(errors.InvalidArgumentError, match="must be 1"):
        rows.with_constants(rows)
    with pytest.raises(errors.InvalidArgumentError, match="only column of that name"):
        rows.with_constants(rows.slice(0, 1))


def test_with_column_adds_and_replaces() -> None:
    """A column of the same name takes the place of the old one."""
    added = _BATCH.with_column(Column.from_list("tip", [1.0, 2.0, 3.0], DataType.FLOAT64))
    assert added.names == ("fare", "carrier", "stops", "tip")
    replaced = added.with_column(Column.from_list("fare", ["a", "b", "c"], DataType.STRING))
    assert replaced["fare"].dtype is DataType.STRING
    assert replaced.names == added.names
    with pytest.raises(errors.InvalidArgumentError, match="must have 3 rows"):
        _BATCH.with_column(Column.from_list("tip", [1.0], DataType.FLOAT64))


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        (2, [Column.from_list("x", [1], DataType.INT64)], "x: '1 rows' must have 2 rows"),
        (-1, [], "rows: -1 must be from 0"),
        (MAX_ROWS + 1, [], f"must be from 0 to {MAX_ROWS}"),
        (
            1,
            [Column.from_list("x", [1], DataType.INT64)] * 2,
            "must be the only column of that name",
        ),
    ],
)
def test_construction_refuses_misfits(rows: int, columns: list[Column], message: str) -> None:
    """Ragged columns, equal names and impossible row counts are refused."""
    with pytest.raises(errors.InvalidArgumentError, match=message):
        Columns(rows, columns)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"a": (DataType.INT64, [1])}, r"batches\[1\].b: .* must be in every batch"),
        (
            {"a": (DataType.INT64, [1]), "b": (DataType.STRING, ["x"]), "c": (DataType.INT32, [1])},
            r"batches\[1\].c: .* is not in the first",
        ),
        ({"a": (DataType.INT64, [1]), "b": (DataType.BOOL, [True])}, "b: 'BOOL' must be STRING"),
    ],
)
def test_concat_refuses_unlike_batches(other: dict[str, Any], message: str) -> None:
    """Batches with other columns or types cannot be joined; the error names the column."""
    first = Columns.from_dict({"a": (DataType.INT64, [1]), "b": (DataType.STRING, ["x"])})
    with pytest.raises(errors.InvalidArgumentError, match=message):
        Columns.concat([first, Columns.from_dict(other)])


def test_concat_of_nothing_is_empty() -> None:
    """No batches have no rows and no columns."""
    assert Columns.concat([]) == Columns(0)
    assert Columns.concat([Columns(2), Columns(3)]).rows == 5


def test_row_refuses_outside_index() -> None:
    """A row beyond the end is an IndexError even where a column could wrap around."""
    assert _BATCH.row(-1) == {"fare": 3.0, "carrier": None, "stops": 2}
    for index in (3, -4):
        with pytest.raises(IndexError):
            _BATCH.row(index)
    with pytest.raises(IndexError):
        _BATCH.take(np.array([3]))


def test_batch_without_columns_keeps_rows() -> None:
    """Rows count even where there are no columns."""
    batch = Columns(3)
    assert batch.to_rows() == [{}, {}, {}]
    assert batch.slice(1, 3).rows == 2
    assert batch.select([]).rows == 3


def test_empty_has_types() -> None:
    """An empty batch knows its types."""
    batch = Columns.empty({"s": DataType.STRING, "x": DataType.BOOL})
    assert (batch.rows, batch.schema) == (0, {"s": DataType.STRING, "x": DataType.BOOL})
    assert repr(batch) == "Columns(rows=0, {s: STRING, x: BOOL})"
