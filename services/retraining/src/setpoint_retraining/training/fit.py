"""One training, from a snapshot file to a model file; runs in a process of its own."""

from __future__ import annotations

import importlib.metadata
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from setpoint_columns import Columns, DataType
from setpoint_retraining.domain import gate, split
from setpoint_retraining.training import profiles, trainers
from setpoint_retraining.training.encoding import NUMBERS, PROBABILITIES, TEXTS, Encoding, to_onnx
from setpoint_retraining.training.table import (
    DECISION_THRESHOLD,
    LABEL,
    QUESTION_TIME,
    SCORE,
    masks,
    read_snapshot,
)
from setpoint_runtime import errors

PARITY_BOUND = 1e-4
"""Greatest difference between the estimator's probability and the converted model's."""


SAMPLES = 16
"""Rows that a version carries with their answers, for whoever loads it to compare."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to train, and where the files lie."""

    snapshot: Path
    model: Path
    scores: Path
    """Where the hold-out's scores go, one float64 for each row of the test mask, in order."""
    inputs: tuple[str, ...]
    end: int
    holdout: int
    gap: int
    minimum_rows: int
    trainer: str
    parameters: dict[str, str]


def train(task: Task) -> dict[str, Any]:
    """Trains, converts, and compares; writes the model and the hold-out's scores.

    Returns:
        JSON values: rows, metrics on the hold-out, parity, tensors, reference profiles, environment.

    Raises:
        FailedPreconditionError: Too few rows, one class alone, or a conversion that is not exact.
    """
    table = read_snapshot(task.snapshot)
    parts = masks(table, task.end, task.holdout, task.gap)
    _check_rows(table, parts, task.minimum_rows)
    numbers = [name for name in task.inputs if table[name].dtype is not DataType.STRING]
    texts = [name for name in task.inputs if table[name].dtype is DataType.STRING]
    training, test = table.filter(parts.train), table.filter(parts.test)
    encoding = Encoding.learn(numbers, {name: training[name].to_list() for name in texts})
    trainer = trainers.find(task.trainer)
    parameters = trainers.read_parameters(trainer, task.parameters)
    matrix = _matrix(encoding, training)
    started = time.perf_counter()
    estimator = trainer.fit(matrix, training[LABEL].floats().astype(np.int64), **parameters)
    seconds = time.perf_counter() - started
    model = to_onnx(estimator, encoding)
    score, parity = _compare(estimator, model, encoding, test)
    partial = task.model.with_suffix(".partial")
    partial.write_bytes(model)
    partial.replace(task.model)
    np.save(task.scores, score)
    return {
        "train_rows": training.rows,
        "test_rows": test.rows,
        "fit_seconds": seconds,
        "metrics": gate.measure(score, test[LABEL].floats(), DECISION_THRESHOLD),
        "parity": parity,
        "numbers": numbers,
        "texts": texts,
        "samples": _samples(test, score, numbers, texts),
        "profiles": _profiles(training, estimator, matrix, numbers, texts),
        "environment": _environment(task.trainer, parameters),
    }


def _check_rows(table: Columns, parts: split.Split, minimum: int) -> None:
    rows, held = int(parts.train.sum()), int(parts.test.sum())
    if rows < minimum or held == 0:
        raise errors.FailedPreconditionError(
            errors.Reason.NOT_ENOUGH_DATA,
            f"{rows} labelled rows to train on (at least {minimum} needed), {held} held out",
        )
    label = table[LABEL].floats()
    for name, mask in (("training", parts.train), ("hold-out", parts.test)):
        if len(np.unique(label[mask])) < 2:
            raise errors.FailedPreconditionError(
                errors.Reason.NOT_ENOUGH_DATA, f"the {name} rows have one class alone"
            )


def _matrix(encoding: Encoding, table: Columns) -> npt.NDArray[np.float32]:
    return encoding.matrix(
        [table[name].floats() for name in encoding.numbers],
        [table[name].to_list() for name in encoding.texts],
        table.rows,
    )


def run_onnx(model: bytes, encoding: Encoding, table: Columns) -> npt.NDArray[np.float64]:
    """Runs a converted model on a table; returns the probability of true. Shape [rows]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {}
    if encoding.numbers:
        columns = [table[name].floats().astype(np.float32) for name in encoding.numbers]
        feeds[NUMBERS] = np.column_stack(columns)
    if encoding.texts:
        values = [[text or "" for text in table[name].to_list()] for name in encoding.texts]
        feeds[TEXTS] = np.array(values, dtype=object).T.reshape(table.rows, len(values))
    answer = session.run([PROBABILITIES], feeds)[0]
    return np.asarray(answer, dtype=np.float64)[:, 1]


def _compare(
    estimator: Any, model: bytes, encoding: Encoding, test: Columns
) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
    """Runs the estimator and the converted model on the hold-out; both must agree."""
    converted = run_onnx(model, encoding, test)
    original = estimator.predict_proba(_matrix(encoding, test))[:, 1]
    difference = float(np.abs(converted - original).max())
    flips = (converted >= DECISION_THRESHOLD) != (original >= DECISION_THRESHOLD)
    clear = np.abs(original - DECISION_THRESHOLD) > 1e-5
    parity = {
        "rows": test.rows,
        "max_difference": difference,
        "decision_flips": int((flips & clear).sum()),
    }
    if difference > PARITY_BOUND or parity["decision_flips"]:
        raise errors.FailedPreconditionError(
            errors.Reason.INVALID_ARTIFACT,
            f"the converted model differs from the estimator: by up to {difference:.2g} "
            f"(at most {PARITY_BOUND:g} allowed), {parity['decision_flips']} decisions flip",
        )
    return converted, parity


def _samples(
    test: Columns,
    score: npt.NDArray[np.float64],
    numbers: Sequence[str],
    texts: Sequence[str],
) -> dict[str, Any]:
    """Returns rows spread over the hold-out with the converted model's answers, as JSON values."""
    floats = {name: test[name].floats() for name in numbers}
    with np.errstate(over="ignore"):
        infinite = [np.isinf(values.astype(np.float32)) for values in floats.values()]
    # What no caller can send is no good proof, and JSON has no form for it.
    usable = np.flatnonzero(~np.any(infinite, 0)) if infinite else np.arange(test.rows)
    rows = usable[:: max(1, len(usable) // SAMPLES)][:SAMPLES]
    chosen = test.take(rows)
    return {
        "numbers": {
            name: [None if math.isnan(value) else value for value in values[rows].tolist()]
            for name, values in floats.items()
        },
        "texts": {name: [text or "" for text in chosen[name].to_list()] for name in texts},
        "scores": score[rows].tolist(),
    }


def _profiles(
    training: Columns,
    estimator: Any,
    matrix: npt.NDArray[np.float32],
    numbers: Sequence[str],
    texts: Sequence[str],
) -> list[dict[str, Any]]:
    times = training[QUESTION_TIME].values
    made = [profiles.of_numbers(name, training[name].floats(), times) for name in numbers]
    made += [profiles.of_texts(name, training[name].to_list(), times) for name in texts]
    score = estimator.predict_proba(matrix)[:, 1]
    made.append(profiles.of_numbers(SCORE, score, times))
    return [each.to_json() for each in made]


def _environment(trainer: str, parameters: dict[str, Any]) -> dict[str, str]:
    packages = ("numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx")
    versions = {name: importlib.metadata.version(name) for name in packages}
    chosen = {f"trainer.{name}": str(value) for name, value in parameters.items()}
    return {
        **versions,
        **chosen,
        "trainer": trainer,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }
