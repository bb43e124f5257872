"""Versions assigned to a year of real keys: as many as asked, and independently under each salt."""

import zipfile

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy import stats

from setpoint_columns import interop
from setpoint_demo import flights
from setpoint_router.domain import assignment

SALTS = ("flight_late", "flight_late:pricing", "1", "2", "größe")
UNLIKELY = 1e-4
"""Keys and salts are fixed, so a test with p-values comes out the same every time."""


@pytest.fixture(scope="module")
def keys() -> dict[str, pl.Series]:
    """What a year's flights from New York are known by, and the aircraft that flew them."""
    parts = ("carrier", "flight", "origin", "dest", "time_hour")
    with zipfile.ZipFile(flights.data_folder() / "flights.csv.zip") as archive:
        table = pl.read_csv(
            archive.read("flights.csv"),
            columns=[*parts, "tailnum"],
            null_values="NA",
            infer_schema=False,
        )
    named = table.select(pl.concat_str(parts, separator="|").alias("flight"))
    return {
        "flight": named["flight"].unique(maintain_order=True),
        "aircraft": table["tailnum"].drop_nulls().unique(maintain_order=True),
    }


def slots(salt: str, keys: pl.Series) -> npt.NDArray[np.int32]:
    """Returns the slots of keys."""
    column = interop.from_polars(keys.cast(pl.String).to_frame("key"))["key"]
    return assignment.slots_of_texts(salt, *column.text_bounds())


@pytest.mark.parametrize("salt", SALTS)
@pytest.mark.parametrize(("kind", "bins"), [("flight", 10_000), ("flight", 20), ("aircraft", 100)])
def test_real_keys_fall_evenly(keys: dict[str, pl.Series], salt: str, kind: str, bins: int) -> None:
    """Proves by chi-square that slots, and canaries of a twentieth, get their share of real keys."""
    counts = np.bincount(slots(salt, keys[kind]) * bins // assignment.SLOTS, minlength=bins)
    assert len(keys[kind]) > 3_000
    assert stats.chisquare(counts).pvalue > UNLIKELY
    assert counts.min() > 0


@pytest.mark.parametrize("other", SALTS[1:])
def test_salts_are_uncorrelated_on_real_keys(keys: dict[str, pl.Series], other: str) -> None:
    """Proves that the slot under one salt says nothing of the slot under another, however alike."""
    first, second = slots(SALTS[0], keys["flight"]), slots(other, keys["flight"])
    assert stats.pearsonr(first, second).pvalue > UNLIKELY
    table = np.histogram2d(first, second, bins=20, range=[[0, 10_000], [0, 10_000]])[0]
    assert stats.chi2_contingency(table).pvalue > UNLIKELY


def test_alike_keys_are_uncorrelated(keys: dict[str, pl.Series]) -> None:
    """Proves that keys that differ in a character or two spread as any others do."""
    found = slots(SALTS[0], keys["flight"].sort())
    assert stats.pearsonr(found[:-1], found[1:]).pvalue > UNLIKELY
