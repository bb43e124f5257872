"""From two tables, what was served and what was known, to counted differences with causes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column
from setpoint_feature.domain import assemble, definitions, history, plan, skew, visibility

EXAMPLES: Final = 5
"""Examples that one comparison keeps of a feature and a cause."""

_SHOWN_TEXT: Final = 80


@dataclass(frozen=True, slots=True)
class Entities:
    """All stored rows of some entities of a view."""

    keys: npt.NDArray[np.int64]
    """Number of the entity of each row."""
    rows: history.StoredRows
    written_times: visibility.Times
    number_of: Mapping[int, int]
    """Number of the entity of each prediction, by the prediction's place; -1 where its key is null."""

    def candidates(self, number: int) -> tuple[npt.NDArray[np.intp], skew.Candidates]:
        """Returns the positions of the rows of one entity, and the rows, in order of their sequences."""
        places = np.flatnonzero(self.keys == number)
        places = places[np.argsort(self.rows.sequences[places])]
        return places, skew.Candidates(
            self.rows.event_times[places],
            self.rows.created_times[places],
            self.rows.sequences[places],
            self.written_times[places],
        )


class Comparison:
    """Served rows beside what was known of them."""

    def __init__(
        self,
        rows: skew.ServedRows,
        known: assemble.Served,
        tally: skew.Tally,
        sensitive: Collection[str],
    ) -> None:
        """Takes both sides, what the findings are added to, and features that examples must not show."""
        self._rows = rows
        self._tally = tally
        self._sensitive = sensitive
        self._causes: dict[str, dict[int, skew.Cause]] = {}
        self._known = known.features
        self._statuses = {
            column.name: np.frombuffer(found, np.uint8).astype(np.int64)
            for column, found in zip(known.features.columns, known.statuses, strict=True)
        }
        self._event_times = {
            column.name: np.frombuffer(found, "<i8").astype(np.int64)
            for column, found in zip(known.features.columns, known.event_times, strict=True)
        }

    def differing(self) -> dict[str, visibility.Flags]:
        """Returns, for each feature that differs anywhere, where; counts what there is to compare."""
        rows, found = self._rows, {}
        anywhere = np.zeros(len(rows), np.bool_)
        for column in self._known.columns:
            name = column.name
            self._tally.values += len(rows)
            served = rows.inputs.by_name.get(name)
            if served is None or name not in rows.statuses:
                flags = np.ones(len(rows), np.bool_)
                self._add(
                    name, flags, skew.Cause.DEFINITION, "the record does not hold the feature"
                )
            else:
                flags = skew.unequal(served, column)
                flags |= rows.statuses[name] != self._statuses[name]
                flags |= rows.event_times[name] != self._event_times[name]
                self._add(name, flags & rows.unanswered, skew.Cause.NO_ANSWER)
                if (rest := flags & ~rows.unanswered).any():
                    found[name] = rest
            anywhere |= flags
        self._tally.differing_predictions += int(np.count_nonzero(anywhere))
        return found

    def explain(
        self,
        view: plan.CompiledView,
        fields: Mapping[str, int],
        differing: Mapping[str, visibility.Flags],
        entities: Entities,
    ) -> None:
        """Finds the causes of differences in features of one view.

        Args:
            view: The view.
            fields: Features to positions in the view.
            differing: Where each of them differs.
            entities: The stored rows of the entities of the predictions that differ.
        """
        for name, field in fields.items():
            served = self._rows.inputs[name]
            is_aggregate = view.blueprint is not None
            held = None if is_aggregate else _held(view, field, entities.rows)
            for place in np.flatnonzero(differing[name]).tolist():
                positions, candidates = entities.candidates(entities.number_of[place])
                cell = self._cell(name, place)
                if held is None:
                    cause = skew.cause_of_aggregate(view.rule, candidates, cell)
                else:
                    same = _equals(held, positions, served, place)
                    cause = skew.cause_of(view.rule, candidates, same, cell)
                self._note(name, place, cause)

    def derived(self, name: str, differing: visibility.Flags, inputs: Collection[str]) -> None:
        """Notes differences in a feature that is computed from others.

        Where one of its inputs was served otherwise too, that is the cause of both.
        """
        for place in np.flatnonzero(differing).tolist():
            causes = [self._causes.get(each, {}).get(place) for each in inputs]
            cause = next(filter(None, causes), skew.Cause.TRANSFORMATION)
            self._note(name, place, cause)

    def _cell(self, name: str, place: int) -> skew.Cell:
        rows = self._rows
        return skew.Cell(
            int(rows.times[place]),
            int(rows.reply_times[place]),
            skew.Seen(int(rows.statuses[name][place]), int(rows.event_times[name][place])),
            skew.Seen(int(self._statuses[name][place]), int(self._event_times[name][place])),
        )

    def _add(self, name: str, flags: visibility.Flags, cause: skew.Cause, note: str = "") -> None:
        for place in np.flatnonzero(flags).tolist():
            self._note(name, place, cause, note)

    def _note(self, name: str, place: int, cause: skew.Cause, note: str = "") -> None:
        differences = self._tally.differences
        self._causes.setdefault(name, {})[place] = cause
        differences[name, cause] += 1
        if differences[name, cause] > EXAMPLES:
            return
        rows, nowhere = self._rows, skew.Seen(0, visibility.NO_TIME)
        is_there = name in rows.statuses and name in rows.inputs
        cell = self._cell(name, place) if is_there else None
        is_hidden = cell is None or name in self._sensitive
        self._tally.examples.append(
            skew.Example(
                rows.prediction_ids[place],
                name,
                cause,
                int(rows.times[place]),
                None if is_hidden else _shown(rows.inputs[name].item(place)),
                None if is_hidden else _shown(self._known[name].item(place)),
                nowhere if cell is None else cell.served,
                nowhere if cell is None else cell.known,
                note,
            )
        )


def incomparable(rows: skew.ServedRows, tally: skew.Tally, cause: skew.Cause, why: str) -> None:
    """Notes rows that cannot be computed again, because something that they need is gone."""
    features = [
        name
        for name, statuses in rows.statuses.items()
        if not (statuses == definitions.Status.GIVEN).all()
    ]
    tally.values += len(rows) * len(features)
    tally.differing_predictions += len(rows)
    nowhere = skew.Seen(0, visibility.NO_TIME)
    for name in features:
        tally.differences[name, cause] += len(rows)
        served = skew.Seen(int(rows.statuses[name][0]), int(rows.event_times[name][0]))
        tally.examples.append(
            skew.Example(
                rows.prediction_ids[0],
                name,
                cause,
                int(rows.times[0]),
                None,
                None,
                served,
                nowhere,
                why,
            )
        )


def _held(view: plan.CompiledView, field: int, rows: history.StoredRows) -> Column:
    """Returns what stored rows say of a field."""
    data = rows.data or view.layout.defaults
    (column,) = view.layout.unpack(data, rows.starts, (field,))
    return column


def _equals(
    held: Column, positions: npt.NDArray[np.intp], served: Column, place: int
) -> visibility.Flags:
    """Tells which rows of an entity hold exactly the value that was served."""
    own = held.take(positions)
    one: npt.NDArray[Any] = np.full(len(positions), place, np.intp)
    return ~skew.unequal(own, served.take(one))


def _shown(item: object) -> str:
    text = "null" if item is None else str(item)
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}…"
