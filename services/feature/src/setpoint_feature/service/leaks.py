"""Which columns of a training table know too much, and how their values got in."""

import asyncio
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregating,
    assemble,
    definitions,
    history,
    leakage,
    plan,
    registration,
    retention,
    visibility,
)
from setpoint_feature.service import joining, snapshot
from setpoint_feature.service import leakage as checking
from setpoint_runtime import errors

MAX_ROWS: Final = 100_000
HELD: Final = 0.95
"""A column is taken for a stored field when it holds values of its entity in so many of its rows,"""
BY_CHANCE: Final = 0.8
"""and values of other entities, dealt out at random, in at most so large a part of that."""
_FIELD: Final = "table"
_NUMBERS: Final = {DataType.INT32, DataType.INT64, DataType.FLOAT32, DataType.FLOAT64}


class Origin(enum.IntEnum):
    """Why a column is judged; the numbers equal those of the protocol's enum."""

    CLAIMED = 1
    FEATURE_SET = 2
    JOINED = 3
    FOUND = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """What a table is judged by."""

    feature_set: str
    version: str
    claims: Sequence[checking.Claim]
    time_column: str
    arrival: bool
    """False judges the join as of event time alone."""
    find_columns: bool


@dataclass(slots=True)
class Target:
    """One column that is judged, and what was found so far."""

    column: str
    origin: Origin
    view: plan.CompiledView
    field: int
    key_columns: Mapping[str, str]
    path: str
    held_share: float = 1.0
    measured: leakage.Measured = dataclasses.field(default_factory=leakage.Measured)

    @property
    def name(self) -> str:
        """The stored field, as people write it."""
        return f"{self.view.view.name}.{self.view.view.fields[self.field].name}"


class LeakMeter:
    """Measures training tables."""

    def __init__(self, store: ports.HistoryStore, known: snapshot.Snapshot) -> None:
        """Uses the history and the known definitions."""
        self._store = store
        self._known = known

    async def begin(self, ask: Ask, first: Columns) -> "Measurement":
        """Begins with a table, whose first piece tells which columns it has.

        Raises:
            NotFoundError: FEATURE_SET_NOT_FOUND, FEATURE_VIEW_NOT_FOUND.
            InvalidArgumentError: A column, field or key is missing, or nothing is asked.
        """
        targets = [await self._claimed(claim, at) for at, claim in enumerate(ask.claims)]
        taken = {target.column for target in targets}
        if ask.feature_set:
            compiled = await self._known.find(lambda all_: all_.plan(ask.feature_set, ask.version))
            targets += [each for each in _of_set(compiled, first) if each.column not in taken]
        if not targets and not ask.find_columns:
            rule = "must be given, or columns, or find_columns"
            raise errors.invalid("feature_set", "", rule, errors.Reason.MISSING_FIELD)
        measurement = Measurement(ask, self._store, targets, await self._store.last_sequences())
        if ask.find_columns:
            catalog = self._known.catalog
            measurement.views = [catalog.view(name) for name in catalog.views.latest]
        return measurement

    async def _claimed(self, claim: checking.Claim, at: int) -> Target:
        view = await self._known.find(lambda all_: all_.view(claim.view))
        aggregating.refuse(view.view, f"columns[{at}].view")
        position = view.view.field_index(claim.field)
        if position is None:
            rule = f"must be a field of the view {claim.view}"
            path = f"columns[{at}].field"
            raise errors.invalid(path, claim.field, rule, errors.Reason.UNKNOWN_FIELD)
        path = f"columns[{at}].key_columns"
        keys = registration.resolve_keys(view.view, claim.key_columns, path)
        return Target(claim.column, Origin.CLAIMED, view, position, keys, f"columns[{at}].column")


def _of_set(compiled: plan.Plan, table: Columns) -> list[Target]:
    """Returns the features of a set: as columns of the table, or as the join would give them."""
    targets = []
    for group in compiled.groups:
        if group.view.blueprint is not None:
            # Windows know no single stored value that a column could have taken from later.
            continue
        for position, place in zip(group.fields, group.places, strict=True):
            name = compiled.columns[place]
            origin = Origin.FEATURE_SET if name in table else Origin.JOINED
            targets.append(
                Target(name, origin, group.view, position, group.key_columns, f"{_FIELD}.{name}")
            )
    return sorted(targets, key=lambda each: compiled.columns.index(each.column))


