import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from setpoint_retraining import testing
from setpoint_retraining.adapters.training_process import TrainingProcess
from setpoint_retraining.training import __main__ as training
from setpoint_retraining.training import fit
from setpoint_retraining.training import table as tables
from setpoint_runtime import errors


def task_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write a small snapshot and return the task of training on it, as JSON values."""
    tables.write_snapshot(testing.snapshot(400), folder / "snapshot.arrow")
    task = fit.Task(
        snapshot=folder / "snapshot.arrow",
        model=folder / "model.onnx",
        scores=folder / "scores.npy",
        inputs=("x", "colour", "y"),
        end=testing.KNOWN_AT,
        holdout=4 * testing.DAY,
        gap=testing.DAY,
        minimum_rows=100,
        trainer="logistic_regression",
        parameters={},
    )
    given = dataclasses.asdict(dataclasses.replace(task, **changes))
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


async def test_train_in_process(tmp_path: Path) -> None:
    """A process of its own trains and hands its result back; nothing else stays in the folder."""
    told = await TrainingProcess(tmp_path / "work", 1).train(task_of(tmp_path))
    assert told["metrics"]["roc_auc"] > 0.7
    assert told["environment"]["threads"] == "1"
    assert (tmp_path / "model.onnx").exists()
    assert list((tmp_path / "work").iterdir()) == []


async def test_train_refusal(tmp_path: Path) -> None:
    """What the training refuses is raised here, with kind and reason."""
    with pytest.raises(errors.FailedPreconditionError, match="labelled rows") as caught:
        await TrainingProcess(tmp_path, 1).train(task_of(tmp_path, minimum_rows=10_000))
    assert caught.value.reason is errors.Reason.NOT_ENOUGH_DATA


async def test_train_dies(tmp_path: Path) -> None:
    """A process that dies is told of with its last words."""
    with pytest.raises(errors.InternalError, match=r"(?s)process died: .*no_such_file"):
        await TrainingProcess(tmp_path, 1).train(
            task_of(tmp_path, snapshot=tmp_path / "no_such_file")
        )


def running(folder: Path) -> list[str]:
    """Return the training processes that work on files of a folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = each.read_text()
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


async def test_train_cancelled(tmp_path: Path) -> None:
    """Cancelling a training ends its process."""
    process = TrainingProcess(tmp_path / "work", 1)
    task = asyncio.create_task(process.train(task_of(tmp_path)))
    async with asyncio.timeout(40):
        while not running(tmp_path):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(tmp_path) == []


def test_main_ends_with_parent(tmp_path: Path) -> None:
    """When standard input closes, the process that asked is gone and the training ends at once."""
    given = tmp_path / "task.json"
    # A pipe that nobody writes to: reading the snapshot never ends.
    pipe = tmp_path / "snapshot.pipe"
    subprocess.run(["mkfifo", str(pipe)], check=True)
    given.write_text(json.dumps(task_of(tmp_path, snapshot=pipe)))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "setpoint_retraining.training",
            str(given),
            str(tmp_path / "r.json"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(40) == training.GAVE_UP
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert not (tmp_path / "r.json").exists()


def test_main_ends_quietly(tmp_path: Path) -> None:
    """A training that is done ends without a word, though its standard input is still open."""
    given = tmp_path / "task.json"
    given.write_text(json.dumps(task_of(tmp_path)))
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "setpoint_retraining.training",
            str(given),
            str(tmp_path / "r.json"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(40) == 0
    assert "result" in json.loads((tmp_path / "r.json").read_text())
