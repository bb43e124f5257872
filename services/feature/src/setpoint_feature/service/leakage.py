"""Checks of training tables against the history."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_columns import Column, Columns
from setpoint_feature import ports
from setpoint_feature.domain import (
    aggregating,
    history,
    leakage,
    plan,
    registration,
    retention,
    visibility,
)
from setpoint_feature.service import joining, snapshot
from setpoint_runtime import errors

KEYS_AT_ONCE: Final = 5_000
_FIELD: Final = "table"


@dataclass(frozen=True, slots=True)
class Claim:
    """Which stored field a column of a table claims to hold."""

    column: str
    view: str
    field: str
    key_columns: Mapping[str, str]


class LeakageChecker:
    """Compares training tables with what was known."""

    def __init__(self, store: ports.HistoryStore, known: snapshot.Snapshot) -> None:
        """Uses the history."""
        self._store = store
        self._known = known

    async def check(
        self, claims: Sequence[Claim], table: Columns, time_column: str
    ) -> list[leakage.Finding]:
        """Judges the claimed columns, in order.

        Raises:
            InvalidArgumentError: A column, field or key is missing or of another type.
            NotFoundError: FEATURE_VIEW_NOT_FOUND.
            OutOfRangeError: HISTORY_REMOVED, when rows that were known at a time of the table are gone.
            UnavailableError: HISTORY_REMOVED, when they went while the table was judged.
        """
        if not claims:
            raise errors.invalid("columns", 0, "must name a column", errors.Reason.MISSING_FIELD)
        times = joining.spine_times(table, time_column, _FIELD)
        last = await self._store.last_sequences()
        return [
            await self._judge(claim, f"columns[{index}]", table, (time_column, times), last)
            for index, claim in enumerate(claims)
        ]

    async def _judge(
        self,
        claim: Claim,
        path: str,
        table: Columns,
        named_times: tuple[str, visibility.Times],
        last: Mapping[int, int],
    ) -> leakage.Finding:
        time_column, times = named_times
        view = await self._known.find(lambda found: found.view(claim.view))
        aggregating.refuse(view.view, f"{path}.view")
        field = view.view.field_index(claim.field)
        if field is None:
            rule = f"must be a field of the view {claim.view}"
            raise errors.invalid(f"{path}.field", claim.field, rule, errors.Reason.UNKNOWN_FIELD)
        mapping = registration.resolve_keys(view.view, claim.key_columns, f"{path}.key_columns")
        column = _values(table, claim, path, view, field)
        keys = view.codec.encode(table, mapping, _FIELD)
        numbers = history.KeyNumbers()
        wanted = list(dict.fromkeys(key for key in keys if key is not None))
        numbers.assign(wanted)
        upto = last.get(view.number, 0)
        past = await load(self._store, view, wanted, upto)
        kept = await self._store.retained()
        retention.check(view, (), times, kept, f"{_FIELD}.{time_column}")
        retention.check_reach(view, upto, kept)
        found = numbers.find(keys)
        return await asyncio.to_thread(leakage.judge, past, field, found, times, column)


async def load(
    store: ports.HistoryStore, view: plan.CompiledView, wanted: Sequence[bytes], upto: int
) -> history.Past:
    """Returns all stored rows of some keys, numbered by their places."""
    parts = []
    key_numbers = [np.zeros(0, np.int64)]
    for start in range(0, len(wanted), KEYS_AT_ONCE):
        some = wanted[start : start + KEYS_AT_ONCE]
        page = await store.read_keys(view.number, some, upto)
        parts.append(page.rows)
        key_numbers.append(page.keys + start)
    joined = np.concatenate(key_numbers)
    return await asyncio.to_thread(history.Past, view, view.rule, joined, parts)


def _values(table: Columns, claim: Claim, path: str, view: plan.CompiledView, field: int) -> Column:
    column = table.by_name.get(claim.column)
    if column is None:
        rule = "must be a column of the table"
        raise errors.invalid(f"{path}.column", claim.column, rule, errors.Reason.MISSING_FIELD)
    return column.cast(view.view.fields[field].dtype)
