"""The answers of an ensemble's members, made one, for all rows of a batch at once."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_columns import column as column_module
from setpoint_router.domain import values
from setpoint_router.domain.ensemble import VERSION, Combination, Ensemble
from setpoint_router.domain.route import Field, ServedVersion
from setpoint_runtime import errors

Weights = npt.NDArray[np.int64]
"""Shape [members, rows]; 0 where a member is missing."""


def joint_version(found: Ensemble, served: Iterable[ServedVersion]) -> ServedVersion:
    """Returns what the members of an ensemble have in common, as if they were one version.

    Raises:
        FailedPreconditionError: Their signatures differ, or do not fit the combination.
    """
    versions = {each.version: each for each in served}
    members = [versions[each.version] for each in found.members]
    first = members[0]
    for other in members[1:]:
        for what, mine, theirs in (
            ("inputs", _types(first.inputs), _types(other.inputs)),
            ("outputs", _types(first.outputs), _types(other.outputs)),
            ("score column", first.score_column, other.score_column),
            ("feature set", first.feature_set, other.feature_set),
        ):
            if mine != theirs:
                raise _mismatch(
                    f"versions {first.version} and {other.version} have different {what}, so they "
                    "cannot answer together"
                )
    is_vote = found.combination is Combination.VOTE
    if not any((each.dtype in values.FLOATS) is not is_vote for each in first.outputs):
        kind = "label" if is_vote else "FLOAT"
        raise _mismatch(f"{found.combination.name} needs a {kind} column among the outputs")
    # A null goes on where each of them knows what to make of it.
    substituted = frozenset.intersection(*(each.substituted_inputs for each in members))
    return dataclasses.replace(first, version=VERSION, substituted_inputs=substituted)


def _types(fields: Iterable[Field]) -> dict[str, DataType]:
    return {each.name: each.dtype for each in fields}


def _mismatch(text: str) -> errors.FailedPreconditionError:
    return errors.FailedPreconditionError(errors.Reason.SIGNATURE_MISMATCH, text)


def combine(
    found: Ensemble,
    outputs: Sequence[Field],
    answers: Sequence[Columns | None],
    present: npt.NDArray[np.bool_],
) -> Columns:
    """Returns one answer for each row.

    Args:
        found: How.
        outputs: The columns that every member answers with.
        answers: What each member said, all with the same rows; None for a member that said nothing.
        present: Shape [members, rows]; where a member is missing, its answer is not looked at.
    """
    rows = present.shape[1]
    is_mean = found.combination is Combination.MEAN
    each_weight = [1 if is_mean else member.weight for member in found.members]
    weights: Weights = np.array(each_weight, np.int64)[:, np.newaxis] * present
    deciding = weights
    columns: dict[str, Column] = {}
    for field in sorted(outputs, key=lambda each: each.dtype in values.FLOATS):
        sides = [
            values.null_column(field, rows) if each is None else each[field.name]
            for each in answers
        ]
        if field.dtype in values.FLOATS:
            columns[field.name] = _average(field, sides, deciding)
        else:
            columns[field.name], support = _vote(field, sides, weights)
            if found.combination is Combination.VOTE and deciding is weights:
                deciding = support
    return Columns(rows, [columns[field.name] for field in outputs])


def _average(field: Field, sides: Sequence[Column], weights: Weights) -> Column:
    cast = weights * _valid(sides)
    total = cast.sum(axis=0)
    is_known = total > 0
    shares = cast / np.where(is_known, total, 1)
    numbers = np.stack([each.values for each in sides]).astype(np.float64)
    # What a missing member holds may be anything, infinity too.
    with np.errstate(invalid="ignore", over="ignore"):
        mean = (np.where(cast > 0, numbers, 0.0) * shares).sum(axis=0)
        made = mean.astype(sides[0].values.dtype)
    return column_module.owned(field.name, field.dtype, made, None, is_known, len(made))


def _vote(field: Field, sides: Sequence[Column], weights: Weights) -> tuple[Column, Weights]:
    """Returns the labels that win, and the weights of those who voted for them."""
    count, rows = weights.shape
    cast = weights * _valid(sides)
    labels = _labels(sides)
    support = np.zeros((count, rows), np.int64)
    for at in range(count):
        support[at] = np.where(cast[at] > 0, ((labels == labels[at]) * cast).sum(axis=0), 0)
    # Of equal ones the first, which is the rule for ties.
    winner = support.argmax(axis=0)
    together = Columns.concat([Columns(rows, [each.rename(field.name)]) for each in sides])
    won = together[field.name].take(winner * rows + np.arange(rows))
    is_known = cast.sum(axis=0) > 0
    column = column_module.owned(field.name, field.dtype, won.values, won.offsets, is_known, rows)
    return column, np.where(labels == labels[winner, np.arange(rows)], cast, 0)


def _valid(sides: Sequence[Column]) -> npt.NDArray[np.bool_]:
    rows = len(sides[0])
    return np.stack(
        [np.ones(rows, np.bool_) if each.validity is None else each.validity for each in sides]
    )


def _labels(sides: Sequence[Column]) -> npt.NDArray[np.generic]:
    """Returns labels as something that numpy compares quickly, shape [members, rows]."""
    if sides[0].dtype is not DataType.STRING:
        return np.stack([each.values for each in sides])
    numbers: dict[str | None, int] = {}
    return np.array(
        [[numbers.setdefault(text, len(numbers)) for text in each.to_list()] for each in sides],
        np.intp,
    ).reshape(len(sides), len(sides[0]))
