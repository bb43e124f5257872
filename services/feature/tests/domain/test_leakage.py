from typing import Any

import numpy as np
import pytest

from setpoint_columns import Column, DataType
from setpoint_feature.domain import definitions, history, leakage, plan, visibility


def judged(
    dtype: DataType,
    stored: list[tuple[int, int, int, Any]],
    table: list[tuple[int, int, Any]],
    *,
    exclusive: bool = False,
) -> leakage.Finding:
    """Judges a table of (key, time, value) against stored (key, event, created, value)."""
    view = plan.CompiledView(definitions.FeatureView("v", "e", (definitions.Field("x", dtype),)), 1)
    packed = view.layout.pack(
        [Column.from_list("x", [row[3] for row in stored], dtype)], len(stored)
    )
    numbers = np.array([row[:3] for row in stored], np.int64).reshape(len(stored), 3)
    starts = np.cumsum([0, *map(len, packed[:-1])], dtype=np.int64)[: len(stored)]
    rows = history.StoredRows(
        numbers[:, 1], numbers[:, 2], np.arange(len(stored)) + 1, b"".join(packed), starts
    )
    past = history.Past(view, visibility.Rule(0, exclusive=exclusive), numbers[:, 0], [rows])
    return leakage.judge(
        past,
        0,
        np.array([row[0] for row in table], np.int64),
        np.array([row[1] for row in table], np.int64),
        Column.from_list("x", [row[2] for row in table], dtype),
    )


def test_judge_value_known_later_is_a_leak() -> None:
    """A value that lands after its row's time is caught, with how much later it was known."""
    found = judged(DataType.FLOAT64, [(0, 100, 130, 7.5)], [(0, 100, 7.5), (0, 130, 7.5)])

    assert (found.values, found.leaked, found.rows) == (2, 1, (0,))
    assert "v.x" in found.message
    assert "30 µs" in found.message


def test_judge_known_value_is_no_leak() -> None:
    """A value that was known, or that nobody ever stored, is none; nulls are not judged."""
    stored = [(0, 10, 10, 1.0), (0, 20, 20, 2.0)]

    found = judged(
        DataType.FLOAT64, stored, [(0, 15, 1.0), (0, 25, 2.0), (0, 15, 9.0), (0, 15, None)]
    )

    assert (found.values, found.leaked) == (3, 0)


def test_judge_same_value_known_and_later_is_no_leak() -> None:
    """A later row that repeats what was known already gives nothing away."""
    found = judged(DataType.INT64, [(0, 10, 10, 1), (0, 20, 20, 1)], [(0, 15, 1)])

    assert found.leaked == 0


def test_judge_other_entities_do_not_count() -> None:
    """An equal value of another entity is a coincidence, as is an unknown entity's."""
    found = judged(DataType.INT64, [(0, 20, 20, 5)], [(1, 15, 5), (-1, 15, 5)])

    assert found.leaked == 0


@pytest.mark.parametrize(
    ("dtype", "early", "late"),
    [
        (DataType.STRING, "on time", "late"),
        (DataType.BOOL, False, True),
        (DataType.INT32, 1, 2),
        (DataType.FLOAT64, 1.0, float("nan")),
        (DataType.TIMESTAMP, 1, 2),
    ],
)
def test_judge_every_type(dtype: DataType, early: Any, late: Any) -> None:
    """Leaks are found in columns of every type; NaN equals NaN."""
    stored = [(0, 10, 10, early), (0, 20, 20, late)]

    found = judged(dtype, stored, [(0, 15, late), (0, 15, early), (0, 20, late)])

    assert found.rows == (0,)


def test_judge_exclusive_boundary() -> None:
    """A value at the row's own time leaks from an exclusive view only."""
    stored = [(0, 10, 10, 1.0)]

    assert judged(DataType.FLOAT64, stored, [(0, 10, 1.0)], exclusive=True).leaked == 1
    assert judged(DataType.FLOAT64, stored, [(0, 10, 1.0)]).leaked == 0


def test_judge_without_history() -> None:
    """A view without rows proves nothing."""
    assert judged(DataType.FLOAT64, [], [(-1, 10, 1.0)]).leaked == 0


def test_judge_shows_the_first_rows_only() -> None:
    """However many rows leak, a few are shown and all are counted."""
    found = judged(DataType.INT64, [(0, 100, 100, 1)], [(0, time, 1) for time in range(50)])

    assert found.leaked == 50
    assert found.rows == tuple(range(leakage.SHOWN_ROWS))
