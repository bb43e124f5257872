"""The flights as streams: nothing is known before it can be."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setpoint_demo import definitions, flights, streams

BEGIN = datetime(2013, 5, 1)  # noqa: DTZ001 - frames hold UTC without a zone


@pytest.fixture(scope="module")
def history() -> flights.History:
    """The whole year, as the package ships it."""
    return flights.read_history()


def test_read_history_counts_the_year(history: flights.History) -> None:
    """The figures that are published of the data are met."""
    assert history.flights.height == 336_776
    assert history.flights["late"].null_count() == 9_430
    assert history.flights["late"].mean() == pytest.approx(0.2371, abs=1e-4)
    assert history.flights["flight_id"].n_unique() == 336_776
    assert history.weather.height == 26_115
    assert history.aircraft.height == 3_322


def test_questions_come_before_departure(history: flights.History) -> None:
    """Each question is asked less than an hour before the flight is scheduled, never after."""
    ahead = history.flights["scheduled_time"] - history.flights["question_time"]
    assert ahead.min() >= timedelta(0)  # type: ignore[operator]  # polars types min() broadly
    assert ahead.max() < flights.QUESTION_EVERY  # type: ignore[operator]  # the same


def test_outcomes_exist_exactly_for_landed_flights(history: flights.History) -> None:
    """A flight has a label if and only if it has a landing time."""
    frame = history.flights
    assert (frame["late"].is_null() == frame["landing_time"].is_null()).all()


def test_outcomes_are_known_at_the_gate(history: flights.History) -> None:
    """An arrival lies after take-off, flight and a while of taxiing, never before."""
    frame = history.flights.filter(pl.col("landing_time").is_not_null())
    airborne = pl.duration(minutes=pl.col("air_time"))
    taxiing = frame.select(
        (pl.col("landing_time") - pl.col("departure_time") - airborne).dt.total_minutes()
    ).to_series()
    assert 20 <= taxiing.median() <= 40  # type: ignore[operator]  # polars types it broadly
    assert (taxiing >= 0).all()
    assert (taxiing >= 5).mean() > 0.999  # type: ignore[operator]  # the same
    assert taxiing.max() < 300  # type: ignore[operator]  # the same


def test_streams_hold_every_view_and_its_fields(history: flights.History) -> None:
    """Frames and definitions agree, sorted by when rows became known, none before it was true."""
    frames = streams.streams(history)
    keys = {each.name: [key.name for key in each.keys] for each in definitions.ENTITIES}
    assert set(frames) == {view.name for view in definitions.VIEWS}
    for view in definitions.VIEWS:
        frame = frames[view.name]
        fields = [field.name for field in view.fields]
        expected = {*keys[view.entity], "event_time", "created_time", *fields}
        assert set(frame.columns) == expected
        assert frame["created_time"].is_sorted()
        assert (frame["created_time"] >= frame["event_time"]).all()


def _landed(rows: list[tuple[int, bool]]) -> pl.DataFrame:
    ordered = sorted(rows)
    times = [BEGIN + timedelta(minutes=minute) for minute, _ in ordered]
    return pl.DataFrame(
        {
            "landing_time": pl.Series(times, dtype=pl.Datetime("us")),
            "carrier": ["UA"] * len(ordered),
            "late": [late for _, late in ordered],
        }
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12 * 24 * 60), st.booleans()), min_size=2, max_size=60))
def test_lateness_equals_brute_force(rows: list[tuple[int, bool]]) -> None:
    """Each share counts the flights landed in (t - window, t], no other."""
    landed = _landed(rows)
    frame = streams.lateness(landed, "carrier")
    times, late = landed["landing_time"].to_list(), landed["late"].to_list()
    for row in frame.sample(min(10, frame.height), seed=1).to_dicts():
        for field, length in streams.SHARE_WINDOWS.items():
            since, until = row["event_time"] - length, row["event_time"]
            counted = [
                flag for time, flag in zip(times, late, strict=True) if since < time <= until
            ]
            share = np.mean(counted) if counted else None
            assert row[field] == (None if share is None else pytest.approx(share))
