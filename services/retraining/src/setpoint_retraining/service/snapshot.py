"""The labelled table of a run, as known at its time."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from setpoint_columns import Column, Columns, DataType
from setpoint_retraining import ports
from setpoint_retraining.domain.policy import Policy
from setpoint_retraining.training.table import KEY_PREFIX, LABEL, LABEL_TIME, QUESTION_TIME
from setpoint_runtime import errors


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Questions with keys, inputs, and labels; only those whose label is known."""

    table: Columns
    inputs: tuple[str, ...]
    unlabelled_rows: int
    digest: str
    feature_snapshot_id: str
    """The feature service's token for the same rows; empty where it keeps none."""


async def take(
    features: ports.Features,
    policy: Policy,
    feature_set: ports.FeatureSet,
    known_at: int,
    run_id: str,
) -> Snapshot:
    """Reads questions and labels, joins them, and joins the features as known at each question.

    The feature service keeps what it joins, labels included, once for a run: a step that is repeated
    gets the rows of its first time.

    Raises:
        FailedPreconditionError: No question has a label, or a question lacks a needed column.
    """
    start = known_at - policy.lookback
    questions = await features.read_view(policy.question_view, start, known_at, known_at)
    labels = await features.read_view(policy.label_view, start, known_at + 1, known_at)
    keys = await features.entity_keys(policy.question_view)
    if keys != await features.entity_keys(policy.label_view):
        raise errors.FailedPreconditionError(
            errors.Reason.INVALID_FIELD,
            f"policy.label_view {policy.label_view!r} must be of the entity of "
            f"{policy.question_view!r}",
        )
    if not questions.rows or not labels.rows:
        raise errors.FailedPreconditionError(
            errors.Reason.NOT_ENOUGH_DATA,
            f"{questions.rows} questions and {labels.rows} labels from {start} on are known at "
            f"{known_at}",
        )
    asked, known = join_labels(questions, labels, keys, policy.label_field)
    if not len(asked):
        raise errors.FailedPreconditionError(
            errors.Reason.NOT_ENOUGH_DATA,
            f"none of {questions.rows} questions has a label known at {known_at}",
        )
    outcomes = [
        labels.take(known)["event_time"].rename(LABEL_TIME),
        _label(labels.take(known), policy.label_field),
    ]
    table, token = await _join_features(
        features, feature_set, questions.take(asked), outcomes, run_id
    )
    inputs = (*feature_set.features, *feature_set.request_fields)
    return Snapshot(table, inputs, questions.rows - len(asked), digest(table), token)


def join_labels(
    questions: Columns, labels: Columns, keys: Sequence[str], field: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Finds for each question the newest label of its entity.

    Args:
        questions: Rows of the question view.
        labels: Rows of the label view, in the order of their validity.
        keys: Key columns of both.
        field: The label.

    Returns:
        Row numbers of questions that have a label, and the rows of their labels.

    Raises:
        FailedPreconditionError: The label view has no such field.
    """
    if field not in labels:
        raise errors.FailedPreconditionError(
            errors.Reason.UNKNOWN_FIELD,
            f"policy.label_field {field!r} must be a field of the label view: "
            f"{', '.join(labels.names)}",
        )
    missing = labels[field].null_mask()
    newest = {key: row for row, key in enumerate(_keys(labels, keys))}
    asked, known = [], []
    for row, key in enumerate(_keys(questions, keys)):
        found = newest.get(key)
        if found is not None and not (missing is not None and missing[found]):
            asked.append(row)
            known.append(found)
    return np.array(asked, dtype=np.int64), np.array(known, dtype=np.int64)


async def _join_features(
    features: ports.Features,
    feature_set: ports.FeatureSet,
    questions: Columns,
    outcomes: Sequence[Column],
    run_id: str,
) -> tuple[Columns, str]:
    """Returns the labelled table, and the token under which the feature service keeps its rows."""
    wanted = dict.fromkeys([*feature_set.keys, "event_time", *feature_set.request_fields])
    spine = questions.select(wanted)
    for column in outcomes:
        spine = spine.with_column(column)
    request_id = str(uuid.uuid5(uuid.UUID(run_id), digest(spine)))
    frozen = await features.freeze(request_id, feature_set.key, spine, f"retraining run {run_id}")
    columns = [*frozen.features.columns]
    for name, dtype in feature_set.request_fields.items():
        columns.append(questions[name].cast(dtype))
    columns += [questions[name].rename(KEY_PREFIX + name) for name in feature_set.keys]
    columns.append(questions["event_time"].rename(QUESTION_TIME))
    return Columns(questions.rows, [*columns, *outcomes]), frozen.snapshot_id


def spine_of(table: Columns, feature_set: ports.FeatureSet) -> Columns:
    """Returns a snapshot's keys, times and what is computed with as a spine for a feature set.

    Raises:
        FailedPreconditionError: The snapshot lacks a key or a request field.
    """
    columns = [table[QUESTION_TIME].rename("event_time")]
    for name in feature_set.keys:
        if KEY_PREFIX + name not in table:
            raise errors.FailedPreconditionError(
                errors.Reason.ENTITY_KEY_MISSING,
                f"the snapshot lacks key {name!r} of feature set {feature_set.key.name!r}",
            )
        columns.append(table[KEY_PREFIX + name].rename(name))
    for name in feature_set.request_columns:
        if name in feature_set.keys:
            continue
        if name not in table:
            raise errors.FailedPreconditionError(
                errors.Reason.MISSING_FIELD,
                f"the snapshot lacks request field {name!r}, which feature set "
                f"{feature_set.key.name!r} computes with",
            )
        columns.append(table[name])
    return Columns(table.rows, columns)


def digest(table: Columns) -> str:
    """Computes the sha256 of a table's names, types and buffers, hexadecimal."""
    total = hashlib.sha256()
    for column in table.columns:
        total.update(f"{column.name}\0{column.dtype.name}\0{len(column)}\0".encode())
        mask = column.null_mask()
        if mask is not None:
            total.update(np.packbits(mask).tobytes())
        if column.dtype is DataType.STRING:
            texts = [None if text is None else text.encode() for text in column.to_list()]
            lengths = [0 if text is None else len(text) for text in texts]
            total.update(np.array(lengths, dtype="<i8").tobytes())
            total.update(b"".join(text for text in texts if text))
        else:
            values = column.values
            # What lies below a null is not part of the content.
            if mask is not None:
                values = np.where(mask, 0, values).astype(values.dtype)
            total.update(values.tobytes())
    return total.hexdigest()


def _keys(table: Columns, keys: Sequence[str]) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_list() for name in keys), strict=True))


def _label(labels: Columns, field: str) -> Column:
    positive = labels[field].floats() != 0
    return Column.from_numpy(LABEL, positive.astype(np.float64))
