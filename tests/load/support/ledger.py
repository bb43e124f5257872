"""Accounts with 20 numbers that change every day: what the feature benchmark writes and joins."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

KEY = "account_id"
EVENT_TIME, CREATED_TIME = "event_time", "created_time"
FIELDS = tuple(f"number_{place:02}" for place in range(20))
DAYS = 10
"""Rows of each account, one a day."""

BEGIN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
_DAY = 86_400_000_000
_BEGIN = int(BEGIN.timestamp()) * 1_000_000
_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class Ledger:
    """So many accounts; the same numbers each time it is made."""

    accounts: int
    seed: int = 20

    @property
    def rows(self) -> int:
        """Rows of the whole history."""
        return self.accounts * DAYS

    def days(self) -> Iterator[pl.DataFrame]:
        """Yields the history day by day: a row of every account, at some time of the day, by account.

        A value is known as soon as it is true. Who does not keep the time of arrival, or does not
        heed it, can therefore give the same answers.
        """
        random = np.random.default_rng(self.seed)
        for day in range(DAYS):
            moments = random.integers(0, _DAY, self.accounts) + (_BEGIN + day * _DAY)
            numbers = random.normal(0, 3, (self.accounts, len(FIELDS))).astype(np.float32)
            columns = {
                KEY: pl.Series(np.arange(self.accounts), dtype=pl.Int64),
                EVENT_TIME: _times(moments),
                CREATED_TIME: _times(moments),
            }
            fields = {name: numbers[:, place] for place, name in enumerate(FIELDS)}
            yield pl.DataFrame(columns | fields)

    def history(self) -> pl.DataFrame:
        """Returns the whole history in the order of its times."""
        return pl.concat(self.days()).sort(EVENT_TIME, maintain_order=True)

    def spine(self, rows: int) -> pl.DataFrame:
        """Returns accounts and times to ask about, in the order of the times, none of them twice.

        Each account has a row by then: Feast's file store leaves out those of which it knows nothing,
        and of two that are equal.
        """
        random = np.random.default_rng(self.seed + 1)
        moments = _BEGIN + random.integers(_DAY, DAYS * _DAY, 2 * rows)
        moments = random.permutation(np.unique(moments))[:rows]
        keys = random.integers(self.accounts, size=rows)
        return pl.DataFrame({KEY: keys, EVENT_TIME: _times(np.sort(moments))})

    def questions(self, count: int, accounts: int) -> list[npt.NDArray[np.int64]]:
        """Returns different accounts to ask about at once, so many times."""
        random = np.random.default_rng(self.seed + 2)
        return [random.choice(self.accounts, accounts, replace=False) for _ in range(count)]


def latest(history: pl.DataFrame) -> pl.DataFrame:
    """Returns the last row of each account, in the order of the accounts."""
    return history.group_by(KEY).last().sort(KEY)


def joined(history: pl.DataFrame, spine: pl.DataFrame) -> pl.DataFrame:
    """Returns the spine with the row of its account that was the last one by then."""
    values = history.drop(CREATED_TIME)
    return spine.join_asof(values, on=EVENT_TIME, by=KEY, check_sortedness=False)


def _times(microseconds: npt.NDArray[np.int64]) -> pl.Series:
    return pl.Series(microseconds, dtype=pl.Int64).cast(_TIME)
