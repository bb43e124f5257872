from typing import Any

import numpy as np
import pytest

from setpoint_columns import Column, Columns, DataType
from setpoint_feature.domain import batch, definitions, plan, refusal
from setpoint_runtime import errors

VIEW = plan.CompiledView(
    definitions.FeatureView(
        "delays",
        "carrier",
        (
            definitions.Field("late", DataType.FLOAT64),
            definitions.Field("note", DataType.STRING),
            definitions.Field("count", DataType.INT32),
        ),
        keys=(definitions.FieldSpec("carrier", DataType.STRING),),
    ),
    1,
)
NOW = 1_000
GOOD: dict[str, tuple[DataType, list[Any]]] = {
    "carrier": (DataType.STRING, ["AA", "UA"]),
    "event_time": (DataType.TIMESTAMP, [1, 2]),
    "created_time": (DataType.TIMESTAMP, [3, None]),
    "late": (DataType.FLOAT64, [0.5, None]),
    "note": (DataType.STRING, [None, "fog"]),
    "count": (DataType.INT32, [1, 2]),
}


def prepare(changes: dict[str, Any], *, without: str = "", tolerance: int = 10) -> batch.Batch:
    columns = {name: content for name, content in {**GOOD, **changes}.items() if name != without}
    made, refused = batch.prepare(VIEW, Columns.from_dict(columns), NOW, tolerance)
    assert refused == refusal.Refused()
    return made


def test_prepare_packs_rows() -> None:
    """A good batch keeps every value, and the clock stands for an unknown arrival."""
    made = prepare({})

    unpacked = VIEW.layout.unpack(b"".join(made.rows), np.array([0, len(made.rows[0])]), (0, 1, 2))
    assert [column.to_list() for column in unpacked] == [[0.5, None], [None, "fog"], [1, 2]]
    assert made.event_times.tolist() == [1, 2]
    assert made.created_times.tolist() == [3, NOW]


def test_prepare_absent_columns() -> None:
    """Without created_time the clock says when rows arrived; an absent field is null."""
    columns = Columns.from_dict({name: GOOD[name] for name in ("carrier", "event_time")})

    made, _ = batch.prepare(VIEW, columns, NOW, 0)

    assert made.created_times.tolist() == [NOW, NOW]
    assert len(made) == 2


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"lat": GOOD["late"]}, errors.Reason.UNKNOWN_FIELD, "rows.lat"),
        ({"late": (DataType.STRING, ["a", "b"])}, errors.Reason.WRONG_TYPE, "rows.late"),
        ({"late": (DataType.BOOL, [True, False])}, errors.Reason.WRONG_TYPE, "rows.late"),
        ({"count": (DataType.INT64, [1, 1 << 40])}, errors.Reason.WRONG_TYPE, "rows.count[1]"),
        ({"count": (DataType.FLOAT64, [1.0, 2.5])}, errors.Reason.WRONG_TYPE, "rows.count[1]"),
        ({"carrier": (DataType.INT64, [1, 2])}, errors.Reason.WRONG_TYPE, "rows.carrier"),
        (
            {"carrier": (DataType.STRING, ["AA", None])},
            errors.Reason.NULL_REFUSED,
            "rows.carrier[1]",
        ),
        ({"event_time": (DataType.INT64, [1, 2])}, errors.Reason.WRONG_TYPE, "rows.event_time"),
        (
            {"event_time": (DataType.TIMESTAMP, [None, 2])},
            errors.Reason.NULL_REFUSED,
            "rows.event_time[0]",
        ),
        (
            {"event_time": (DataType.TIMESTAMP, [1, NOW + 11])},
            errors.Reason.EVENT_TIME_IN_FUTURE,
            "rows.event_time[1]",
        ),
        (
            {"created_time": (DataType.TIMESTAMP, [NOW + 11, None])},
            errors.Reason.EVENT_TIME_IN_FUTURE,
            "rows.created_time[0]",
        ),
        ({"note": (DataType.STRING, ["x", "y" * 70_000])}, errors.Reason.TOO_LARGE, "rows.note[1]"),
        (
            {"carrier": (DataType.STRING, ["x", "y" * 2_000])},
            errors.Reason.TOO_LARGE,
            "rows.carrier[1]",
        ),
    ],
)
def test_prepare_bad_column_is_named(
    changes: dict[str, Any], reason: errors.Reason, field: str
) -> None:
    """A bad batch is refused whole, naming the column and the row."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        prepare(changes)

    assert (caught.value.reason, caught.value.violations[0].field) == (reason, field)


@pytest.mark.parametrize(
    ("without", "reason"),
    [("event_time", errors.Reason.MISSING_FIELD), ("carrier", errors.Reason.ENTITY_KEY_MISSING)],
)
def test_prepare_missing_column_is_named(without: str, reason: errors.Reason) -> None:
    """Event time and keys must be there."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        prepare({}, without=without)

    assert (caught.value.reason, caught.value.violations[0].field) == (reason, f"rows.{without}")


