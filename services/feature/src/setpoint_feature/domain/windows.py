"""Windows over many events at many times: the offline side, linear in events and questions.

Questions are sorted by group and time. A version of an event counts in a window from when it is known
until it is corrected or too old, which is one stretch of these questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_feature.domain import (
    aggregation,
    blueprint,
    events,
    exact,
    sketch,
    stabbing,
    visibility,
)

Integers = npt.NDArray[np.int64]
Times = visibility.Times


class _Questions:
    """Pairs of group and time in their order, and where stretches of time lie among them."""

    def __init__(self, groups: Integers, times: Times) -> None:
        self.order = np.lexsort((times, groups))
        self._moments = np.unique(times)
        self._step = len(self._moments) + 1
        ranks = np.searchsorted(self._moments, times)
        self._composite = (groups * self._step + ranks)[self.order]

    def first(self, groups: Integers, times: Times) -> Integers:
        """Returns the first question of a group that is not before a time."""
        ranks = np.searchsorted(self._moments, times)
        return np.searchsorted(self._composite, groups * self._step + ranks)

    def back(self, results: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Returns results in the order in which the questions were asked."""
        found = np.empty_like(results)
        found[self.order] = results
        return found


@dataclass(frozen=True, slots=True)
class _Stretches:
    """The stretches of questions for one window: those that are not empty."""

    rows: Integers
    """Positions of their events."""
    first: Integers
    last: Integers


def answer(
    plan: blueprint.Blueprint,
    fields: Sequence[int],
    found: events.Events,
    groups: Integers,
    times: Times,
) -> blueprint.Computed:
    """Returns what the events answer for each (group, T).

    Args:
        plan: The view.
        fields: Positions of the wanted fields.
        found: The events, of these groups at least.
        groups: Number of each question's group, negative where its key has a null part.
        times: Each question's time.
    """
    return _Answer(plan, found, groups, times).fields(fields)


