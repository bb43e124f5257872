"""The pure parts of the replay, of quality and of the summary."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setpoint_demo import feed, quality, replay, summary


@given(st.integers(1, 500), st.floats(0.01, 1.0))
def test_sample_takes_the_share_in_order(rows: int, share: float) -> None:
    """The sample has the share's size and keeps the order."""
    taken = replay.sample(pl.DataFrame({"number": range(rows)}), share)["number"].to_list()
    assert taken == sorted(set(taken))
    assert len(taken) == int(np.floor(rows * share))


def test_request_names_null_tail_numbers() -> None:
    """An unknown aircraft is an explicit null, not an absent key."""
    row = {
        "carrier": "UA",
        "origin": "EWR",
        "destination": "IAH",
        "tailnum": None,
        "scheduled_hour": 5,
        "weekday": 2,
        "distance": 1400.0,
        "flight_id": "f1",
        "question": 1_000_000,
    }
    request = replay.request_of(row)
    assert request.entities["tailnum"].WhichOneof("kind") == "null_value"
    assert request.inputs["distance"].double_value == 1400.0
    assert request.assignment_key == "f1"


def test_feed_gives_each_row_once() -> None:
    """Rows leave the feed when they are known, in order, once."""
    times = pl.Series([10, 20, 20, 30], dtype=pl.Int64).cast(pl.Datetime("us"))
    source = feed.Feed("view", pl.DataFrame({"created_time": times, "row": [0, 1, 2, 3]}))
    taken = [source.take_until(time)["row"].to_list() for time in (5, 20, 20, 100, 100)]
    assert taken == [[], [0, 1, 2], [], [3], []]


def test_measure_known_rows() -> None:
    """Log loss and area are what paper and pencil give."""
    found = quality.measure(np.array([0.8, 0.4, 0.3]), np.array([True, False, True]))
    assert found.log_loss == pytest.approx(-np.mean(np.log([0.8, 0.6, 0.3])))
    assert found.roc_auc == pytest.approx(0.5)
    assert found.rows == 3


def test_summary_writes_figures_it_has(tmp_path: Path) -> None:
    """What could not be measured is null in the file, and a lost record makes it incomplete."""
    month = summary.Month(
        4, 10, 0, 0.2, [1], quality.Quality(0.5, float("nan"), 0), quality.Quality(0.5, 0.7, 0), 0
    )
    told = summary.Summary(
        predictions_answered=10,
        predictions_failed=0,
        records_written=9,
        outcomes_delivered=0,
        feature_rows_written=0,
        versions=[],
        rollout=[],
        months=[month],
        alerts=[],
        predictions_per_s=1.0,
        p50_ms=1.0,
        p99_ms=1.0,
        seconds=1.0,
        explained_prediction_id="",
    )
    told.write(tmp_path / "deep" / "summary.json")
    read = json.loads((tmp_path / "deep" / "summary.json").read_text())
    assert read["months"][0]["serving"]["roc_auc"] is None
    assert read["records_written"] == 9
    assert not told.complete