def test_prepare_too_many_rows() -> None:
    """A batch beyond the limit is refused before anything is done with it."""
    rows = batch.MAX_ROWS + 1
    columns = Columns(rows, [Column("event_time", DataType.TIMESTAMP, np.zeros(rows, np.int64))])

    with pytest.raises(errors.InvalidArgumentError) as caught:
        batch.prepare(VIEW, columns, NOW, 0)

    assert caught.value.reason is errors.Reason.TOO_LARGE


def test_prepare_numbers_of_other_widths() -> None:
    """Numbers are taken in another width where each keeps its meaning."""
    made = prepare({"late": (DataType.FLOAT32, [0.5, 0.25]), "count": (DataType.INT64, [7, 8])})

    unpacked = VIEW.layout.unpack(b"".join(made.rows), np.array([0, len(made.rows[0])]), (0, 2))
    assert [column.to_list() for column in unpacked] == [[0.5, 0.25], [7, 8]]


def test_prepare_tolerates_the_edge_of_the_future() -> None:
    """A time exactly at the tolerance is accepted; clocks differ a little."""
    assert len(prepare({"event_time": (DataType.TIMESTAMP, [1, NOW + 10])})) == 2


def test_greatest_reduces_to_one_row_per_key() -> None:
    """Of rows with one key the greatest is kept, and of equal ones the later."""
    made = batch.Batch(
        [b"a", b"b", b"a", b"a"],
        np.array([5, 1, 5, 4]),
        np.array([1, 1, 1, 9]),
        [b"", b"", b"", b""],
    )

    assert made.greatest().tolist() == [2, 1]


def test_prepare_keeps_good_rows() -> None:
    """Bad rows are named with column, value and rule, each for what is wrong with it; the others are packed."""
    rows: dict[str, tuple[DataType, list[Any]]] = {
        "carrier": (DataType.STRING, ["AA", None, "UA", "DL", "WN", "x" * 2_000]),
        "event_time": (DataType.TIMESTAMP, [1, 2, None, NOW + 11, 5, 6]),
        "created_time": (DataType.TIMESTAMP, [1, NOW + 11, 3, 4, None, 6]),
        "count": (DataType.FLOAT64, [1.0, 2.0, 3.0, 4.0, 5.5, 6.0]),
        "note": (DataType.STRING, ["a", "b", "c", "d", "y" * 70_000, "f"]),
    }

    made, refused = batch.prepare(VIEW, Columns.from_dict(rows), NOW, 10, keep_good=True)

    assert (made.keys, made.event_times.tolist(), made.created_times.tolist()) == (
        VIEW.codec.encode(Columns.from_dict({"carrier": (DataType.STRING, ["AA"])}), {}, ""),
        [1],
        [1],
    )
    (count,) = VIEW.layout.unpack(b"".join(made.rows), np.array([0]), (2,))
    assert count.to_list() == [1]
    assert refused.rows == 5
    assert [(each.row, each.column, each.value, each.reason.value) for each in refused.errors] == [
        (1, "created_time", str(NOW + 11), "EVENT_TIME_IN_FUTURE"),
        (1, "carrier", "None", "NULL_REFUSED"),
        (2, "event_time", "None", "NULL_REFUSED"),
        (3, "event_time", str(NOW + 11), "EVENT_TIME_IN_FUTURE"),
        (4, "note", "'70000 bytes'", "TOO_LARGE"),
        (4, "count", "5.5", "WRONG_TYPE"),
        (5, "carrier", "'2000 bytes'", "TOO_LARGE"),
    ]
    assert refused.errors[1].rule == "must not be null"
    assert refusal.Refused.from_bytes(refused.to_bytes()) == refused


