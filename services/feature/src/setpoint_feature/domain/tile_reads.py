"""What the online states of groups answer, for many groups and times at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import (
    aggregation,
    blueprint,
    exact,
    sketch,
    tiles,
    visibility,
)

Integers = npt.NDArray[np.int64]
Records = npt.NDArray[Any]
Array = npt.NDArray[Any]


def answer(
    plan: blueprint.Blueprint,
    parts: Sequence[tiles.Table],
    fields: Sequence[int],
    values: Sequence[bytes | None],
    rows: npt.NDArray[np.intp],
    times: visibility.Times,
) -> blueprint.Computed | None:
    """Returns what states answer, or None where they cannot tell for one of the times.

    Args:
        plan: The view.
        parts: Its tables.
        fields: Positions of the wanted fields.
        values: The states of the groups asked for, None where there is none.
        rows: For each answered row the position of its group, or -1 where its key has a null part.
        times: Each row's time.
    """
    states = tiles.unpack(parts, values)
    is_known = rows >= 0
    if np.any(states.floors[rows[is_known]] > times[is_known]):
        return None
    questions = _Questions(rows, times)
    made = _Answer(plan, parts, states, questions)
    specs = [plan.fields[position] for position in fields]
    results = [made.result(field) for field in specs]
    newest = [made.newest(field)[questions.rows] for field in specs]
    taken = [
        blueprint.Result(
            each.values[questions.rows],
            None if each.present is None else each.present[questions.rows],
            None if each.is_null is None else each.is_null[questions.rows],
        )
        for each in results
    ]
    return blueprint.computed(plan, fields, taken, newest, is_known)


class _Questions:
    """The different pairs of group and time; rows that came together often share one."""

    def __init__(self, rows: npt.NDArray[np.intp], times: visibility.Times) -> None:
        moments, moment_of = np.unique(times, return_inverse=True)
        step = max(1, len(moments))
        pairs, self.rows = np.unique(rows * step + moment_of, return_inverse=True)
        self.groups = pairs // step
        self.times = moments[pairs % step] if len(moments) else times

    def __len__(self) -> int:
        return len(self.groups)


class _Answer:
    def __init__(
        self,
        plan: blueprint.Blueprint,
        parts: Sequence[tiles.Table],
        states: tiles.States,
        questions: _Questions,
    ) -> None:
        self._plan = plan
        self._count = len(questions)
        self._tables = {(table.hop, table.content): table for table in parts}
        self._records: dict[tuple[int, blueprint.Content | None], tuple[Records, Integers]] = {}
        self._states = dict(
            zip(((table.hop, table.content) for table in parts), states.records, strict=True)
        )
        self._questions = questions
        self._live: dict[tuple[int, blueprint.Content | None, int], tuple[Records, Integers]] = {}

    def result(self, field: blueprint.Field) -> blueprint.Result:
        if field.content is None:
            return blueprint.finish(field, [self._merged(field, slot) for slot in field.slots])
        records, owners = self._alive(field, field.content)
        if field.spec.function is aggregation.Function.DISTINCT:
            return blueprint.estimates(self._registers(records, owners))
        return self._last(field, records, owners)

    def newest(self, field: blueprint.Field) -> visibility.Times:
        """Returns the event time of the latest event in the window of each question."""
        records, owners = self._alive(field, None)
        found = np.full(self._count, blueprint.EARLIEST, np.int64)
        np.maximum.at(found, owners, records["newest"])
        has = np.zeros(self._count, np.bool_)
        has[owners] = True
        return np.where(has, found, visibility.NO_TIME)

    def _alive(
        self, field: blueprint.Field, content: blueprint.Content | None
    ) -> tuple[Records, Integers]:
        """Returns the records in a field's window, in the order of their questions, and these."""
        hop, window = field.spec.hop, field.spec.window
        if (hop, content, window) not in self._live:
            records, owners = self._of_questions(hop, content)
            times = self._questions.times[owners]
            live = (records["start"] <= times) & (times < records["stop"])
            live &= times < blueprint.expiries(records["bucket"], hop, window)
            self._live[hop, content, window] = records[live], owners[live]
        return self._live[hop, content, window]

    def _of_questions(
        self, hop: int, content: blueprint.Content | None
    ) -> tuple[Records, Integers]:
        """Returns the records of each question's group, and the question of each."""
        if (hop, content) not in self._records:
            records = self._states[hop, content]
            groups = self._questions.groups
            first = np.searchsorted(records["group"], groups)
            sizes = np.searchsorted(records["group"], groups, side="right") - first
            owners = np.repeat(np.arange(self._count), sizes)
            places = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            self._records[hop, content] = records[np.repeat(first, sizes) + places], owners
        return self._records[hop, content]

    def _merged(self, field: blueprint.Field, slot: blueprint.Slot) -> Array:
        records, owners = self._alive(field, None)
        number = self._tables[field.spec.hop, None].slots.index(slot)
        values = np.ascontiguousarray(records[f"slot{number}"])
        found = np.full(self._count, slot.neutral, values.dtype)
        if not len(owners):
            return found
        starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
        if slot.kind is blueprint.Kind.SUM:
            found[owners[starts]] = exact.segment_sums(values, np.append(starts, len(values)))
        else:
            found[owners[starts]] = slot.merge.reduceat(values, starts)
        return found

    def _registers(self, records: Records, owners: Integers) -> Integers:
        """Returns for each question how many registers have at least each rank."""
        order = np.lexsort((records["rank"], records["place"], owners))
        places, ranks, owners = records["place"][order], records["rank"][order], owners[order]
        last = np.ones(len(owners), np.bool_)
        last[:-1] = (owners[1:] != owners[:-1]) | (places[1:] != places[:-1])
        step = sketch.TOP_RANK
        codes = owners[last] * step + ranks[last] - 1
        exactly = np.bincount(codes, minlength=self._count * step).reshape(self._count, step)
        return np.ascontiguousarray(exactly[:, ::-1].cumsum(axis=1)[:, ::-1])

    def _last(self, field: blueprint.Field, records: Records, owners: Integers) -> blueprint.Result:
        order = np.lexsort(
            (records["number"], records["created_time"], records["event_time"], owners)
        )
        owners = owners[order]
        questions = np.arange(self._count)
        at = np.searchsorted(owners, questions, side="right") - 1 - field.place
        has = at >= np.searchsorted(owners, questions)
        values = np.zeros(self._count, records["value"].dtype)
        is_null = np.zeros(self._count, np.bool_)
        chosen = order[at[has]]
        values[has] = records["value"][chosen]
        is_null[has] = ~records["present"][chosen]
        return blueprint.Result(values, has, is_null)