class _Answer:
    def __init__(
        self, plan: blueprint.Blueprint, found: events.Events, groups: Integers, times: Times
    ) -> None:
        self._plan = plan
        self._events = found
        self._groups = groups
        self._places = len(groups)
        self._questions = _Questions(groups, times)
        self._first = self._questions.first(found.groups, found.starts)
        self._by_window: dict[tuple[int, int], _Stretches] = {}
        self._newest: dict[tuple[int, int], Times] = {}
        self._latest_of: dict[tuple[int, int, blueprint.Content], Integers] = {}

    def fields(self, fields: Sequence[int]) -> blueprint.Computed:
        specs = [self._plan.fields[position] for position in fields]
        results = [self._result(field) for field in specs]
        newest = [self._latest(field) for field in specs]
        return blueprint.computed(self._plan, fields, results, newest, self._groups >= 0)

    def _result(self, field: blueprint.Field) -> blueprint.Result:
        if field.content is None:
            return blueprint.finish(field, [self._merged(field, slot) for slot in field.slots])
        if field.spec.function is aggregation.Function.DISTINCT:
            return blueprint.estimates(self._registers(field, field.content))
        return self._last(field, field.content)

    def _stretches(self, field: blueprint.Field) -> _Stretches:
        key = field.spec.hop, field.spec.window
        if key not in self._by_window:
            found = self._events
            expiries = blueprint.expiries(
                blueprint.buckets(found.event_times, key[0]), key[0], key[1]
            )
            last = self._questions.first(found.groups, np.minimum(found.stops, expiries))
            rows = np.flatnonzero(last > self._first)
            self._by_window[key] = _Stretches(rows, self._first[rows], last[rows])
        return self._by_window[key]

    def _merged(self, field: blueprint.Field, slot: blueprint.Slot) -> npt.NDArray[np.generic]:
        stretches = self._stretches(field)
        values = blueprint.numbers(self._events.columns, slot, len(self._events))[stretches.rows]
        some = values != slot.neutral
        values, first, last = values[some], stretches.first[some], stretches.last[some]
        if slot.kind is blueprint.Kind.COUNT:
            result: npt.NDArray[np.generic] = stabbing.counts(first, last, self._places)
        elif slot.kind is blueprint.Kind.SUM:
            result = exact.interval_sums(values, first, last, self._places)
        else:
            result = _extremes(slot, values, first, last, self._places)
        return self._questions.back(result)

    def _latest(self, field: blueprint.Field) -> Times:
        """Returns the event time of the latest event in each window."""
        key = field.spec.hop, field.spec.window
        if key not in self._newest:
            stretches = self._stretches(field)
            times = self._events.event_times[stretches.rows]
            order = np.argsort(times, kind="stable")
            best = stabbing.greatest(
                stretches.first[order],
                stretches.last[order],
                np.arange(len(order)),
                self._places,
                1,
            )[:, 0]
            found = np.full(self._places, visibility.NO_TIME, np.int64)
            found[best >= 0] = times[order][best[best >= 0]]
            self._newest[key] = self._questions.back(found).astype(np.int64)
        return self._newest[key]

    def _chosen(self, field: blueprint.Field, content: blueprint.Content) -> _Stretches:
        """Returns the stretches of the events whose values a table takes in."""
        stretches = self._stretches(field)
        flags = blueprint.takes(self._events.columns, content, len(self._events))[stretches.rows]
        return _Stretches(stretches.rows[flags], stretches.first[flags], stretches.last[flags])

    def _registers(self, field: blueprint.Field, content: blueprint.Content) -> Integers:
        """Returns for each question how many registers have at least each rank."""
        chosen = self._chosen(field, content)
        places, ranks = sketch.places(self._events.columns[content.field].take(chosen.rows))
        # Each value makes its register at least 1, 2, … its rank; stretches of one such fact unite.
        owners = np.repeat(places * sketch.TOP_RANK, ranks)
        owners += np.arange(len(owners)) - np.repeat(np.cumsum(ranks) - ranks, ranks)
        owners, first, last = stabbing.united(
            owners, np.repeat(chosen.first, ranks), np.repeat(chosen.last, ranks)
        )
        found = np.zeros((self._places, sketch.TOP_RANK), np.int64)
        levels = owners % sketch.TOP_RANK
        for level in np.unique(levels).tolist():
            at = levels == level
            found[:, level] = stabbing.counts(first[at], last[at], self._places)
        return self._questions.back(found).astype(np.int64)

    def _last(self, field: blueprint.Field, content: blueprint.Content) -> blueprint.Result:
        winners = self._latest_events(field, content)[:, field.place]
        has = winners >= 0
        values, flags = blueprint.latest_values(self._events.columns[content.field])
        dtype = values.dtype
        result = np.zeros(self._places, dtype)
        is_null = np.zeros(self._places, np.bool_)
        result[has] = values[winners[has]]
        is_null[has] = ~flags[winners[has]]
        back = self._questions.back
        return blueprint.Result(
            back(result), back(has).astype(np.bool_), back(is_null).astype(np.bool_)
        )

    def _latest_events(self, field: blueprint.Field, content: blueprint.Content) -> Integers:
        """Returns the latest events in each window, as many as any field of it wants."""
        key = field.spec.hop, field.spec.window, content
        if key not in self._latest_of:
            chosen = self._chosen(field, content)
            rows = chosen.rows
            found = self._events
            order = np.lexsort(
                (found.sequences[rows], found.created_times[rows], found.event_times[rows])
            )
            best = stabbing.greatest(
                chosen.first[order],
                chosen.last[order],
                np.arange(len(order)),
                self._places,
                self._plan.most(field.spec.hop, content),
            )
            events_of = np.append(rows[order], stabbing.NONE)
            self._latest_of[key] = events_of[best]
        return self._latest_of[key]


def _extremes(
    slot: blueprint.Slot,
    values: npt.NDArray[np.generic],
    first: Integers,
    last: Integers,
    places: int,
) -> npt.NDArray[np.generic]:
    """Returns the least or greatest value over each place, the neutral one where there is none."""
    order = np.argsort(values, kind="stable")
    if slot.kind is blueprint.Kind.MIN:
        order = order[::-1]
    best = stabbing.greatest(first[order], last[order], np.arange(len(order)), places, 1)[:, 0]
    found = np.full(places, slot.neutral, values.dtype)
    found[best >= 0] = values[order][best[best >= 0]]
    return found