class Measurement:
    """One table, piece after piece."""

    def __init__(
        self,
        ask: Ask,
        store: ports.HistoryStore,
        targets: list[Target],
        last: Mapping[int, int],
    ) -> None:
        """Prepares; made by `LeakMeter`."""
        self._ask = ask
        self._store = store
        self._last = last
        self.targets = targets
        self.views: Sequence[plan.CompiledView] = ()
        """Those whose fields are looked for in the first piece that has rows."""
        self.rows = 0

    async def add(self, table: Columns) -> None:
        """Judges a piece of the table.

        Raises:
            InvalidArgumentError: A column or key is missing or of another type, or there are too many rows.
            OutOfRangeError: HISTORY_REMOVED, when rows that were known at a time of the table are gone.
            UnavailableError: HISTORY_REMOVED, when they went while the table was measured.
        """
        if table.rows > MAX_ROWS:
            rule = f"must be at most {MAX_ROWS}"
            raise errors.invalid(f"{_FIELD}.rows", table.rows, rule, errors.Reason.TOO_LARGE)
        times = joining.spine_times(table, self._ask.time_column, _FIELD)
        self.rows += table.rows
        if self.views and table.rows:
            views, self.views = self.views, ()
            await self._find(table, views, times)
        for targets in _by_lookup(self.targets):
            first = targets[0]
            past, keys = await self._past(first.view, first.key_columns, table, times)
            for target in targets:
                column = self._values(target, table, past, keys, times)
                await asyncio.to_thread(
                    leakage.measure, target.measured, past, target.field, keys, times, column
                )

    def _values(
        self,
        target: Target,
        table: Columns,
        past: history.Past,
        keys: npt.NDArray[np.int64],
        times: visibility.Times,
    ) -> Column:
        """Returns the column to judge: that of the table, or that which the join would give."""
        if target.origin is not Origin.JOINED:
            column = table.by_name.get(target.column)
            if column is None:
                rule = "must be a column of the table"
                raise errors.invalid(target.path, target.column, rule, errors.Reason.MISSING_FIELD)
            return column.cast(target.view.view.fields[target.field].dtype)
        asked = past
        if not self._ask.arrival:
            rule_of_join = visibility.Rule.of(target.view.view, arrival=False)
            asked = history.Past(target.view, rule_of_join, past.keys, [past.rows])
        winners = assemble.join(asked, keys, times)
        is_fresh = winners.codes == visibility.FRESH
        starts = np.where(is_fresh, winners.starts, winners.defaults)
        (column,) = target.view.layout.unpack(winners.data, starts, (target.field,))
        # A default was made by nobody who could have known anything.
        valid = is_fresh if column.validity is None else is_fresh & column.validity
        return Column(column.name, column.dtype, column.values, column.offsets, valid, column.rows)

    async def _find(
        self, table: Columns, views: Sequence[plan.CompiledView], times: visibility.Times
    ) -> None:
        """Adds the columns of the table that hold stored fields, to the targets."""
        known = {target.column for target in self.targets} | {self._ask.time_column}
        keys = {key.name for view in views for key in view.view.keys}
        left = [each for each in table.columns if each.name not in known | keys]
        best: dict[str, Target] = {}
        for view in views:
            if (
                view.blueprint is not None
                or not view.view.keys
                or any(key.name not in table for key in view.view.keys)
            ):
                continue
            past, numbers = await self._past(view, {}, table, times)
            found = await asyncio.to_thread(_matches, view, past, numbers, left)
            for target in found:
                earlier = best.get(target.column)
                if earlier is None or _rank(target) > _rank(earlier):
                    best[target.column] = target
        self.targets += [best[each.name] for each in left if each.name in best]

    async def _past(
        self,
        view: plan.CompiledView,
        key_columns: Mapping[str, str],
        table: Columns,
        times: visibility.Times,
    ) -> tuple[history.Past, npt.NDArray[np.int64]]:
        """Returns all stored rows of the table's entities, and the number of each row's entity.

        Raises:
            OutOfRangeError: HISTORY_REMOVED: they lack some that were known at a time of the table.
            UnavailableError: HISTORY_REMOVED.
        """
        keys = await asyncio.to_thread(view.codec.encode, table, key_columns, _FIELD)
        wanted = list(dict.fromkeys(key for key in keys if key is not None))
        upto = self._last.get(view.number, 0)
        past = await checking.load(self._store, view, wanted, upto)
        kept = await self._store.retained()
        retention.check(view, (), times, kept, f"{_FIELD}.{self._ask.time_column}")
        retention.check_reach(view, upto, kept)
        numbers: dict[bytes | None, int] = {key: place for place, key in enumerate(wanted)}
        numbers[None] = -1
        return past, np.array([numbers[key] for key in keys], np.int64)


def _by_lookup(targets: Sequence[Target]) -> list[list[Target]]:
    """Returns targets that read the same rows together."""
    found: dict[object, list[Target]] = {}
    for target in targets:
        key = target.view.number, tuple(sorted(target.key_columns.items()))
        found.setdefault(key, []).append(target)
    return list(found.values())


def _matches(
    view: plan.CompiledView,
    past: history.Past,
    keys: npt.NDArray[np.int64],
    columns: Sequence[Column],
) -> list[Target]:
    """Returns the columns that hold a field of a view far more often than by chance."""
    found = []
    dealt = np.random.default_rng(0).permutation(keys)
    for column in columns:
        for position, each in enumerate(view.view.fields):
            same = _as(column, each)
            if same is None:
                continue
            share = leakage.held_share(past, position, keys, same)
            if share < HELD:
                continue
            if leakage.held_share(past, position, dealt, same) <= share * BY_CHANCE:
                path = f"{_FIELD}.{column.name}"
                found.append(Target(column.name, Origin.FOUND, view, position, {}, path, share))
    return found


def _as(column: Column, of: definitions.Field) -> Column | None:
    """Returns a column in the type of a field, None where it has no form in it."""
    if column.dtype is not of.dtype and not {column.dtype, of.dtype} <= _NUMBERS:
        return None
    try:
        return column.cast(of.dtype)
    except errors.InvalidArgumentError:
        return None


def _rank(target: Target) -> tuple[float, bool, str]:
    """Orders fields that a column may hold: the one that it holds most often, then of the same name."""
    same_name = target.view.view.fields[target.field].name == target.column
    return round(target.held_share, 3), same_name, target.name
