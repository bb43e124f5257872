"""The history of one view for the pieces of one join: settled runs, and the rows that came after."""

import asyncio
import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from setpoint_columns import Columns
from setpoint_feature import ports
from setpoint_feature.domain import assemble, history, key_table, plan, run, run_join, visibility

PAGE_ROWS: Final = 50_000
"""Rows of history read at once."""
KEYS_AT_ONCE: Final = 5_000
FEW_ROWS: Final = 20_000
"""So many recent rows are read whole, however small the spine."""
ROWS_PER_SPINE_ROW: Final = 20
"""Reading a row in the order of the history costs about a twentieth of a look-up by key."""
_FIELD: Final = "spine"


class Budget:
    """How many rows may still be kept in memory."""

    def __init__(self, rows: int) -> None:
        """Starts with all of them."""
        self.rows = rows

    def take(self, rows: int) -> bool:
        """Takes rows from the budget, if there are as many."""
        if rows > self.rows:
            return False
        self.rows -= rows
        return True


@dataclass(frozen=True, slots=True)
class _Tail:
    after: int
    upto: int
    rows: run.Run


class Tails:
    """Recent rows of views as the last joins saw them, so that the next one reads only what is new."""

    def __init__(self, limit: int) -> None:
        """Keeps at most so many rows."""
        self._limit = limit
        self._kept: collections.OrderedDict[int, _Tail] = collections.OrderedDict()

    def find(self, view: int, after: int, upto: int) -> _Tail | None:
        """Returns rows of a view from a sequence on, and not beyond another."""
        found = self._kept.get(view)
        if found is None or found.after != after or found.upto > upto:
            return None
        self._kept.move_to_end(view)
        return found

    def keep(self, view: int, tail: _Tail) -> None:
        """Keeps rows of a view, if they are not too many."""
        before = self._kept.pop(view, None)
        if before is not None and before.after == tail.after and before.upto > tail.upto:
            tail = before
        self._kept[view] = tail
        while sum(len(each.rows) for each in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)


class ViewHistory:
    """The history of one view as it was when a join began."""

    def __init__(
        self,
        store: ports.HistoryStore,
        view: plan.CompiledView,
        upto: int,
        rule: visibility.Rule,
        shared: tuple[Budget, Tails],
    ) -> None:
        """Prepares; the first piece opens what it needs."""
        self._store = store
        self._view = view
        self._upto = upto
        self._rule = rule
        self._budget, self._tails = shared
        self._read = 0
        self._opened: ports.Opened | None = None
        self._tail: run.Run | None = None

    async def join(
        self, group: plan.Group, spine: Columns, times: visibility.Times
    ) -> assemble.Winners:
        """Returns what the history answers for each row of a piece, looked up by a group's key."""
        if self._opened is None:
            self._opened = await self._store.open(self._view.number, self._upto)
        opened = self._opened
        if self._tail is None and self._is_worth_keeping(spine.rows, opened.upto):
            self._tail = await self._load(opened.upto)
        tail = self._tail
        if tail is None:
            wanted = await asyncio.to_thread(self._wanted, group, spine)
            tail = await self._load_window(wanted, times, opened.upto)
        runs = [*opened.runs, tail]
        found = await asyncio.to_thread(self._join, group, spine, times, runs)
        opened.release()
        return found

    def _join(
        self,
        group: plan.Group,
        spine: Columns,
        times: visibility.Times,
        runs: Sequence[run.Run],
    ) -> assemble.Winners:
        table, valid = self._encode(group, spine)
        keys = run_join.SpineKeys(table, table.hashes(), valid)
        return run_join.join(self._view, self._rule, runs, keys, times)

    def _wanted(self, group: plan.Group, spine: Columns) -> list[bytes]:
        """Returns the keys of a piece, each once."""
        table, valid = self._encode(group, spine)
        return sorted(set(table.to_list(None if valid is None else np.flatnonzero(valid))))

    def _encode(
        self, group: plan.Group, spine: Columns
    ) -> tuple[key_table.KeyTable, key_table.Flags | None]:
        return self._view.codec.encode_table(spine, group.key_columns, _FIELD)

    def _is_worth_keeping(self, rows: int, after: int) -> bool:
        """Tells whether to read all recent rows once rather than a part of them for each piece."""
        recent = self._upto - after
        few = recent <= max(FEW_ROWS, rows * ROWS_PER_SPINE_ROW)
        return (few or self._read > recent // 2) and self._budget.take(recent)

    async def _load(self, after: int) -> run.Run:
        """Reads all recent rows, or what is new of them."""
        number = self._view.number
        known = self._tails.find(number, after, self._upto)
        runs = [] if known is None else [known.rows]
        pages = []
        for start in range(after if known is None else known.upto, self._upto, PAGE_ROWS):
            stop = min(start + PAGE_ROWS, self._upto)
            pages.append(await self._store.read_sequences(number, start, stop))
        if known is None or any(page.keys for page in pages):
            found = await asyncio.to_thread(self._built, history.concat_named(pages))
            runs.append(found)
        merged = await asyncio.to_thread(run.Run.merge, runs, [None] * len(runs))
        self._tails.keep(number, _Tail(after, self._upto, merged))
        return merged

    async def _load_window(
        self, wanted: list[bytes], times: visibility.Times, after: int
    ) -> run.Run:
        """Reads of the recent rows what the rows of one piece can see, for their keys alone."""
        pages = []
        if wanted and self._upto > after:
            window = ports.Window(
                int(times.min()),
                int(times.max()),
                self._upto,
                self._rule.exclusive,
                self._rule.arrival,
                after,
            )
            for start in range(0, len(wanted), KEYS_AT_ONCE):
                some = wanted[start : start + KEYS_AT_ONCE]
                page = await self._store.read_window(self._view.number, some, window)
                named = [some[position] for position in page.keys.tolist()]
                pages.append(history.NamedRows(named, page.rows))
                self._read += len(page.rows)
        return await asyncio.to_thread(self._built, history.concat_named(pages))

    def _built(self, found: history.NamedRows) -> run.Run:
        return run.Run.build(found.keys, found.rows, self._view.layout.row_bytes)
