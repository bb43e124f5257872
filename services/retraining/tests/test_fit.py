import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from setpoint_columns import Column, Columns
from setpoint_retraining import testing
from setpoint_retraining.training import fit
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors


def task_of(folder: Path, table: Columns, trainer: str = "logistic_regression") -> fit.Task:
    """Write a snapshot and return the task of training on it."""
    tables.write_snapshot(table, folder / "snapshot.arrow")
    return fit.Task(
        snapshot=folder / "snapshot.arrow",
        model=folder / "model.onnx",
        scores=folder / "scores.npy",
        inputs=("x", "colour", "y"),
        end=testing.KNOWN_AT,
        holdout=4 * testing.DAY,
        gap=testing.DAY,
        minimum_rows=100,
        trainer=trainer,
        parameters={"max_iter": "20"} if trainer == "hist_gradient_boosting" else {},
    )


# skl2onnx hands truth values over as integers, which the protobuf that is pinned still takes.
@pytest.mark.filterwarnings("ignore:Field onnx:DeprecationWarning")
@pytest.mark.parametrize("trainer", ["logistic_regression", "hist_gradient_boosting"])
def test_train_makes_model(tmp_path: Path, trainer: str) -> None:
    """Both trainers learn something, agree with their ONNX form, and tell what they saw."""
    table = testing.snapshot()
    told = fit.train(task_of(tmp_path, table, trainer))
    parts = tables.masks(table, testing.KNOWN_AT, 4 * testing.DAY, testing.DAY)
    assert (told["train_rows"], told["test_rows"]) == (parts.train.sum(), parts.test.sum())
    assert told["metrics"]["roc_auc"] > 0.8
    assert told["parity"]["max_difference"] < fit.PARITY_BOUND
    assert told["parity"]["decision_flips"] == 0
    assert (told["numbers"], told["texts"]) == (["x", "y"], ["colour"])
    profiled = {each["column"]: sum(each["counts"]) for each in told["profiles"]}
    assert profiled == dict.fromkeys(["x", "y", "colour", tables.SCORE], told["train_rows"])
    assert told["environment"]["trainer"] == trainer
    scores = np.load(tmp_path / "scores.npy")
    assert scores.shape == (told["test_rows"],)
    samples = told["samples"]
    assert [len(samples["numbers"]["x"]), len(samples["scores"])] == [fit.SAMPLES] * 2
    assert samples["texts"]["colour"][0] == (table.filter(parts.test)["colour"].item(0) or "")
    assert samples["scores"][0] == scores[0]
    json.dumps(told, allow_nan=False)
    session = onnxruntime.InferenceSession(
        (tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    assert [each.name for each in session.get_inputs()] == ["numbers", "texts"]


def test_train_is_repeatable(tmp_path: Path) -> None:
    """The same snapshot gives the same scores."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        fit.train(task_of(folder, testing.snapshot(400)))
    np.testing.assert_array_equal(np.load(first / "scores.npy"), np.load(second / "scores.npy"))


def test_train_refuses_few_rows(tmp_path: Path) -> None:
    """Fewer rows than the policy wants train nothing."""
    task = dataclasses.replace(task_of(tmp_path, testing.snapshot(200)), minimum_rows=1_000)
    with pytest.raises(errors.FailedPreconditionError, match="at least 1000") as caught:
        fit.train(task)
    assert caught.value.reason is errors.Reason.NOT_ENOUGH_DATA
    assert not task.model.exists()


def test_train_refuses_empty_holdout(tmp_path: Path) -> None:
    """Without hold-out nothing can be measured."""
    task = dataclasses.replace(task_of(tmp_path, testing.snapshot()), end=10**18)
    with pytest.raises(errors.FailedPreconditionError, match="0 held out"):
        fit.train(task)


@pytest.mark.parametrize("part", ["training", "hold-out"])
def test_train_refuses_one_class(tmp_path: Path, part: str) -> None:
    """One class alone, on either side, is nothing to learn from or to measure with."""
    table = testing.snapshot()
    parts = tables.masks(table, testing.KNOWN_AT, 4 * testing.DAY, testing.DAY)
    label = table[tables.LABEL].floats().copy()
    label[parts.train if part == "training" else parts.test] = 1.0
    alone = table.without(tables.LABEL).with_column(Column.from_numpy(tables.LABEL, label))
    with pytest.raises(errors.FailedPreconditionError, match=f"{part} rows have one class"):
        fit.train(task_of(tmp_path, alone))
