"""The columns that transformations add to an answer, online and offline by the same code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns
from setpoint_columns import columns as parts
from setpoint_feature.domain import assemble, definitions, derivation, visibility
from setpoint_features import evaluation

_STATUS = definitions.Status
_FROM_BEST: Final = (
    _STATUS.GIVEN,
    _STATUS.FRESH,
    _STATUS.DEFAULT,
    _STATUS.STALE,
    _STATUS.MISSING,
)
"""A derived value is as good as the worst of its inputs; nothing but given ones is given itself."""
_STATUSES: Final = np.array(_FROM_BEST, np.uint8)
_RANKS: Final = np.zeros(256, np.uint8)
_RANKS[_STATUSES] = np.arange(len(_STATUSES))
_LATEST: Final = np.iinfo(np.int64).max

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Value:
    """A column with what is known about it."""

    column: Column
    ranks: Bytes
    times: visibility.Times


def derive(
    recipe: derivation.Derivation, served: assemble.Served, given: Columns, *, is_checked: bool
) -> assemble.Served:
    """Returns an answer with the transformations' columns behind the features.

    Args:
        recipe: What to compute.
        served: The features.
        given: The request fields that are read.
        is_checked: Whether to prove on some rows that no row's value depends on the others.

    Raises:
        InternalError: TRANSFORMATION_FAILED, naming the transformation.
    """
    rows = served.features.rows
    known = _known(served, given)
    for step in recipe.steps:
        inputs = [known[name] for name in step.inputs]
        arguments = [each.column for each in inputs]
        result = evaluation.run(step.function, step.name, arguments, rows)
        if is_checked:
            evaluation.check_rows_alone(step.function, result, arguments)
        known[step.name] = _Value(
            result.column, _rank(result, [each.ranks for each in inputs]), _oldest(inputs)
        )
    made = [known[name] for name in recipe.names]
    columns = {**served.features.by_name, **{each.column.name: each.column for each in made}}
    return assemble.Served(
        parts.trusted(rows, columns),
        (*served.statuses, *(_STATUSES[each.ranks].tobytes() for each in made)),
        (*served.event_times, *(each.times.astype("<i8", copy=False).tobytes() for each in made)),
    )


def _known(served: assemble.Served, given: Columns) -> dict[str, _Value]:
    rows = served.features.rows
    best = np.zeros(rows, np.uint8)
    nowhen = np.full(rows, visibility.NO_TIME, np.int64)
    known = {name: _Value(column, best, nowhen) for name, column in given.by_name.items()}
    for column, statuses, times in zip(
        served.features.columns, served.statuses, served.event_times, strict=True
    ):
        known[column.name] = _Value(
            column,
            _RANKS[np.frombuffer(statuses, np.uint8)],
            np.frombuffer(times, "<i8"),
        )
    return known


def _rank(result: evaluation.Result, ranks: Sequence[Bytes]) -> Bytes:
    worst: Bytes = np.maximum.reduce(ranks)
    missing = _RANKS[_STATUS.MISSING]
    has_value = True if result.column.validity is None else result.column.validity
    # A value all the same, where the function does without what is missing.
    worst[(worst == missing) & has_value] = _RANKS[_STATUS.DEFAULT]
    if result.not_finite is not None:
        worst[result.not_finite] = missing
    return worst


def _oldest(inputs: Sequence[_Value]) -> visibility.Times:
    times = [np.where(each.times == visibility.NO_TIME, _LATEST, each.times) for each in inputs]
    oldest = np.minimum.reduce(times)
    return np.where(oldest == _LATEST, visibility.NO_TIME, oldest)
