"""What the feature benchmark found, and the rows of its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.load.support import figures, ledger
from tests.load.support.measures import Measure
from tests.load.support.peers import feast_project
from tests.load.support.rates import Reading

OURS, MGET, POLARS = "Setpoint", "one MGET", "polars join_asof"
FEAST_ONLINE = tuple(f"Feast by {form}" for form in feast_project.ONLINE)
FEAST_OFFLINE = tuple(f"Feast with {form}" for form in feast_project.OFFLINE)
TIMES_LARGER = 10
"""The large history, than the small one."""
ROWS_FOR_ONE = 10
"""Rows of history for each row of the spine, of both."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    rounds: int
    seconds: float
    accounts: int
    spine: int
    small_accounts: int


@dataclass(slots=True)
class Found:
    """What the rounds gave, a list for each side."""

    online: dict[str, list[Reading]] = field(default_factory=dict)
    """By "side, entities at once, callers"."""
    joins: dict[str, list[float]] = field(default_factory=dict)
    """Rows a second of a side."""
    writes: dict[str, list[float]] = field(default_factory=dict)
    """Rows a second, by the number of writers."""
    small: list[float] = field(default_factory=list)
    """Seconds of a join with the small history."""
    large: list[float] = field(default_factory=list)
    """Seconds of ten times as large a join, in the same rounds."""
    peak_bytes: int = 0
    """Of the feature service, from its start."""


def turn_name(side: str, entities: int, callers: int) -> str:
    """Names what one side does in a turn."""
    return f"{side}, {entities} at once, {callers} callers"


def best(readings: Mapping[str, list[Reading]], sides: Sequence[str], entities: int) -> str:
    """Returns the turn in which one of some sides tells most: its form and its number of callers."""
    beginnings = tuple(f"{side}, {entities} at once, " for side in sides)
    names = [name for name in readings if name.startswith(beginnings)]
    return max(names, key=lambda name: figures.Spread.of(_rates(readings[name])).middle)


def quickest(readings: Mapping[str, list[Reading]], sides: Sequence[str], entities: int) -> str:
    """Returns the turn in which one of some sides answers soonest, with one caller."""
    names = [turn_name(side, entities, 1) for side in sides]
    return min(
        (name for name in names if name in readings),
        key=lambda name: figures.Spread.of(_times(readings[name])).middle,
    )


def _rates(readings: Sequence[Reading]) -> list[float]:
    return [each.rate for each in readings]


def _times(readings: Sequence[Reading]) -> list[float]:
    return [each.p50_ms for each in readings]


def measures(found: Found, size: Size) -> list[Measure]:
    """Returns the rows of the table: the goals first, then what they are made of."""
    return [*_goals(found, size), *_absolute(found)]


def _goals(found: Found, size: Size) -> list[Measure]:
    has_feast = any(name.startswith(FEAST_ONLINE) for name in found.online)
    rows = []
    if has_feast:
        rows.append(_online_ratio(found, FEAST_ONLINE, 100, 8.0))
    if found.online:
        rows.append(_online_ratio(found, (MGET,), 1000, 0.4))
    if has_feast:
        rows.append(_latency_ratio(found, 1.0))
    # The goal is meant for either of Feast: the store that "file" stands for, and the quicker one.
    goals = [*((side, 15.0) for side in FEAST_OFFLINE), (POLARS, 0.35)]
    rows += [_join_ratio(found, side, goal) for side, goal in goals if side in found.joins]
    if found.small and found.large:
        rows += _large(found, size)
    if found.writes:
        rows.append(_written(found))
    return rows


def _online_ratio(found: Found, sides: Sequence[str], entities: int, goal: float) -> Measure:
    above, below = best(found.online, (OURS,), entities), best(found.online, sides, entities)
    spread = figures.ratio(_rates(found.online[above]), _rates(found.online[below]))
    rate = figures.Spread.of(_rates(found.online[below])).middle
    return Measure(
        f"online, {entities:,} entities over gRPC / {below.split(',')[0]}, entities/s",
        spread.middle,
        "1",
        goal,
        ">=",
        f"{_callers(above)} / {_callers(below)}; {rate:,.0f} entities/s; {_rounds_of(spread)}",
    )


def _callers(name: str) -> str:
    return name.rpartition(", ")[2]


def _latency_ratio(found: Found, goal: float) -> Measure:
    below = quickest(found.online, FEAST_ONLINE, 1)
    theirs = _times(found.online[below])
    spread = figures.ratio(_times(found.online[turn_name(OURS, 1, 1)]), theirs)
    return Measure(
        f"online, 1 entity over gRPC / {below.split(',')[0]}, p50 at one caller",
        spread.middle,
        "1",
        goal,
        "<=",
        f"{figures.Spread.of(theirs).middle:.2f} ms; {_rounds_of(spread)}",
    )


def _join_ratio(found: Found, side: str, goal: float) -> Measure:
    spread = figures.ratio(found.joins[OURS], found.joins[side])
    rate = figures.Spread.of(found.joins[side]).middle
    return Measure(
        f"point-in-time join / {side}, spine rows/s",
        spread.middle,
        "1",
        goal,
        ">=",
        f"{rate:,.0f} rows/s; {_rounds_of(spread)}",
    )


def _large(found: Found, size: Size) -> list[Measure]:
    history = size.small_accounts * TIMES_LARGER * ledger.DAYS
    spread = figures.ratio(found.large, found.small)
    return [
        Measure(
            f"{history:,} rows of history, {history // ROWS_FOR_ONE:,} of spine: peak memory",
            found.peak_bytes / 2**20,
            "MiB",
            2048.0,
            "<=",
            "the feature service from its start on, writes and online reads included",
        ),
        Measure(
            "time of that join / of one of a tenth of both",
            spread.middle,
            "1",
            11.0,
            "<=",
            f"{figures.Spread.of(found.large).middle:.1f} s; {_rounds_of(spread)}",
        ),
    ]


def _written(found: Found) -> Measure:
    spreads = {writers: figures.Spread.of(each) for writers, each in found.writes.items()}
    writers = max(spreads, key=lambda name: spreads[name].middle)
    spread = spreads[writers]
    return Measure(
        "writes, durable and online",
        spread.middle,
        "rows/s",
        30_000.0,
        ">=",
        f"{writers} writers; rounds {spread.least:,.0f} to {spread.greatest:,.0f}",
    )


def _absolute(found: Found) -> list[Measure]:
    rows = []
    for name, readings in found.online.items():
        spread = figures.Spread.of(_rates(readings))
        p50 = figures.Spread.of(_times(readings)).middle
        told = f"p50 {p50:.2f} ms; rounds {spread.least:,.0f} to {spread.greatest:,.0f}"
        rows.append(Measure(f"online: {name}", spread.middle, "entities/s", None, ">=", told))
    for kind, sides in (("join", found.joins), ("writes, writers", found.writes)):
        for side, each in sides.items():
            spread = figures.Spread.of(each)
            told = f"rounds {spread.least:,.0f} to {spread.greatest:,.0f}"
            rows.append(Measure(f"{kind}: {side}", spread.middle, "rows/s", None, ">=", told))
    return rows


def _rounds_of(spread: figures.Spread) -> str:
    return f"rounds {spread.least:.2f} to {spread.greatest:.2f}"
