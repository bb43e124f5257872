import polars as pl
import pytest
from tests.load.support import ledger
from tests.load.support.ledger import Ledger

SMALL = Ledger(50)


@pytest.fixture(scope="module")
def history() -> pl.DataFrame:
    """A whole history."""
    return SMALL.history()


def test_history_has_a_row_a_day(history: pl.DataFrame) -> None:
    """Every account has a row on every day, and rows come in the order of their times."""
    assert history.height == SMALL.rows == 50 * ledger.DAYS
    assert history[ledger.EVENT_TIME].is_sorted()
    days = history.group_by(ledger.KEY).agg(pl.col(ledger.EVENT_TIME).dt.date().n_unique())
    assert days[ledger.EVENT_TIME].to_list() == [ledger.DAYS] * 50


def test_history_is_the_same_again(history: pl.DataFrame) -> None:
    """Two runs compare the same data; another seed gives others."""
    assert history.equals(Ledger(50).history())
    assert not history.equals(Ledger(50, seed=1).history())


def test_spine_asks_what_can_be_answered(history: pl.DataFrame) -> None:
    """Times differ, are in order, and come after the first row of every account."""
    spine = SMALL.spine(300)
    assert spine.height == 300
    times = spine[ledger.EVENT_TIME]
    assert times.is_sorted()
    assert times.n_unique() == 300
    first = history.group_by(ledger.KEY).first()[ledger.EVENT_TIME]
    assert times.min() >= first.max()  # type: ignore[operator]  # Both are times.


def test_joined_takes_the_last_row_by_then(history: pl.DataFrame) -> None:
    """What every side is compared with is what a loop over all rows finds."""
    spine = SMALL.spine(100)
    found = ledger.joined(history, spine)
    assert found.select(spine.columns).equals(spine)
    for row in found.iter_rows(named=True):
        known = history.filter(
            (pl.col(ledger.KEY) == row[ledger.KEY])
            & (pl.col(ledger.EVENT_TIME) <= row[ledger.EVENT_TIME])
        )
        last = known.sort(ledger.EVENT_TIME).row(-1, named=True)
        assert all(row[name] == last[name] for name in ledger.FIELDS)


def test_latest_is_the_last_day(history: pl.DataFrame) -> None:
    """The online store is filled with the last row of each account."""
    found = ledger.latest(history)
    assert found[ledger.KEY].to_list() == list(range(50))
    expected = history.tail(50).sort(ledger.KEY)
    assert found.equals(expected.select(found.columns))


def test_questions_are_about_different_accounts() -> None:
    """No account comes twice in one question, so that nothing is saved by asking once."""
    questions = SMALL.questions(3, 20)
    assert [len(set(each.tolist())) for each in questions] == [20, 20, 20]