def test_prepare_keeps_good_rows_of_a_good_batch() -> None:
    """Nothing is refused where nothing is bad, and nothing has to be remembered."""
    made, refused = batch.prepare(VIEW, Columns.from_dict(GOOD), NOW, 10, keep_good=True)

    assert len(made) == 2
    assert refused.to_bytes() == b""
    assert refusal.Refused.from_bytes(b"") == refused


def test_prepare_lists_the_first_errors_and_counts_the_rest() -> None:
    """However many rows are bad, the answer stays small, and begins with the first of them."""
    count = 3 * refusal.LISTED
    rows: dict[str, tuple[DataType, list[Any]]] = {
        "carrier": (DataType.STRING, [None if row % 2 else "AA" for row in range(count)]),
        "event_time": (DataType.TIMESTAMP, [1 if row % 2 else None for row in range(count)]),
    }

    made, refused = batch.prepare(VIEW, Columns.from_dict(rows), NOW, 10, keep_good=True)

    assert (len(made), refused.rows) == (0, count)
    assert [each.row for each in refused.errors] == list(range(refusal.LISTED))


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"lat": GOOD["late"]}, "rows.lat"), ({"late": GOOD["note"]}, "rows.late")],
)
def test_prepare_bad_column_refuses_the_batch(changes: dict[str, Any], field: str) -> None:
    """What is wrong with a column is wrong with every row, also where good rows are to be kept."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        batch.prepare(VIEW, Columns.from_dict({**GOOD, **changes}), NOW, 10, keep_good=True)

    assert caught.value.violations[0].field == field


FINITE = plan.CompiledView(
    definitions.FeatureView(
        "rates",
        "all",
        (
            definitions.Field("wide", DataType.FLOAT64, finite=True),
            definitions.Field("narrow", DataType.FLOAT32, finite=True),
            definitions.Field("free", DataType.FLOAT64),
        ),
    ),
    2,
)
NAN, INFINITE = float("nan"), float("inf")


def floats(field: str, dtype: DataType, *values: float | None) -> Columns:
    times = (DataType.TIMESTAMP, [1] * len(values))
    return Columns.from_dict({"event_time": times, field: (dtype, list(values))})


@pytest.mark.parametrize(
    ("field", "dtype", "values"),
    [
        ("wide", DataType.FLOAT64, [1.0, NAN]),
        ("wide", DataType.FLOAT32, [1.0, -INFINITE]),
        ("narrow", DataType.FLOAT64, [1.0, INFINITE]),
    ],
)
def test_prepare_finite_field(field: str, dtype: DataType, values: list[float]) -> None:
    """A field that is declared finite takes no NaN and nothing infinite, whatever width it comes in."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        batch.prepare(FINITE, floats(field, dtype, *values), NOW, 0)
    made, refused = batch.prepare(FINITE, floats(field, dtype, *values), NOW, 0, keep_good=True)

    assert caught.value.violations[0].field == f"rows.{field}[1]"
    assert "must be finite" in caught.value.message
    assert (len(made), refused.errors[0].value) == (1, repr(values[1]))


def test_prepare_finite_field_takes_nulls() -> None:
    """Null is no number and is taken; a field without the rule takes everything."""
    for field, values in (("wide", [None, 1.0]), ("free", [NAN, INFINITE])):
        _, refused = batch.prepare(FINITE, floats(field, DataType.FLOAT64, *values), NOW, 0)
        assert refused == refusal.NOTHING
