"""The history as streams of feature rows: what arrived when, one frame for each view.

Every frame has its view's key columns, ``event_time`` (when a row is true), ``created_time`` (when it
was known), both in UTC, and the fields, and is sorted by ``created_time``. Nothing in a row was unknown at its
created_time; the lateness shares count landed flights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from setpoint_demo import flights

SHARE_EVERY = timedelta(hours=2)
"""How often the lateness shares are computed anew."""

SHARE_WINDOWS: Mapping[str, timedelta] = {
    "late_share_24h": timedelta(hours=24),
    "late_share_7d": timedelta(days=7),
}

YEAR_BEGINS = datetime(2013, 1, 1)  # noqa: DTZ001 - frames hold UTC without a zone
"""The aircraft register is taken as known from here on."""


def streams(history: flights.History) -> dict[str, pl.DataFrame]:
    """Makes the frame of every view, by the view's name."""
    landed = history.flights.filter(pl.col("landing_time").is_not_null()).sort("landing_time")
    frames = {
        "carrier_lateness": lateness(landed, "carrier"),
        "origin_lateness": lateness(landed, "origin"),
        "weather": history.weather.rename(
            {"observed_time": "event_time", "arrival_time": "created_time"}
        ),
        "last_landing": _last_landing(landed),
        "aircraft": _aircraft(history.aircraft),
        "scheduled_flight": _scheduled(history.flights),
        "departed_flight": _departed(history.flights),
        "landed_flight": _landed(landed),
    }
    in_utc = pl.col("event_time", "created_time").dt.replace_time_zone("UTC")
    return {name: frame.with_columns(in_utc) for name, frame in frames.items()}


def lateness(landed: pl.DataFrame, key: str) -> pl.DataFrame:
    """Computes the share of late arrivals of the last 24 hours and 7 days, every two hours.

    Args:
        landed: Landed flights by landing_time, with the key column and ``late``.
        key: The column to group by.

    Returns:
        key, event_time, created_time, one share for each window (null where no flight landed in it)
        and the number of landings of the last 24 hours. A window at time t is (t - length, t].
    """
    times = landed["landing_time"].to_numpy()
    start = times.min().astype("datetime64[h]") + np.timedelta64(SHARE_EVERY)
    marks = np.arange(start, times.max(), np.timedelta64(SHARE_EVERY), dtype="datetime64[us]")
    frames = [
        _lateness_of(str(name), group, marks, key)
        for (name,), group in landed.group_by(key, maintain_order=True)
    ]
    return pl.concat(frames).sort("created_time", key)


def _lateness_of(name: str, group: pl.DataFrame, marks: np.ndarray, key: str) -> pl.DataFrame:
    times = group["landing_time"].to_numpy()
    late_before = np.concatenate([[0], np.cumsum(group["late"].to_numpy())])
    until = np.searchsorted(times, marks, "right")
    columns: dict[str, np.ndarray] = {}
    for field, length in SHARE_WINDOWS.items():
        since = np.searchsorted(times, marks - np.timedelta64(length), "right")
        count = until - since
        share = (late_before[until] - late_before[since]) / np.maximum(count, 1)
        columns[field] = np.where(count > 0, share, np.nan)
        if field == "late_share_24h":
            columns["landings_24h"] = count
    frame = pl.DataFrame({"event_time": marks, "created_time": marks, **columns}, nan_to_null=True)
    return frame.select(
        pl.lit(name).alias(key),
        "event_time",
        "created_time",
        *SHARE_WINDOWS,
        pl.col("landings_24h").cast(pl.Float64),
    )


def _last_landing(landed: pl.DataFrame) -> pl.DataFrame:
    return landed.filter(pl.col("tailnum").is_not_null()).select(
        "tailnum",
        event_time="landing_time",
        created_time="landing_time",
        previous_arrival_delay="arrival_delay",
    )


def _aircraft(aircraft: pl.DataFrame) -> pl.DataFrame:
    begins = pl.lit(YEAR_BEGINS).cast(pl.Datetime("us"))
    return aircraft.select(
        "tailnum",
        event_time=begins,
        created_time=begins,
        built_year="built_year",
        seats="seats",
        engines="engines",
        aircraft_type="aircraft_type",
    )


def _scheduled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(
        "flight_id",
        event_time="question_time",
        created_time="question_time",
        carrier="carrier",
        origin="origin",
        destination="destination",
        tailnum="tailnum",
        scheduled_hour="scheduled_hour",
        weekday="weekday",
        distance="distance",
    )


def _departed(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.filter(pl.col("departure_time").is_not_null())
        .select(
            "flight_id",
            event_time="departure_time",
            created_time="departure_time",
            departure_delay="departure_delay",
        )
        .sort("created_time", "flight_id")
    )


def _landed(landed: pl.DataFrame) -> pl.DataFrame:
    return landed.select(
        "flight_id",
        event_time="landing_time",
        created_time="landing_time",
        late="late",
        arrival_delay="arrival_delay",
    )
